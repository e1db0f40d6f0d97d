"""Advantages along an answer, by hand and from what they reduce to."""

import pytest

from learners.advantages import TRACE_ADVANTAGES, GroupRewards, Trace, TracedGroup
from learners.advantages.baselines import dr_grpo, grpo
from learners.advantages.traces import brpo, capo_credit, spo_chain
from learners.options import options_of


def test_a_segment_has_what_it_adds_to_the_value() -> None:
    # V(prompt) = 0.5; the first answer goes 0.5 -> 0.25 -> 0.75 -> 1.
    group = TracedGroup((Trace(6, 1.0, (2, 3), (0.25, 0.75)), Trace(2, 0.0)))
    first, second = spo_chain(group)
    assert first == pytest.approx((-0.25, -0.25, 0.5, 0.25, 0.25, 0.25))
    assert second == (-0.5, -0.5)


def test_segments_telescope_to_the_outcome() -> None:
    traces = (Trace(9, 1.0, (2, 5, 8), (0.3, 0.9, 0.1)), Trace(7, 0.0, (4,), (0.6,)), Trace(4, 0.5))
    for trace, advantages in zip(traces, spo_chain(TracedGroup(traces)), strict=True):
        assert len(advantages) == trace.length
        bounds = (0, *trace.cuts)
        assert sum(advantages[begin] for begin in bounds) == pytest.approx(trace.reward - 0.5)


@pytest.mark.parametrize("rewards", [(1.0, 0.0, 0.0, 0.0), (0.2, 0.9, 0.4)])
def test_without_cuts_both_are_dr_grpo(rewards: tuple[float, ...]) -> None:
    traces = tuple(Trace(length, reward) for length, reward in enumerate(rewards, start=1))
    expected = dr_grpo(GroupRewards(rewards))
    for advantages in (spo_chain(TracedGroup(traces)), brpo(TracedGroup(traces, (len(rewards),)))):
        for trace, along, advantage in zip(traces, advantages, expected, strict=True):
            assert along == pytest.approx((advantage,) * trace.length)


def test_the_return_of_a_token_counts_the_budgets_behind_it() -> None:
    # Budgets 1, 2, 4; the trace has 0, 1, 1 there: returns 2/3, 2/3, 1/3. The other trace has 0 everywhere.
    group = TracedGroup((Trace(4, 1.0, (1, 2), (0.0, 1.0)), Trace(4, 0.0, (1, 2), (0.0, 0.0))), (1, 2, 4))
    first, second = brpo(group)
    # Baselines: V2 is half of each return. j = 1: V2. j = 2: V1 = 0, (0 + 2 V2) / 3. j = 3: V1 = 1/2 of the chance 1/3.
    expected = [2 / 3 - 1 / 3, 2 / 3 - 2 * (1 / 3) / 3, 1 / 3 - (2 * (1 / 2) * (1 / 3) + 1 / 6) / 3]
    assert first == pytest.approx((expected[0], expected[1], expected[2], expected[2]))
    assert second == pytest.approx((-1 / 3, -2 / 9, -1 / 18, -1 / 18))


def test_the_prior_and_the_decay() -> None:
    group = TracedGroup((Trace(4, 1.0, (1, 2), (1.0, 0.0)), Trace(4, 1.0, (1, 2), (0.0, 0.0))), (1, 2, 4))
    # All on the last budget: both have a return of 1 everywhere; V1 of the first at j = 2 is 1, at j = 3 the mean 1/2.
    assert brpo(group, prior="base")[0] == pytest.approx((0.0, 0.0, 1 / 3, 1 / 3))
    # With decay 1/2 the newer 0 counts twice the older 1: V1 = 1/3.
    assert brpo(group, prior="base", decay=0.5)[0][3] == pytest.approx(1 - (2 / 3 + 1) / 3)
    # Linear: chances 1/7, 2/7, 4/7; returns 5/7 and 4/7 at the first budget.
    assert brpo(group, prior="linear")[0][0] == pytest.approx(5 / 7 - 4.5 / 7)
    with pytest.raises(ValueError, match="decay=0"):
        brpo(group, decay=0)


def test_a_short_trace_has_its_reward_at_the_budgets_behind_its_end() -> None:
    group = TracedGroup((Trace(2, 1.0), Trace(5, 0.0, (3,), (1.0,))), (3, 8))
    first, second = brpo(group)
    assert first == pytest.approx((1 - 0.75,) * 2)
    assert second[:3] == pytest.approx((0.5 - 0.75,) * 3)
    # Behind budget 3: V1 = 1 x 1/2, V2 = (1/2 + 0) / 2.
    assert second[3:] == pytest.approx((0 - (0.5 + 0.25) / 2,) * 2)


def test_a_trace_that_was_not_cut_where_it_should_be_is_refused() -> None:
    with pytest.raises(ValueError, match="not cut at its budget of 3"):
        brpo(TracedGroup((Trace(5, 0.0),), (3, 8)))
    for cuts, values in (((0,), (1.0,)), ((5,), (1.0,)), ((3, 2), (1.0, 1.0))):
        with pytest.raises(ValueError, match="must ascend"):
            Trace(5, 0.0, cuts, values)
    with pytest.raises(ValueError, match="2 values for 1 cuts"):
        Trace(5, 0.0, (1,), (1.0, 2.0))


def test_a_wrong_step_costs_its_tokens_alone() -> None:
    """Rewards 2, 2, 1, 1 (right, its second half wrong at W_process = 1) and 0, 0: each answer weighs a half."""
    right = Trace(4, 2.0, token_rewards=(0.0, 0.0, -1.0, -1.0))
    wrong = Trace(2, 0.0)
    first, second = capo_credit(TracedGroup((right, wrong)), eps=0.0)
    # mean (1.5 + 0) / 2 = 0.75, variance ((1.25^2 + 0.25^2) / 2 + 0.75^2) / 2 = 0.6875
    spread = 0.6875**0.5
    assert first == pytest.approx([1.25 / spread, 1.25 / spread, 0.25 / spread, 0.25 / spread])
    assert second == pytest.approx([-0.75 / spread] * 2)


def test_every_token_may_weigh_the_same() -> None:
    """Rewards 1 and 0, 0, 0: mean 1/4 and variance 3/16 over the tokens."""
    group = TracedGroup((Trace(1, 1.0), Trace(3, 0.0)))
    first, second = capo_credit(group, weigh="tokens", eps=0.0)
    assert first == pytest.approx([0.75 / (3 / 16) ** 0.5])
    assert second == pytest.approx([-0.25 / (3 / 16) ** 0.5] * 3)


@pytest.mark.parametrize("rewards", [(1.0, 0.0, 0.0), (0.1, 0.2, 0.7, 0.3), (2.0, 2.0)])
@pytest.mark.parametrize("said", [(), (0.0,) * 7])
def test_without_a_flagged_step_it_is_the_outcome_advantage(
    rewards: tuple[float, ...], said: tuple[float, ...]
) -> None:
    traces = tuple(Trace(7 if said else 3 + place, reward, token_rewards=said) for place, reward in enumerate(rewards))
    plain = grpo(GroupRewards(rewards))
    for trace, along, whole in zip(traces, capo_credit(TracedGroup(traces)), plain, strict=True):
        assert along == pytest.approx((whole,) * trace.length, abs=1e-9)


def test_a_flagged_step_in_a_group_of_right_answers_is_a_signal() -> None:
    flagged = Trace(2, 1.0, token_rewards=(0.0, -1.0))
    first, second = capo_credit(TracedGroup((flagged, Trace(2, 1.0))))
    assert first[1] < 0 < first[0] == pytest.approx(second[0])


def test_rewards_of_tokens_are_as_many_as_tokens() -> None:
    with pytest.raises(ValueError, match="2 rewards for 3 tokens"):
        Trace(3, 0.0, token_rewards=(1.0, 0.0))


@pytest.mark.parametrize("name", TRACE_ADVANTAGES.names())
def test_every_estimator_names_its_paper_and_its_options(name: str) -> None:
    doc = TRACE_ADVANTAGES[name].__doc__ or ""
    assert "arXiv" in doc
    assert all(option in doc for option in options_of(TRACE_ADVANTAGES[name]))
