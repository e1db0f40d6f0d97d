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


def test_rewards_of_tokens_make_advantages_that_differ_along_an_answer() -> None:
    """A right answer whose second token is in a wrong step, against a wrong one: rewards 2, 1 and 0, 0."""
    group = replace(scored_group(4, rewards=(2.0, 0.0)), token_rewards=((0.0, -1.0), ()))
    flagged, wrong = built([group], "capo_credit", 3).sequences
    # mean (1.5 + 0) / 2, variance ((1.25^2 + 0.25^2) / 2 + 0.75^2) / 2
    assert flagged.advantages == pytest.approx((1.25 / 0.6875**0.5, 0.25 / 0.6875**0.5), abs=1e-5)
    assert wrong.advantages == pytest.approx((-0.75 / 0.6875**0.5,) * 2, abs=1e-5)
    assert (flagged.token_rewards, wrong.token_rewards) == ((0.0, -1.0), ())


def test_rewards_of_tokens_are_a_signal_where_those_of_answers_are_none() -> None:
    alike = scored_group(4, rewards=(1.0, 1.0))
    assert not alike.has_signal
    assert replace(alike, token_rewards=((0.0, -0.5), ())).has_signal
    assert not replace(alike, token_rewards=((0.0, 0.0), ())).has_signal
    assert not replace(alike, token_rewards=((-0.5, -0.5), (-0.5, -0.5))).has_signal


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


def test_a_greedy_answer_is_a_baseline_and_not_in_the_batch() -> None:
    group = replace(scored_group(4, rewards=(1.0, 0.0, 0.5)), greedy=2)
    batch = built([group], "remax", 3)
    assert [s.sequence_id for s in batch.sequences] == ["4/0", "4/1"]
    assert [s.advantages[0] for s in batch.sequences] == [0.5, -0.5]
    assert {s.group_reward for s in batch.sequences} == {0.5}
    assert {s.group_id for s in batch.sequences} == {"4"}


def test_answers_under_budgets_have_prompts_and_subgroups_of_their_own() -> None:
    group = scored_group(4, rewards=(1.0, 0.0, 1.5, 0.5))
    builder = BatchBuilder(
        AlgorithmSettings(advantage="hbpo", advantage_options={"inter": 0.0}),
        prompt_of=lambda group, number: (*group.prompt_ids, number),
        part_of=lambda number: number // 2,
    )
    batch = builder.build([group], 0)
    assert [s.prompt_ids for s in batch.sequences] == [(1, 2, number) for number in range(4)]
    assert [s.advantages[0] for s in batch.sequences] == pytest.approx([1.0, -1.0, 1.0, -1.0])


def test_values_along_an_answer_become_advantages_of_its_tokens() -> None:
    group = replace(scored_group(4, rewards=(1.0, 0.0)), values=(((1, 0.25),), ()))
    batch = built([group], "spo_chain", 0)
    assert [s.advantages for s in batch.sequences] == [(-0.25, 0.75), (-0.5, -0.5)]
    builder = BatchBuilder(AlgorithmSettings(advantage="brpo"), budgets=(1, 2))
    group = replace(group, values=(((1, 0.0),), ((1, 1.0),)))
    # Returns 1/2 and 1/2 of the first, 1/2 and 0 of the second; V1 at the second budget is what was had at the first.
    assert [s.advantages for s in builder.build([group], 0).sequences] == [
        pytest.approx((0.0, 0.5 - 0.25 / 2)),
        pytest.approx((0.0, 0.0 - (0.5 + 0.25) / 2)),
    ]


def test_roles_of_one_game_have_baselines_of_their_own() -> None:
    """SPIRAL's advantage: who moves first wins more, and is held against those who moved first."""
    builder = BatchBuilder(
        AlgorithmSettings(advantage="raw", advantage_norm="task_baseline", advantage_norm_options={"decay": 0.5})
    )

    def play(index: int, role: str, reward: float) -> float:
        group = scored_group(index, rewards=(reward,))
        group = replace(group, prompt=replace(group.prompt, metadata={"task": "kuhn_poker", "role": role}))
        return builder.build([group], 0).sequences[0].advantages[0]

    assert [play(0, "first", 1.0), play(1, "second", -1.0)] == [1.0, -1.0]
    assert [play(2, "first", 1.0), play(3, "second", -1.0)] == [0.5, -0.5]
    assert play(4, "first", 0.0) == -0.75


def test_with_a_critic_each_answer_goes_to_the_learner_with_its_reward_and_how_it_ended() -> None:
    group = scored_group(0, rewards=(1.0, 0.25))
    cut = trajectory("0/1#1", finish_reason="length")
    group = replace(group, trajectories=[group.trajectories[0], cut])
    sequences = built([group], "extended_gae", 2, "batch_whiten").sequences
    assert [(s.reward, s.advantages[0], s.truncated) for s in sequences] == [(1.0, 1.0, False), (0.25, 0.25, True)]
