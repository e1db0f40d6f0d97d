"""Leases of idle accelerators: never two at a time, always back within a ttl, whatever messages are lost."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.drafting.arbiter import Arbiter, Lease, predicted_idle

TTL = 2.0


def _arbiter(least_work_s: float = 5.0, switch_prior_s: float = 10.0) -> Arbiter:
    return Arbiter(ttl_s=TTL, least_work_s=least_work_s, switch_prior_s=switch_prior_s)


def test_the_longest_idle_accelerator_is_lent() -> None:
    verdict = _arbiter().request("drafter", {"gpu0": 20.0, "gpu1": 40.0}, 100.0)
    assert verdict.action == "use"
    assert verdict.lease == Lease("gpu1", "drafter", 1, 102.0)
    assert "40.0 s" in verdict.reason


def test_where_nothing_idles_for_long_enough_the_work_goes_beside_the_learner() -> None:
    arbiter = _arbiter()
    none = arbiter.request("drafter", {}, 0.0)
    short = arbiter.request("drafter", {"gpu0": 15.0}, 0.0)
    assert none.action == short.action == "beside_learner"
    assert "no accelerator is idle" in none.reason
    assert "15.0 s" in short.reason
    assert "switch 10.0 s + useful work 5.0 s" in short.reason
    assert arbiter.request("drafter", {"gpu0": 15.1}, 0.0).action == "use"


def test_the_gate_follows_the_last_three_measured_changes() -> None:
    arbiter = _arbiter()
    for seconds in (99.0, 1.0, 2.0, 3.0):
        arbiter.switched(seconds)
    assert arbiter.switch_s == 2.0
    assert arbiter.request("drafter", {"gpu0": 7.5}, 0.0).action == "use"


def test_a_lease_ends_by_itself_and_a_reclaimed_one_is_not_renewed() -> None:
    arbiter = _arbiter()
    first = arbiter.request("drafter", {"gpu0": 60.0}, 0.0).lease
    assert first is not None
    assert arbiter.request("evaluation", {"gpu0": 60.0}, 1.0).action == "wait"
    renewed = arbiter.renew(first, 1.5)
    assert renewed is not None
    assert renewed.expires_at == 3.5
    assert arbiter.reclaim("gpu0", 2.0) == 3.5
    assert arbiter.renew(renewed, 3.0) is None
    assert not arbiter.is_free("gpu0", 3.4)
    assert arbiter.is_free("gpu0", 3.5)
    assert arbiter.request("drafter", {"gpu0": 60.0}, 4.0).action == "wait", "the engine has it"
    arbiter.returned("gpu0")
    second = arbiter.request("drafter", {"gpu0": 60.0}, 5.0).lease
    assert second is not None
    assert second.epoch == 2
    assert arbiter.renew(renewed, 5.1) is None, "a late message of the first holder"
    arbiter.release(renewed)
    assert not arbiter.is_free("gpu0", 5.1)
    arbiter.release(second)
    assert arbiter.is_free("gpu0", 5.1)


def test_idle_time_is_until_the_last_engine_has_finished() -> None:
    found = predicted_idle({"a": [100, 900], "b": [], "c": [300]}, {"a": 50.0, "b": 50.0, "c": 30.0})
    assert found == {"a": 0.0, "b": 18.0, "c": 8.0}
    assert predicted_idle({}, {}) == {}


def test_times_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="ttl_s"):
        Arbiter(ttl_s=0.0, least_work_s=1.0)


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(("request", "renew", "renew_lost", "release", "release_lost", "reclaim", "returned", "late")),
        st.integers(0, 2),
        st.integers(0, 2),
        st.floats(0, 1.5),
    ),
    max_size=120,
)
"""What happens, which job, which accelerator, and seconds since the event before."""


@settings(deadline=None, max_examples=200)
@given(EVENTS)
def test_whatever_is_lost_nothing_is_lent_twice_and_engines_get_theirs_back(
    events: list[tuple[str, int, int, float]],
) -> None:
    """Holders trust their lease from when they asked for it, for a ttl; replies and releases may be lost."""
    arbiter, now = _arbiter(), 0.0
    held: dict[str, tuple[Lease, float]] = {}  # job: what it believes, and until when
    old: list[Lease] = []
    free_by: dict[str, float] = {}
    epochs: dict[str, int] = {}
    for what, job_number, gpu, pause in events:
        now += pause
        job, name = f"job{job_number}", f"gpu{gpu}"
        held = {holder: (lease, until) for holder, (lease, until) in held.items() if now < until}
        if what == "request" and job not in held:
            lease = arbiter.request(job, {"gpu0": 60.0, "gpu1": 70.0, "gpu2": 80.0}, now).lease
            if lease is not None:
                assert lease.epoch > epochs.get(lease.accelerator, 0)
                assert lease.accelerator not in free_by, "an engine has it"
                epochs[lease.accelerator] = lease.epoch
                held[job] = (lease, now + TTL)
        elif what in ("renew", "renew_lost") and job in held:
            lease = held[job][0]
            renewed = arbiter.renew(lease, now)
            if what == "renew" and renewed is None:
                old.append(held.pop(job)[0])
            elif what == "renew" and renewed is not None:
                held[job] = (renewed, now + TTL)
        elif what in ("release", "release_lost") and job in held:
            lease, _ = held.pop(job)
            old.append(lease)
            if what == "release":
                arbiter.release(lease)
        elif what == "reclaim":
            by = arbiter.reclaim(name, now)
            assert now <= by <= now + TTL
            free_by[name] = min(free_by.get(name, by), by)
        elif what == "returned" and free_by.get(name, now + 1) <= now:
            arbiter.returned(name)
            del free_by[name]
        elif what == "late" and old:
            assert arbiter.renew(old[-1], now) is None or old[-1].accelerator not in free_by
        accelerators = [lease.accelerator for lease, until in held.values() if now < until]
        assert len(set(accelerators)) == len(accelerators), "two holders at a time"
        for accelerator, by in free_by.items():
            assert now < by or accelerator not in accelerators, "the engine's, and still held"
            assert now < by or arbiter.is_free(accelerator, now)
