"""The watchdog: names the culprit, climbs its ladder one rung at a time, and comes to an end."""

from collections import Counter
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.policies.restart_budget import RestartBudget
from orchestrator.policies.watchdog import Finding, InFlight, Phase, Watchdog

LIMITS: dict[Phase, float] = {"queued": 100, "sampling": 60, "scoring": 20}
ITEMS = st.lists(
    st.builds(
        InFlight,
        group=st.integers(0, 20),
        prompt=st.just("chain_sum/40"),
        sample=st.none() | st.integers(0, 7),
        actor=st.sampled_from(["", "rollout-0", "rollout-1", "reward-0"]),
        phase=st.sampled_from(["queued", "sampling", "scoring"]),
        since=st.integers(0, 50),
        retries=st.integers(0, 2),
    ),
    min_size=1,
    max_size=12,
    unique_by=lambda item: (item.group, item.sample),
)


def watchdog(*, most_restarts: int = 1, several: int = 3) -> Watchdog:
    return Watchdog(LIMITS, learner_limit_s=300, restarts=RestartBudget(most_restarts, 600), several=several)


def answer(sample: int, *, actor: str = "rollout-1", since: float = 0, retries: int = 0) -> InFlight:
    return InFlight(12, "chain_sum/40", sample, actor, "sampling", since, retries)


def summary(findings: tuple[Finding, ...]) -> list[tuple[str, str]]:
    return [("" if f.item is None else f.item.actor, f.action) for f in findings]


def test_the_first_time_an_item_is_tried_elsewhere_and_one_line_says_why() -> None:
    (finding,) = watchdog().judge([answer(3)], 95, learner_waits_since=None)
    assert finding.action == "retry"
    assert finding.age_s == 95
    assert finding.text == (
        "group 12 (chain_sum/40), answer 3 on rollout-1: sampling for 95 s (limit 60 s): retry elsewhere"
    )


def test_at_its_limit_an_item_is_still_in_time() -> None:
    assert watchdog().judge([answer(3)], 60, learner_waits_since=None) == ()


def test_a_repeat_restarts_the_actor() -> None:
    (finding,) = watchdog().judge([answer(3, retries=1)], 61, learner_waits_since=None)
    assert finding.text.endswith("sampling for 61 s (limit 60 s): restart rollout-1")


def test_several_overdue_items_restart_their_actor_once_and_the_oldest_names_it() -> None:
    late = [answer(0, since=5), answer(1, since=2), answer(2, since=9)]
    elsewhere = answer(3, actor="rollout-2", since=3)
    restart, retry = watchdog().judge([*late, elsewhere], 90, learner_waits_since=None)
    assert (restart.action, restart.item) == ("restart", late[1])
    assert restart.text.endswith("sampling for 88 s (limit 60 s), 3 of its items overdue: restart rollout-1")
    assert (retry.action, retry.item) == ("retry", elsewhere)


def test_an_actor_that_was_restarted_too_often_is_quarantined() -> None:
    dog = watchdog(most_restarts=1)
    assert summary(dog.judge([answer(0, retries=1)], 61, learner_waits_since=None)) == [("rollout-1", "restart")]
    again = answer(0, retries=2, since=70)
    assert dog.judge([again], 130, learner_waits_since=None) == ()
    assert summary(dog.judge([again], 131, learner_waits_since=None)) == [("rollout-1", "quarantine")]


def test_a_restart_long_ago_does_not_count_against_an_actor() -> None:
    dog = watchdog(most_restarts=1)
    for began in (0, 600):
        late = answer(0, retries=1, since=began)
        assert summary(dog.judge([late], began + 61, learner_waits_since=None)) == [("rollout-1", "restart")]


def test_what_nobody_acts_on_climbs_the_whole_ladder_a_limit_apart() -> None:
    dog, stuck = watchdog(most_restarts=9), [answer(0)]
    found = [(now, f.action) for now in range(1000) for f in dog.judge(stuck, now, learner_waits_since=None)]
    assert found == [(61, "retry"), (122, "restart"), (183, "quarantine"), (244, "stop")]


def test_a_waiting_item_blames_nobody_and_is_queued_anew_once() -> None:
    dog, waiting = watchdog(), [InFlight(4, "sum/1", 0, "", "queued", 0, 2)]
    found = [f.text for now in range(1000) for f in dog.judge(waiting, now, learner_waits_since=None)]
    assert found == ["group 4 (sum/1), answer 0: queued for 101 s (limit 100 s): queue it anew"]


def test_a_starving_learner_stops_the_run_only_when_everything_is_overdue() -> None:
    dog = watchdog()
    moving, stuck = answer(1, since=390, retries=1, actor="rollout-2"), answer(0, since=300)
    dog.judge([moving, stuck], 370, learner_waits_since=0)
    assert dog.judge([moving, stuck], 432, learner_waits_since=0)[0].action == "restart"
    moving = replace(moving, since=0)
    (stop,) = dog.judge([moving, replace(stuck, since=310, retries=1, actor="rollout-3")], 500, learner_waits_since=0)
    assert (stop.action, stop.item) == ("stop", moving)
    assert stop.text == (
        "the learner has waited for 500 s (limit 300 s), and all that is in flight (2) is overdue; the oldest: "
        "group 12 (chain_sum/40), answer 1 on rollout-2: sampling for 500 s (limit 60 s): stop"
    )
    assert dog.judge([moving, stuck], 9999, learner_waits_since=0) == ()


def test_a_learner_that_starves_with_nothing_in_flight_stops_the_run() -> None:
    dog = watchdog()
    assert dog.judge([], 300, learner_waits_since=0) == ()
    (stop,) = dog.judge([], 301, learner_waits_since=0)
    assert (stop.action, stop.item) == ("stop", None)
    assert stop.text == "the learner has waited for 301 s (limit 300 s), and nothing is in flight: stop"


@settings(deadline=None)
@given(items=ITEMS, now=st.integers(0, 200), several=st.integers(1, 4), waits=st.booleans())
def test_only_overdue_items_are_found_and_every_overdue_item_is_acted_on(
    items: list[InFlight], now: int, several: int, waits: bool
) -> None:
    findings = watchdog(several=several).judge(items, now, learner_waits_since=0 if waits else None)
    overdue = {item for item in items if now - item.since > LIMITS[item.phase]}
    assert {f.item for f in findings} <= overdue
    acted_on_actor = {f.item.actor for f in findings if f.item is not None and f.action != "retry"}
    retried = {f.item for f in findings if f.action == "retry"}
    assert overdue == {item for item in overdue if item in retried or item.actor in acted_on_actor}
    assert all(item.actor not in acted_on_actor for item in retried if item is not None)


@settings(deadline=None)
@given(items=ITEMS, most_restarts=st.integers(0, 3), tick=st.integers(1, 90))
def test_the_ladder_ends_and_no_finding_is_given_twice(items: list[InFlight], most_restarts: int, tick: int) -> None:
    dog = watchdog(most_restarts=most_restarts)
    found = [f for now in range(0, 3000, tick) for f in dog.judge(items, now, learner_waits_since=None)]
    assert len({(f.item, f.action) for f in found}) == len(found)
    per_actor = Counter((f.item.actor, f.action) for f in found if f.item is not None and f.action != "retry")
    assert all(count == 1 for count in per_actor.values())
    has_actor = any(item.actor for item in items)
    assert [f.action for f in found].count("stop") == (1 if has_actor else 0)
    assert not has_actor or found[-1].action == "stop"


@settings(deadline=None)
@given(items=ITEMS, tick=st.integers(1, 90))
def test_an_item_that_no_actor_can_finish_wears_its_actors_out_if_everything_is_carried_out(
    items: list[InFlight], tick: int
) -> None:
    dog, free = watchdog(most_restarts=1), ["rollout-0", "rollout-1", "reward-0"]
    in_flight = [replace(item, actor=item.actor or "rollout-0") for item in items]
    for now in range(0, 5000, tick):
        for finding in dog.judge(in_flight, now, learner_waits_since=0):
            if finding.action == "stop":
                return
            assert finding.item is not None
            moved = {finding.item.actor} if finding.action != "retry" else set()
            if finding.action == "quarantine":
                assert finding.item.actor in free, "an actor that is out gets no work, so it cannot be found again"
                free.remove(finding.item.actor)
            in_flight = [
                replace(item, actor=free[item.group % len(free)], since=now, retries=item.retries + 1)
                if free and (item.actor in moved or item == finding.item)
                else item
                for item in in_flight
            ]
    raise AssertionError("nothing can finish, and yet the run goes on")
