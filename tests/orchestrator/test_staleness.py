"""The admission rule and the buffer: no interleaving makes a batch too stale, too small or out of order."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.buffer import GroupBuffer
from orchestrator.staleness import StalenessRule
from tests.orchestrator.builders import scored_group


def test_capacity_is_the_published_rule() -> None:
    rule = StalenessRule(batch=4, max_staleness=2, max_concurrent=100)
    # min(100 - 3, (2 + 1 + 1) * 4 - (5 + 3)) = 8
    assert rule.capacity(version=1, accepted=5, running=3) == 8


def test_capacity_is_bounded_by_concurrency() -> None:
    assert StalenessRule(batch=4, max_staleness=2, max_concurrent=5).capacity(version=1, accepted=0, running=3) == 2


def test_capacity_is_never_negative() -> None:
    assert StalenessRule(batch=4, max_staleness=0, max_concurrent=9).capacity(version=0, accepted=4, running=3) == 0


def test_synchronous_admits_exactly_one_batch_per_version() -> None:
    rule = StalenessRule(batch=4, max_staleness=0, max_concurrent=100)
    assert rule.capacity(version=0, accepted=0, running=0) == 4
    assert rule.capacity(version=0, accepted=4, running=0) == 0
    assert rule.capacity(version=1, accepted=4, running=0) == 4


def test_buffer_gives_the_oldest_first() -> None:
    buffer = GroupBuffer(StalenessRule(batch=2, max_staleness=5, max_concurrent=9))
    for index in (3, 0, 2):
        buffer.put(scored_group(index))
    batch = buffer.take(version=0, in_flight_versions=())
    assert batch is not None
    assert [group.index for group in batch] == [0, 2]
    assert len(buffer) == 1


def test_buffer_waits_for_a_group_that_would_become_too_stale() -> None:
    buffer = GroupBuffer(StalenessRule(batch=1, max_staleness=1, max_concurrent=9))
    buffer.put(scored_group(7, admitted_version=1))
    assert buffer.take(version=1, in_flight_versions=(0,)) is None, "a group of version 0 must be trained at version 1"
    assert buffer.take(version=1, in_flight_versions=(1,)) is not None


def test_buffer_looks_further_ahead_than_the_next_batch() -> None:
    rule = StalenessRule(batch=1, max_staleness=2, max_concurrent=9)
    # Both of version 0 are trained at version 2 at the latest, one batch each: they need versions 1 and 2.
    assert rule.leaves_time_for((0, 0), version=0)
    assert not rule.leaves_time_for((0, 0, 0), version=0)
    assert not rule.leaves_time_for((0, 0), version=1)


def test_buffer_refuses_a_group_twice() -> None:
    buffer = GroupBuffer(StalenessRule(batch=2, max_staleness=5, max_concurrent=9))
    buffer.put(scored_group(1))
    with pytest.raises(ValueError, match="group 1"):
        buffer.put(scored_group(1))


@settings(max_examples=150, deadline=None)
@given(
    batch=st.integers(1, 6),
    max_staleness=st.integers(0, 4),
    max_concurrent=st.integers(1, 40),
    sync_lag=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_no_interleaving_exceeds_the_bound(
    batch: int, max_staleness: int, max_concurrent: int, sync_lag: bool, seed: int
) -> None:
    """Groups finish in any order, some are filtered, engines may lag one version behind the learner."""
    rule = StalenessRule(batch, max_staleness, max_concurrent)
    buffer, chance = GroupBuffer(rule), random.Random(seed)
    in_flight: dict[int, int] = {}
    drawn = learner_version = engine_version = 0
    for _ in range(400):
        for _ in range(rule.capacity(version=engine_version, accepted=buffer.accepted, running=len(in_flight))):
            in_flight[drawn] = engine_version
            drawn += 1
        assert len(in_flight) <= max_concurrent
        taken = buffer.take(version=learner_version, in_flight_versions=in_flight.values())
        if taken is not None:
            assert len(taken) == batch
            assert max(learner_version - group.admitted_version for group in taken) <= max_staleness
            learner_version += 1
        if not sync_lag or chance.random() < 0.5:
            engine_version = learner_version
        if in_flight:
            index = chance.choice(list(in_flight))
            admitted = in_flight.pop(index)
            if chance.random() < 0.8:
                buffer.put(scored_group(index, admitted_version=admitted))
    assert learner_version > 0, "the schedule must make progress"
