"""From scored groups to training sequences: order, advantages, versions and masks."""

from dataclasses import replace

import pytest

from orchestrator.batch_builder import build_batch
from tests.orchestrator.builders import scored_group, trajectory


def test_each_answer_becomes_one_sequence_in_order() -> None:
    batch = build_batch([scored_group(4), scored_group(9)], advantage="dr_grpo", version=3)
    assert [s.sequence_id for s in batch.sequences] == ["4/0", "4/1", "9/0", "9/1"]
    assert batch.version == 3
    # Rewards 1 and 0 about their mean of 0.5.
    assert [s.advantages[0] for s in batch.sequences] == [0.5, -0.5, 0.5, -0.5]
    assert batch.loss_tokens == 8


def test_a_masked_answer_counts_in_the_baseline_and_takes_no_loss() -> None:
    group = replace(scored_group(4, rewards=(1.0, 0.0, 0.5)), masked=frozenset({0}))
    batch = build_batch([group], advantage="dr_grpo", version=3)
    assert [s.advantages[0] for s in batch.sequences] == [0.5, -0.5, 0.0]
    assert [s.loss_tokens for s in batch.sequences] == [0, 2, 2]


def test_versions_and_logprobs_follow_the_tokens() -> None:
    group = scored_group(0)
    mixed = trajectory("0/0#1", versions=(0, 0, 2))
    group = type(group)(0, group.prompt, (1, 2), 0, [mixed, group.trajectories[1]], group.scores)
    first = build_batch([group], advantage="grpo", version=2).sequences[0]
    assert first.versions == (0, 0, 2)
    assert first.response_ids == (5, 5, 7)
    assert first.behaviour_logprobs == (-0.5, -0.5, -0.5)
    assert first.advantages == pytest.approx((1.0, 1.0, 1.0), abs=1e-5)
