"""Whole runs in which a user's term rewards parts of answers: their tokens are told apart."""

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from tests.end_to_end.conftest import RunFolder, run

pytestmark = pytest.mark.slow
WriteRecipe = Callable[..., Path]
FLAGS = {"terms": [{"name": "tests.end_to_end.own_rewards:flags_odd_signs", "weight": 2.0}]}


def samples(folder: RunFolder, step: int) -> list[dict[str, object]]:
    lines = (folder.path / "samples" / f"step-{step:06d}.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def metrics(folder: RunFolder) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder.path / "metrics.jsonl").read_text().splitlines()]


def paid(folder: RunFolder) -> list[tuple[list[float], list[float]]]:
    """Rewards and advantages of the tokens of each answer that had some in the first step."""
    return [
        (list(map(float, row["token_rewards"])), list(map(float, row["advantages"])))  # type: ignore[call-overload]
        for row in samples(folder, 1)
        if "token_rewards" in row
    ]


def test_tokens_of_flagged_parts_get_less(write_recipe: WriteRecipe) -> None:
    done = run(write_recipe(reward=FLAGS, algorithm={"advantage": "capo_credit"}, trainer={"steps": 3}))
    assert done.summary["status"] == "completed"
    assert all(0 < row["token_rewards/share"] < 1 and row["token_rewards/spread"] > 0 for row in metrics(done))
    assert all(row["learner/grad_norm"] > 0 for row in metrics(done))
    answers = paid(done)
    assert any(len(set(advantages)) > 1 for _, advantages in answers)
    for rewards, advantages in answers:
        # A weight of 2, and -0.5 a character; a token may hold several.
        assert all(reward <= 0 and reward == int(reward) for reward in rewards)
        for (reward, advantage), (next_reward, next_advantage) in pairwise(zip(rewards, advantages, strict=True)):
            assert (reward < next_reward) == (advantage < next_advantage)


def test_a_critic_takes_them_with_their_tokens(write_recipe: WriteRecipe) -> None:
    recipe = write_recipe(
        reward=FLAGS,
        algorithm={"advantage": "gae", "drop_zero_variance": False, "critic": {"learning_rate": 1.0e-3}},
        trainer={"steps": 3},
        topology={"learner": {"ranks": 2}},
    )
    done = run(recipe)
    assert done.summary["status"] == "completed"
    assert any(len(set(rewards)) > 1 for rewards, _ in paid(done))
    # An answer of 12 tokens pays up to 24 in penalties, and the values begin at 0: the targets are not the rewards.
    assert metrics(done)[0]["learner/value_loss"] > 2 * metrics(done)[0]["reward"]
