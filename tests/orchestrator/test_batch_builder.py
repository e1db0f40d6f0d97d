"""From scored groups to training sequences: order, advantages, versions and masks."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from learners.batch import TrainBatch
from learners.settings import AlgorithmSettings
from orchestrator.batch_builder import BatchBuilder
from orchestrator.policies.groups import ScoredGroup
from tests.orchestrator.builders import scored_group, trajectory


def built(groups: Sequence[ScoredGroup], advantage: str, version: int, norm: str = "none") -> TrainBatch:
    return BatchBuilder(AlgorithmSettings(advantage=advantage, advantage_norm=norm)).build(groups, version)


def test_each_answer_becomes_one_sequence_in_order() -> None:
    batch = built([scored_group(4), scored_group(9)], "dr_grpo", 3)
    assert [s.sequence_id for s in batch.sequences] == ["4/0", "4/1", "9/0", "9/1"]
    assert batch.version == 3
    # Rewards 1 and 0 about their mean of 0.5.
    assert [s.advantages[0] for s in batch.sequences] == [0.5, -0.5, 0.5, -0.5]
    assert batch.loss_tokens == 8


def test_a_masked_answer_counts_in_the_baseline_and_takes_no_loss() -> None:
    group = replace(scored_group(4, rewards=(1.0, 0.0, 0.5)), masked=frozenset({0}))
    batch = built([group], "dr_grpo", 3)
    assert [s.advantages[0] for s in batch.sequences] == [0.5, -0.5, 0.0]
    assert [s.loss_tokens for s in batch.sequences] == [0, 2, 2]


def test_versions_and_logprobs_follow_the_tokens() -> None:
    group = scored_group(0)
    mixed = trajectory("0/0#1", versions=(0, 0, 2))
    group = type(group)(0, group.prompt, (1, 2), 0, [mixed, group.trajectories[1]], group.scores)
    first = built([group], "grpo", 2).sequences[0]
    assert first.versions == (0, 0, 2)
    assert first.response_ids == (5, 5, 7)
    assert first.behaviour_logprobs == (-0.5, -0.5, -0.5)
    assert first.advantages == pytest.approx((1.0, 1.0, 1.0), abs=1e-5)


def test_rewards_travel_beside_the_advantages() -> None:
    first = built([scored_group(4, rewards=(1.0, 0.0, 0.5))], "dr_grpo", 3).sequences
    assert [s.reward for s in first] == [1.0, 0.0, 0.5]
    assert {s.group_reward for s in first} == {0.5}


def test_a_norm_sees_all_groups_of_the_batch() -> None:
    groups = [scored_group(4, rewards=(3.0, 1.0)), scored_group(5, rewards=(0.0, 0.0))]
    batch = built(groups, "dr_grpo", 0, "batch_std")
    # Advantages 1, -1, 0, 0: standard deviation sqrt(1 / 2).
    assert [s.advantages[0] for s in batch.sequences] == pytest.approx([2**0.5, -(2**0.5), 0, 0], rel=1e-5)


def test_the_norms_state_lives_from_batch_to_batch() -> None:
    builder = BatchBuilder(AlgorithmSettings(advantage="raw", advantage_norm="task_baseline"))
    first = builder.build([scored_group(0, rewards=(1.0, 1.0))], 0)
    second = builder.build([scored_group(1, rewards=(1.0, 1.0))], 1)
    assert [batch.sequences[0].advantages[0] for batch in (first, second)] == pytest.approx([1.0, 0.95])
