"""docs/rewards.md does what it says: its code and its recipes are taken from the page and run."""

import asyncio
import re
from pathlib import Path

import pytest
import yaml

from rewards.asked_terms import AskedTerms
from rewards.compose import Reward
from rewards.models.scripted import ScriptedModels
from rewards.response import Response, Score, SpanReward
from rewards.settings import RewardSettings
from rewards.wire import AskRequest, GroupRequest

PAGE = (Path(__file__).parents[2] / "docs" / "rewards.md").read_text(encoding="utf-8")
CODE = re.compile(r"```python\n# (?P<file>\w+\.py)\n(?P<code>.*?)```", re.DOTALL)
RECIPE = re.compile(r"```yaml\n(?P<text>.*?)```", re.DOTALL)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With the page's files, on the Python path."""
    for block in CODE.finditer(PAGE):
        (tmp_path / block["file"]).write_text(block["code"], encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_a_reward_of_ones_own_is_ten_lines() -> None:
    first = next(CODE.finditer(PAGE))
    assert len(first["code"].strip().splitlines()) <= 10
    score = Reward(RewardSettings.model_validate("my_rewards:brief")).score(Response("s", "q", "it is 72", "72"))
    assert score.total == pytest.approx(1.1)
    assert score.terms == {"brief/right": 1.0, "brief/short": 0.1}


def test_the_function_of_groups_sees_them() -> None:
    whole = Reward(RewardSettings.model_validate({"terms": ["one_box", "my_group_rewards:different"]}))
    answers = [Response("s", "q", text) for text in ("a", "b", "a ")]
    scores = whole.score_group(answers, [whole.score(answer) for answer in answers], {}, {})
    assert [score.total for score in scores] == [0.0, 1.0, 0.0]


def test_the_recipes_of_the_page_can_work() -> None:
    recipes = [yaml.safe_load(block["text"]) for block in RECIPE.finditer(PAGE)]
    assert len(recipes) == 5
    for recipe in recipes:
        settings = RewardSettings.model_validate(recipe["reward"])
        Reward(settings).warm_up()
        asyncio.run(AskedTerms(settings, {}).warm_up())


def test_a_judge_is_ten_lines_and_ones_own_is_asked(folder: Path) -> None:
    judge = next(block["text"] for block in RECIPE.finditer(PAGE) if "judge:" in block["text"])
    assert len(judge.strip().splitlines()) <= 11
    terms = {"terms": ["my_judged_rewards:polite"], "models": {"judge": {"model": "m", "url": "http://host/v1"}}}
    asked = AskedTerms(RewardSettings.model_validate(terms), ScriptedModels(("Rather.\nScore: 4",)))
    given = GroupRequest((Response("s", "q", "please"),), (Score(0.0, {}),), {}, {})
    (score,) = asyncio.run(asked.score(AskRequest(1, "response", given)))
    assert score.total == pytest.approx(0.75)


def test_format_alone_pays_no_mathematics() -> None:
    reward = Reward(RewardSettings.model_validate(yaml.safe_load(RECIPE.findall(PAGE)[-1])["reward"]))
    wrong = reward.score(Response("s", "q", "#### 5", "72"))
    assert (wrong.total, wrong.terms["math"]) == (1.0, 0.0)
    assert reward.score(Response("s", "q", "72", "72")).total == 0.0


def test_the_guess_is_what_costs() -> None:
    reward = Reward(RewardSettings.model_validate("my_steps:no_guessing"))
    score = reward.score(Response("s", "q", "So I guess 72", "72"))
    assert (score.total, score.spans) == (1.0, (SpanReward(3, 10, -0.5),))
    assert reward.score(Response("s", "q", "So 72", "72")).spans == ()
