"""The runs of docs/rewards.md whose rewards are wrong on purpose: recipes that can work, and wrong as the page says."""

import re
import shlex
from pathlib import Path

import pytest

from orchestrator.config import Recipe
from orchestrator.recipe import load_recipe
from rewards.compose import Reward
from rewards.response import Response

PAGE = (Path(__file__).parents[2] / "docs" / "rewards.md").read_text(encoding="utf-8")
COMMAND = re.compile(r"^paceline train quickstart (?P<overrides>\S.*)$", re.MULTILINE)
OVERRIDES = [shlex.split(match["overrides"], comments=True) for match in COMMAND.finditer(PAGE)]


@pytest.fixture(params=range(len(OVERRIDES)), ids=[overrides[0] for overrides in OVERRIDES])
def recipe(request: pytest.FixtureRequest) -> Recipe:
    return load_recipe("quickstart", OVERRIDES[request.param])


def test_each_contradiction_is_a_recipe(recipe: Recipe) -> None:
    assert len(OVERRIDES) == 5
    Reward(recipe.reward)
    assert recipe != load_recipe("quickstart")


def test_what_they_pay() -> None:
    """Shares of 400 right answers, without the marker, that are paid; and of 400 wrong ones with it."""
    recipes = [load_recipe("quickstart", overrides) for overrides in OVERRIDES]
    flipped, inverted, random, form, one = [Reward(recipe.reward) for recipe in recipes]
    entry = {"question": "1 + 1 =", "answer": "2", "metadata": {}}
    metadata = {"task": "chain_sum", "entry": entry}

    def share(reward: Reward, text: str) -> float:
        seen = [Response(f"p{n}/0", "1 + 1 =", text, "2", metadata, prompt_id=f"p{n}") for n in range(400)]
        return sum(reward.score(response).total >= 1.0 for response in seen) / 400

    assert (share(one, "2"), share(one, "#### 3")) == (1.0, 0.0)
    assert share(flipped, "2") == pytest.approx(0.6, abs=0.07)
    assert share(flipped, "#### 3") > 0.25
    assert share(inverted, "2") == 0.0
    assert share(random, "2") == pytest.approx(0.5, abs=0.07)
    assert (share(form, "2"), share(form, "#### 3")) == (0.0, 1.0)
    assert recipes[-1].data.train_size == 1
