"""The dispatcher keeps source, ledger and buffer in agreement."""

from orchestrator.policies.admission import Continuous
from orchestrator.policies.dispatch import Dispatcher
from orchestrator.policies.late import LateRule
from orchestrator.policies.staleness import StalenessRule
from rewards.response import Score
from tests.orchestrator.builders import CountingSource, trajectory


def dispatcher(
    *, batch: int = 2, max_staleness: int = 0, wanted: int = 100, drop: bool = True, places: int = 100
) -> Dispatcher:
    rule = StalenessRule(batch=batch, max_staleness=max_staleness)
    return Dispatcher(
        source=CountingSource(),
        encode=lambda p: (p.index,),
        rule=rule,
        admission=Continuous(rule, places, group_size=2),
        late=LateRule("wait", max_staleness, 8),
        group_size=2,
        drop_zero_variance=drop,
        wanted=wanted,
    )


def finish(d: Dispatcher, index: int, *rewards: float) -> None:
    answers = [trajectory(f"{index}/{n}#1") for n in range(len(rewards))]
    d.finish(index, answers, [Score(reward, {}) for reward in rewards])


def test_a_filtered_group_makes_room_for_another() -> None:
    d = dispatcher()
    assert [group.index for group in d.admit(0)] == [0, 1]
    finish(d, 0, 1.0, 1.0)
    assert [group.index for group in d.admit(0)] == [2]
    assert d.ledger.counts() == {"dispatched": 3, "trained": 0, "filtered": 1, "dropped": 0, "failed": 0, "pending": 2}


def test_a_group_without_signal_is_kept_when_asked_for() -> None:
    d = dispatcher(drop=False)
    d.admit(0)
    finish(d, 0, 1.0, 1.0)
    assert d.admit(0) == []
    assert len(d.buffer) == 1


def test_a_failed_group_makes_room_for_another() -> None:
    d = dispatcher()
    d.admit(0)
    d.fail(1)
    assert [group.index for group in d.admit(0)] == [2]
    assert d.ledger.counts()["failed"] == 1


def test_synchronous_batches_come_in_dispatch_order_whatever_finishes_first() -> None:
    d = dispatcher(batch=3)
    d.admit(0)
    for index in (2, 0, 1):
        assert d.take(0).groups is None
        finish(d, index, 1.0, 0.0)
    batch = d.take(0).groups
    assert batch is not None
    assert [group.index for group in batch] == [0, 1, 2]


def test_a_batch_is_pending_until_it_is_trained() -> None:
    d = dispatcher(batch=1)
    d.admit(0)
    finish(d, 0, 1.0, 0.0)
    batch = d.take(0).groups
    assert batch is not None
    assert d.ledger.counts()["pending"] == 1
    d.trained(batch)
    assert d.ledger.counts()["trained"] == 1


def test_no_more_is_admitted_than_the_run_will_train_on() -> None:
    d = dispatcher(batch=2, max_staleness=9, wanted=3)
    assert len(d.admit(0)) == 3
    assert d.admit(5) == []
    finish(d, 1, 0.0, 0.0)
    assert len(d.admit(5)) == 1, "a filtered group is replaced, so that the last batch can be filled"


def test_groups_start_so_that_no_place_falls_empty_and_none_waits_long() -> None:
    d = dispatcher(batch=10, max_staleness=1, places=4)
    assert [group.index for group in d.admit(0)] == [0, 1, 2], "two sample, one waits for the first free place"
    d.answered(1)
    assert d.admit(0) == []
    d.answered(0)
    assert [group.index for group in d.admit(0)] == [3], "four answers of three groups are on their way"
    finish(d, 0, 1.0, 0.0)
    assert [group.index for group in d.admit(0)] == []


def test_a_failed_group_gives_back_the_places_of_its_answers() -> None:
    d = dispatcher(batch=10, max_staleness=1, places=2)
    assert len(d.admit(0)) == 2
    d.answered(0)
    d.fail(0)
    assert [group.index for group in d.admit(0)] == [2]


def test_a_synchronous_batch_starts_whole() -> None:
    assert len(dispatcher(batch=10, max_staleness=0, places=2).admit(0)) == 10


def test_after_a_break_what_was_pending_is_asked_again_first_and_nothing_else_twice() -> None:
    before = dispatcher(batch=2, max_staleness=1)
    assert [group.index for group in before.admit(0)] == [0, 1, 2, 3]
    finish(before, 0, 1.0, 0.0)
    finish(before, 1, 1.0, 1.0)  # filtered
    finish(before, 2, 1.0, 0.0)
    assert [group.index for group in before.admit(0)] == [4]
    batch = before.take(0).groups
    assert batch is not None
    before.trained(batch)  # 0 and 2; 3 is in flight, 4 too
    finish(before, 4, 1.0, 0.0)  # waits in the buffer
    state = before.state()
    assert sorted(state.pending) == [3, 4]

    after = dispatcher(batch=2, max_staleness=1)
    after.restore(state)
    assert after.ledger.counts() == before.ledger.counts()
    again = after.admit(1)
    assert [(group.index, group.prompt.index, group.admitted_version) for group in again] == [
        (3, 3, 1),
        (4, 4, 1),
        (5, 5, 1),
        (6, 6, 1),
    ]
    assert [group.attempt for group in again] == [1, 1, 0, 0]
    for index in (3, 4):
        finish(after, index, 1.0, 0.0)
    batch = after.take(1).groups
    assert batch is not None
    after.trained(batch)
    counts = after.ledger.counts()
    assert counts == {"dispatched": 7, "trained": 4, "filtered": 1, "dropped": 0, "failed": 0, "pending": 2}
    assert sorted(after.state().pending) == [5, 6]


def test_a_resumed_run_admits_no_more_than_it_will_train_on() -> None:
    before = dispatcher(batch=2, max_staleness=1, wanted=4)
    before.admit(0)
    for index in (0, 1):
        finish(before, index, 1.0, 0.0)
    batch = before.take(0).groups
    assert batch is not None
    before.trained(batch)
    after = dispatcher(batch=2, max_staleness=1, wanted=4)
    after.restore(before.state())
    assert [group.index for group in after.admit(1)] == [2, 3]
    assert after.admit(1) == []
