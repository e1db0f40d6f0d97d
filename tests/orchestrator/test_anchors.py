"""Worked solutions that join a group: which, when, and what is trained of them."""

import math
from dataclasses import replace

import pytest

from actors.settings import AnchorSettings
from learners.settings import AlgorithmSettings
from orchestrator.anchors import Anchors
from orchestrator.batch_builder import BatchBuilder
from orchestrator.policies.group_filters import filters_of, passed
from orchestrator.policies.groups import ScoredGroup
from rewards.response import Score
from tests.orchestrator.builders import prompt, scored_group


def anchors(**settings: object) -> Anchors:
    return Anchors(
        AnchorSettings.model_validate({"solution": "worked", **settings}),
        lambda text: (*map(ord, text), 0),
        most_tokens=4,
    )


def test_a_solution_becomes_an_answer_whose_logprobs_nobody_knows() -> None:
    asked = replace(prompt(3), metadata={"worked": "abc"})
    found = anchors().of(asked, 5)
    assert found is not None
    assert found.completion.token_ids == (97, 98, 99, 0)
    assert found.completion.versions == (5,) * 4
    assert all(math.isnan(value) for value in found.completion.logprobs)
    assert anchors().of(replace(asked, metadata={"worked": "abcd"}), 5) is None
    assert anchors().of(replace(asked, metadata={"worked": " "}), 5) is None


@pytest.mark.parametrize(
    ("when", "reward", "rewards", "joins"),
    [
        ("none_right", 1.0, (0.0, 0.0), True),
        ("none_right", 1.0, (0.0, 1.0), False),
        ("none_right", 0.0, (0.0, 0.0), False),
        ("always", 1.0, (0.0, 1.0), True),
        ("always", 0.5, (0.0, 0.0), False),
    ],
)
def test_a_right_solution_joins_where_it_is_wanted(
    when: str, reward: float, rewards: tuple[float, ...], joins: bool
) -> None:
    assert anchors(when=when).joins(reward, rewards) == joins


def anchored() -> ScoredGroup:
    group = scored_group(4, rewards=(0.0, 0.0))
    solution = anchors().of(replace(prompt(4), metadata={"worked": "ab"}), 0)
    assert solution is not None
    return replace(
        group,
        trajectories=(*group.trajectories, solution),
        scores=(*group.scores, Score(1.0, {"math": 1.0})),
        foreign=frozenset({2}),
    )


def test_an_anchor_counts_in_the_baseline_and_is_marked_as_foreign() -> None:
    batch = BatchBuilder(AlgorithmSettings(advantage="dr_grpo")).build([anchored()], 0)
    assert [s.advantages[0] for s in batch.sequences] == pytest.approx([-1 / 3, -1 / 3, 2 / 3])
    assert [s.off_policy for s in batch.sequences] == [(), (), (True, True, True)]
    assert batch.sequences[2].loss_tokens == 3


def test_filters_judge_the_policys_own_answers() -> None:
    group = anchored()
    assert (group.compared, group.sampled, group.has_signal) == ((0, 1, 2), (0, 1), True)
    steps = filters_of(AlgorithmSettings.model_validate({"group_filters": [{"name": "solve_rate"}]}))
    assert passed(group, steps) is None
