"""The queue of waiting answers: its order, and that each ticket leaves exactly once."""

import random
import tracemalloc
from dataclasses import replace
from typing import Literal

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from orchestrator.policies.request_queue import RequestQueue, Ticket


def ticket(
    group: int,
    sample: int,
    *,
    predicted: float | None = None,
    continued: bool = False,
    min_version: int = 0,
    sampled: int = 0,
) -> Ticket:
    return Ticket(f"{group}/{sample}", group, sample, min_version, sampled, predicted, continued)


def drained(queue: RequestQueue, version: int | None = None) -> list[str]:
    popped = []
    while (head := queue.pop(version)) is not None:
        popped.append(head.request_id)
    return popped


def test_continued_answers_then_probes_then_the_longest() -> None:
    queue = RequestQueue("longest_first")
    queue.put(ticket(0, 1, predicted=100))
    queue.put(ticket(1, 1, predicted=900))
    queue.put(ticket(2, 1))
    queue.put(ticket(1, 2, predicted=900))
    queue.put(ticket(5, 0))
    queue.put(ticket(4, 0, predicted=1))
    queue.put(ticket(9, 3, predicted=3, continued=True))
    queue.put(ticket(3, 7, continued=True))
    assert drained(queue) == ["3/7", "9/3", "4/0", "5/0", "2/1", "1/1", "1/2", "0/1"]


def test_what_counts_is_the_length_still_to_come() -> None:
    queue = RequestQueue("longest_first")
    queue.put(ticket(0, 1, predicted=500, sampled=450))
    queue.put(ticket(1, 1, predicted=100))
    queue.put(ticket(2, 1, predicted=80, sampled=90))
    assert drained(queue) == ["2/1", "1/1", "0/1"], "the one that has outgrown its prediction may be the longest"


def test_a_short_answer_is_not_overtaken_by_newer_groups_for_ever() -> None:
    queue = RequestQueue("longest_first")
    queue.put(ticket(0, 3, predicted=2, min_version=4))
    queue.put(ticket(1, 0, min_version=5))
    queue.put(ticket(1, 1, predicted=900, min_version=5))
    assert drained(queue) == ["0/3", "1/0", "1/1"]


def test_fifo_is_the_order_of_arrival_whatever_is_known() -> None:
    queue = RequestQueue("fifo")
    for waiting in (ticket(3, 1, predicted=1), ticket(0, 0), ticket(2, 2, continued=True), ticket(1, 1, predicted=9)):
        queue.put(waiting)
    queue.repredict(1, 10_000)
    assert drained(queue) == ["3/1", "0/0", "2/2", "1/1"]


def test_a_new_prediction_moves_a_whole_group_and_is_carried_out() -> None:
    queue = RequestQueue("longest_first")
    for group in range(3):
        for sample in (1, 2):
            queue.put(ticket(group, sample, predicted=100 * (group + 1)))
    queue.repredict(0, 1000)
    head = queue.pop()
    assert head == ticket(0, 1, predicted=1000)
    queue.repredict(0, 5)
    queue.repredict(1, None)
    assert drained(queue) == ["1/1", "1/2", "2/1", "2/2", "0/2"]


def test_a_ticket_that_no_free_engine_may_serve_holds_up_nobody() -> None:
    queue = RequestQueue("longest_first")
    queue.put(ticket(1, 0, min_version=4))
    queue.put(ticket(2, 0, min_version=3))
    queue.put(ticket(3, 0, min_version=4))
    assert queue.peek(3) == ticket(2, 0, min_version=3)
    assert drained(queue, version=3) == ["2/0"]
    assert drained(queue, version=4) == ["1/0", "3/0"]


def test_a_request_waits_once() -> None:
    queue = RequestQueue("fifo")
    queue.put(ticket(1, 0))
    with pytest.raises(ValueError, match="1/0 is in the queue already"):
        queue.put(ticket(1, 0))
    assert queue.remove("1/0") == ticket(1, 0)
    assert queue.remove("1/0") is None
    queue.put(ticket(1, 0))
    assert drained(queue) == ["1/0"]


@pytest.mark.timeout(10)
def test_ten_thousand_waiting_tickets_are_cheap_to_reorder() -> None:
    # 50,000 moved tickets, 10,000 pops: a queue that sorts or scans for each of them takes minutes.
    draw = random.Random(7)
    queue, predicted = RequestQueue("longest_first"), dict.fromkeys(range(1250), 0.0)
    tickets = [ticket(group, sample, predicted=0.0) for group in range(1250) for sample in range(1, 9)]
    for waiting in tickets:
        queue.put(waiting)
    for _ in range(5):
        for group in predicted:
            predicted[group] = float(draw.randrange(1, 30_000))
            queue.repredict(group, predicted[group])
    assert len(queue) == 10_000
    tickets.sort(key=lambda waiting: (-predicted[waiting.group], waiting.group, waiting.sample))
    assert drained(queue) == [waiting.request_id for waiting in tickets]


@pytest.mark.parametrize("what", ["come and go", "change"])
def test_tickets_that_come_and_go_or_change_leave_nothing_behind(what: str) -> None:
    queue = RequestQueue("longest_first")
    for sample in range(1, 5):
        queue.put(ticket(0, sample))
    tracemalloc.start()
    for turn in range(1_500):
        if what == "change":
            queue.repredict(0, turn)
        else:
            queue.put(ticket(turn + 1, 0))
            assert queue.remove(f"{turn + 1}/0") is not None
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 60_000, "bytes; 1,500 heap entries take 300,000"


class QueueMachine(RuleBasedStateMachine):
    """The queue against a plain dictionary that looks at every ticket each time."""

    @initialize(order=st.sampled_from(["longest_first", "fifo"]))
    def begin(self, order: Literal["longest_first", "fifo"]) -> None:
        self.order = order
        self.queue = RequestQueue(order)
        self.model: dict[str, Ticket] = {}

    @rule(
        group=st.integers(0, 4),
        sample=st.integers(0, 3),
        predicted=st.none() | st.integers(0, 50),
        sampled=st.integers(0, 50),
        min_version=st.integers(0, 3),
        continued=st.booleans(),
    )
    def put(
        self, group: int, sample: int, predicted: int | None, sampled: int, min_version: int, continued: bool
    ) -> None:
        new = ticket(group, sample, predicted=predicted, sampled=sampled, min_version=min_version, continued=continued)
        if new.request_id not in self.model:
            self.queue.put(new)
            self.model[new.request_id] = new

    @rule(version=st.none() | st.integers(0, 3))
    def pop(self, version: int | None) -> None:
        able = [t for t in self.model.values() if version is None or t.min_version <= version]
        expected = min(able, key=self.rank) if able else None
        assert self.queue.peek(version) == expected
        assert self.queue.pop(version) == expected
        if expected is not None:
            del self.model[expected.request_id]

    @rule(group=st.integers(0, 4), sample=st.integers(0, 3))
    def remove(self, group: int, sample: int) -> None:
        assert self.queue.remove(f"{group}/{sample}") == self.model.pop(f"{group}/{sample}", None)

    @rule(group=st.integers(0, 4), tokens=st.none() | st.integers(0, 50))
    def repredict(self, group: int, tokens: int | None) -> None:
        self.queue.repredict(group, tokens)
        for request_id, waiting in self.model.items():
            if waiting.group == group:
                self.model[request_id] = replace(waiting, predicted=tokens)

    @invariant()
    def holds_what_was_put_and_has_not_left(self) -> None:
        assert len(self.queue) == len(self.model)

    def teardown(self) -> None:
        assert drained(self.queue) == [t.request_id for t in sorted(self.model.values(), key=self.rank)]

    def rank(self, waiting: Ticket) -> tuple[float, ...]:
        if self.order == "fifo":
            return (list(self.model).index(waiting.request_id),)
        place = (waiting.group, waiting.sample)
        if waiting.continued:
            return (-1, 0, 0, *place)
        version = waiting.min_version
        if waiting.sample == 0:
            return (version, 1, 0, *place)
        if waiting.predicted is None or waiting.sampled >= waiting.predicted:
            return (version, 2, 0, *place)
        return (version, 3, -(waiting.predicted - waiting.sampled), *place)


QueueMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestEveryTicketLeavesExactlyOnceInOrder = QueueMachine.TestCase
