"""The drafter is trained when its acceptance fell, and not because time passed."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.drafting.decay import POLICIES, Always, DecayRules, Never, OnDecay


def _feed(policy: OnDecay, share: float, drafts: int, seed: int = 0) -> None:
    source = random.Random(seed)
    for _ in range(drafts // 50):
        policy.observe(50, sum(source.random() < share for _ in range(50)))


def test_a_steady_drafter_is_never_trained() -> None:
    policy = OnDecay(DecayRules())
    _feed(policy, 0.6, 500_000)
    verdict = policy.judge(1e9)
    assert not verdict.train
    assert policy.average == pytest.approx(0.6, abs=0.05)


def test_a_fall_beyond_delta_calls_for_training_once_per_gap() -> None:
    policy = OnDecay(DecayRules(delta=0.05, least_gap_s=60))
    _feed(policy, 0.7, 20_000)
    _feed(policy, 0.55, 20_000)
    verdict = policy.judge(1000.0)
    assert verdict.train
    assert "best 0." in verdict.reason
    assert "floor" in verdict.reason
    policy.began(1000.0)
    assert not policy.judge(1059.0).train
    assert "59 s ago" in policy.judge(1059.0).reason
    assert policy.judge(1060.0).train


@pytest.mark.parametrize(("relative", "level", "train"), [(False, 0.17, False), (True, 0.17, True)])
def test_delta_may_be_a_share_of_the_best(relative: bool, level: float, train: bool) -> None:
    policy = OnDecay(DecayRules(delta=0.1, relative=relative))
    _feed(policy, 0.22, 20_000)
    _feed(policy, level, 20_000)
    assert policy.judge(1e6).train is train


def test_a_level_that_training_cannot_bring_back_does_not_ask_again() -> None:
    policy = OnDecay(DecayRules())
    _feed(policy, 0.8, 20_000)
    _feed(policy, 0.5, 20_000)
    assert policy.judge(0.0).train
    policy.began(0.0)
    policy.published()
    assert policy.average is None
    _feed(policy, 0.5, 1000)
    assert "1000 of 2000 drafts" in policy.judge(1e6).reason
    _feed(policy, 0.5, 50_000)
    assert not policy.judge(1e6).train


@given(st.lists(st.tuples(st.integers(0, 500), st.floats(0, 1)), max_size=60))
def test_before_enough_drafts_there_is_no_verdict_and_the_average_is_a_share(steps: list[tuple[int, float]]) -> None:
    policy, seen = OnDecay(DecayRules(memory=2000)), 0
    for drafts, share in steps:
        policy.observe(drafts, round(share * drafts))
        seen += drafts
        assert policy.average is None or 0 <= policy.average <= 1
        assert seen >= 2000 or not policy.judge(1e9).train


def test_time_alone_changes_nothing_but_for_the_policy_that_always_trains() -> None:
    rules = DecayRules(least_gap_s=10)
    assert not Never(rules).judge(1e9).train
    always = Always(rules)
    assert always.judge(0.0).train
    always.began(0.0)
    assert [always.judge(now).train for now in (9.0, 10.0)] == [False, True]
    assert POLICIES.names() == ["always", "decay", "never"]


def test_rules_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="delta"):
        DecayRules(delta=0.0)
