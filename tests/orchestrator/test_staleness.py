"""The admission rule and the buffer: what may start, and what may leave."""

import pytest

from orchestrator.policies.buffer import GroupBuffer
from orchestrator.policies.staleness import StalenessRule
from tests.orchestrator.builders import scored_group


def test_capacity_is_the_published_rule() -> None:
    rule = StalenessRule(batch=4, max_staleness=2)
    # (2 + 1 + 1) * 4 - (5 + 3) = 8
    assert rule.capacity(version=1, accepted=5, running=3) == 8


def test_capacity_is_never_negative() -> None:
    assert StalenessRule(batch=4, max_staleness=0).capacity(version=0, accepted=4, running=3) == 0


def test_synchronous_admits_exactly_one_batch_per_version() -> None:
    rule = StalenessRule(batch=4, max_staleness=0)
    assert rule.capacity(version=0, accepted=0, running=0) == 4
    assert rule.capacity(version=0, accepted=4, running=0) == 0
    assert rule.capacity(version=1, accepted=4, running=0) == 4


def test_groups_leave_in_time_one_batch_per_version() -> None:
    rule = StalenessRule(batch=1, max_staleness=2)
    # Those of version 0 are trained at version 2 at the latest, one batch each: they need versions 1 and 2.
    assert rule.leaves_time_for({0: 2}, version=0)
    assert not rule.leaves_time_for({0: 3}, version=0)
    assert not rule.leaves_time_for({0: 2}, version=1)


def test_empty_places_of_the_batch_count_for_the_others() -> None:
    rule = StalenessRule(batch=4, max_staleness=0)
    assert rule.leaves_time_for({3: 2}, version=3, places=2), "both still find a place in the batch of version 3"
    assert not rule.leaves_time_for({3: 2}, version=3, places=1)


def take(buffer: GroupBuffer, version: int, count: int, others: dict[int, int] | None) -> list[int] | None:
    taken = buffer.take(version=version, least=count, most=count, others=others)
    return None if taken is None else [group.index for group in taken]


def test_buffer_gives_the_oldest_first() -> None:
    buffer = GroupBuffer(StalenessRule(batch=2, max_staleness=5))
    for index in (3, 0, 2):
        buffer.put(scored_group(index))
    assert take(buffer, 0, 2, {}) == [0, 2]
    assert len(buffer) == 1


def test_buffer_goes_by_age_where_a_group_was_started_afresh() -> None:
    buffer = GroupBuffer(StalenessRule(batch=1, max_staleness=1))
    buffer.put(scored_group(5, admitted_version=2))
    buffer.put(scored_group(6, admitted_version=1))
    assert take(buffer, 2, 1, {}) == [6], "group 5 was set aside without a token and admitted again at version 2"


def test_buffer_waits_for_a_group_that_would_become_too_stale() -> None:
    buffer = GroupBuffer(StalenessRule(batch=1, max_staleness=1))
    buffer.put(scored_group(7, admitted_version=1))
    assert take(buffer, 1, 1, {0: 1}) is None, "a group of version 0 must be trained at version 1"
    assert take(buffer, 1, 1, {1: 1}) == [7]


def test_buffer_waits_for_nobody_where_late_groups_are_dealt_with_otherwise() -> None:
    buffer = GroupBuffer(StalenessRule(batch=1, max_staleness=0))
    buffer.put(scored_group(7, admitted_version=1))
    assert take(buffer, 1, 1, None) == [7]


def test_a_part_leaves_where_the_whole_would_take_an_older_groups_place() -> None:
    buffer = GroupBuffer(StalenessRule(batch=3, max_staleness=1))
    for index, admitted in ((1, 0), (2, 0), (3, 1)):
        buffer.put(scored_group(index, admitted_version=admitted))
    taken = buffer.take(version=1, least=1, most=3, others={0: 1})
    assert taken is not None
    assert [group.index for group in taken] == [1, 2], "group 0 runs still and needs the third place"


def test_buffer_refuses_a_group_twice() -> None:
    buffer = GroupBuffer(StalenessRule(batch=2, max_staleness=5))
    buffer.put(scored_group(1))
    with pytest.raises(ValueError, match="group 1"):
        buffer.put(scored_group(1))
