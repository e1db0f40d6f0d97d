"""The version that counts: what every engine serves, but a slow one holds the others up for a bounded time only."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.policies.version_quorum import VersionQuorum

EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["join", "leave", "sync", "look"]),
        st.sampled_from("abcd"),
        st.integers(0, 3),
        st.floats(0, 30),
        st.floats(0, 10),
    ),
    max_size=60,
)
"""What happens, to whom, by how many versions, seconds since the event before, and seconds of the sync."""


def quorum_of(*names: str, version: int = 0, patience: float = 3.0, floor_s: float = 5.0) -> VersionQuorum:
    quorum = VersionQuorum(patience, floor_s)
    for name in names:
        quorum.joined(name, version, 0)
    return quorum


def test_a_version_counts_when_every_engine_serves_it() -> None:
    quorum = quorum_of("a", "b")
    quorum.synced("a", 1, seconds=2, now=10)
    assert quorum.version(10) == 0
    quorum.synced("b", 1, seconds=2, now=11)
    assert quorum.version(11) == 1
    assert quorum.laggards(11) == ()


def test_a_laggard_is_waited_for_in_proportion_to_the_others_and_then_not() -> None:
    quorum = quorum_of("a", "b", "slow")
    quorum.synced("a", 1, seconds=4, now=10)
    quorum.synced("b", 1, seconds=6, now=12)
    assert quorum.version(25) == 0, "3 * median(4, 6) s since the first served it"
    assert quorum.laggards(25) == ()
    assert quorum.version(25.1) == 1
    assert quorum.laggards(25.1) == ("slow",)


def test_the_floor_protects_from_noise_in_fast_syncs() -> None:
    quorum = quorum_of("a", "slow", floor_s=5)
    quorum.synced("a", 1, seconds=0.1, now=10)
    assert quorum.version(15) == 0
    assert quorum.version(15.1) == 1


def test_a_laggard_counts_again_when_it_has_caught_up() -> None:
    quorum = quorum_of("a", "slow", floor_s=5)
    quorum.synced("a", 1, seconds=1, now=10)
    quorum.synced("a", 2, seconds=1, now=11)
    assert quorum.version(20) == 2
    quorum.synced("slow", 1, seconds=9, now=20)
    assert quorum.laggards(20) == ("slow",)
    assert quorum.version(20) == 2, "what counts does not go back for it"
    quorum.synced("slow", 2, seconds=9, now=21)
    assert quorum.laggards(21) == ()
    quorum.synced("a", 3, seconds=1, now=22)
    assert quorum.version(24) == 2, "it is waited for again"


def test_an_engine_that_keeps_pace_one_version_behind_is_no_laggard() -> None:
    quorum = quorum_of("a", "behind", floor_s=5)
    for version in range(1, 9):
        quorum.synced("a", version, seconds=1, now=4 * version)
        quorum.synced("behind", version - 1, seconds=1, now=4 * version + 1)
        assert quorum.version(4 * version + 1) == version - 1


def test_a_lone_engine_counts_however_slow() -> None:
    quorum = quorum_of("a")
    quorum.synced("a", 1, seconds=500, now=1000)
    assert quorum.version(1000) == 1


def test_a_new_engine_with_old_weights_holds_up_nobody() -> None:
    quorum = quorum_of("a")
    quorum.synced("a", 3, seconds=1, now=10)
    quorum.joined("new", 0, now=50)
    assert quorum.version(50) == 3
    assert quorum.laggards(50) == ("new",)
    quorum.synced("new", 3, seconds=1, now=51)
    assert quorum.laggards(51) == ()


def test_after_the_last_engine_the_version_stands_until_another_begins_anew() -> None:
    quorum = quorum_of("a", version=4)
    quorum.left("a")
    assert quorum.version(1) == 4
    quorum.joined("a", 2, now=2)
    assert quorum.version(2) == 2


def test_a_new_beginning_owes_nothing_to_the_engines_before() -> None:
    quorum = quorum_of("a", version=5)
    quorum.left("a")
    for name in ("a", "b"):
        quorum.joined(name, 2, now=90)
    quorum.synced("a", 3, seconds=1, now=100)
    assert quorum.version(105) == 2
    assert quorum.version(105.1) == 3


def test_strangers_are_ignored_and_nobody_goes_back() -> None:
    quorum = quorum_of("a", version=2)
    quorum.synced("gone", 9, seconds=1, now=1)
    quorum.left("gone")
    assert quorum.version(100) == 2
    with pytest.raises(ValueError, match="cannot go back to 1"):
        quorum.synced("a", 1, seconds=1, now=101)


@settings(deadline=None)
@given(events=EVENTS, patience=st.floats(0, 4), floor_s=st.floats(0, 20))
def test_the_version_never_falls_and_lags_for_a_bounded_time_only(
    events: list[tuple[str, str, int, float, float]], patience: float, floor_s: float
) -> None:
    quorum, now = VersionQuorum(patience, floor_s), 0.0
    serving: dict[str, int] = {}
    newest_since = before = 0.0
    for kind, name, more, pause, seconds in events:
        now += pause
        newest = max(serving.values(), default=-1)
        if kind == "join" and name not in serving:
            if not serving:
                before = 0
            serving[name] = more
            quorum.joined(name, more, now)
        elif kind == "leave":
            serving.pop(name, None)
            quorum.left(name)
        elif kind == "sync" and name in serving:
            serving[name] += more
            quorum.synced(name, serving[name], seconds, now)
        if not serving:
            continue
        if max(serving.values()) != newest:
            newest_since = now
        version = quorum.version(now)
        assert version >= before
        before = version
        assert version >= min(serving.values())
        late = quorum.laggards(now)
        assert all(serving[other] >= version for other in serving if other not in late)
        # No sync takes longer than 10 s, so after this long every engine behind the newest is a laggard.
        if now - newest_since > max(floor_s, patience * 10):
            assert version >= max(serving.values())
