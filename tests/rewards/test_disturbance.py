"""Rewards that are wrong on purpose."""

import pytest

from rewards.compose import Reward
from rewards.disturbance import disturbed
from rewards.response import Response
from rewards.settings import RewardSettings

NAMES = [f"p{number}/0" for number in range(10_000)]


def test_rate_0_is_the_truth_and_rate_1_its_inverse() -> None:
    assert all(disturbed(reward, "a", kind="flip", rate=0.0) == reward for reward in (0.0, 0.3, 1.0))
    assert [disturbed(reward, "a", kind="flip", rate=1.0) for reward in (0.0, 0.25, 1.0)] == [1.0, 0.75, 0.0]
    assert disturbed(1.0, "a", kind="flip", rate=1.0, low=-1.0) == -1.0


def test_the_share_of_flipped_rewards_is_the_rate() -> None:
    flipped = sum(disturbed(1.0, name, kind="flip", rate=0.4) == 0.0 for name in NAMES)
    assert abs(flipped - 4000) < 4 * (10_000 * 0.4 * 0.6) ** 0.5


def test_a_random_reward_does_not_look_at_the_truth() -> None:
    drawn = [disturbed(1.0, name, kind="random", rate=1.0) for name in NAMES]
    assert drawn == [disturbed(0.0, name, kind="random", rate=1.0) for name in NAMES]
    assert abs(sum(drawn) - 5000) < 4 * 50


def test_the_name_and_the_seed_decide() -> None:
    once = [disturbed(1.0, name, kind="flip", rate=0.5) for name in NAMES]
    assert once == [disturbed(1.0, name, kind="flip", rate=0.5) for name in NAMES]
    assert once != [disturbed(1.0, name, kind="flip", rate=0.5, seed=1) for name in NAMES]


def reward(disturb: dict[str, object]) -> Reward:
    terms = [{"name": "format", "options": {"pattern": "a"}}]
    return Reward(RewardSettings.model_validate({"terms": terms, "disturb": disturb}))


def test_the_reward_is_disturbed_and_the_terms_stay_true() -> None:
    score = reward({"kind": "flip"}).score(Response("s/0", "q", "a"))
    assert (score.total, score.terms) == (0.0, {"format": 1.0})


@pytest.mark.parametrize(("per", "kinds"), [("answer", 2), ("prompt", 1)])
def test_a_prompts_answers_are_disturbed_each_or_together(per: str, kinds: int) -> None:
    disturb = reward({"kind": "flip", "rate": 0.5, "per": per})
    totals = {disturb.score(Response(f"row1@2/{n}", "q", "a", prompt_id="row1@2")).total for n in range(40)}
    assert len(totals) == kinds
    if per == "prompt":
        again = disturb.score(Response("row1@7/3", "q", "a", prompt_id="row1@7")).total
        assert {again} == totals, "the same in every epoch"


def test_an_answer_that_could_not_be_scored_keeps_the_fallback() -> None:
    terms = [{"name": "math"}]
    settings = RewardSettings.model_validate({"terms": terms, "disturb": {"kind": "flip"}, "fallback": -3.0})
    assert Reward(settings).score(Response("s", "q", "5")).total == -3.0
