"""A pool of scoring children: many responses in, as many scores out, in order, whatever the answers do.

Guarantees: every response gets a `Score`, with `error` and the fallback where its scoring timed out, ran out of memory
or ended its process; no bad answer costs another its verdict, or the pool more than one deadline and one restart; no
child outlives the pool or the process that made it. `score` and `score_group` may be called from several threads at a
time, and `cancel` from any.

Terms that ask models run in one more process (`rewards.asking_pool`), in which waiting costs nothing: while a judge
thinks about one prompt, the children score others, and other prompts' judges are asked.

As many threads as children: each thread borrows a child, hands it a few responses, waits for its verdicts and gives it
back. The children are started on these threads because the kernel ties a child's life to the thread that started it.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from queue import SimpleQueue
from types import TracebackType
from typing import Self

from rewards.asking_pool import AskingPool
from rewards.models.address import Addresses
from rewards.response import Failure, FailureKind, Response, Score
from rewards.scoring_child import ScoringChild
from rewards.settings import RewardSettings
from rewards.wire import GroupRequest

_HANDED_AT_MOST = 512
"""Responses that a child is handed at a time: many, so that it seldom waits for its pool."""
_GRACE_S = 15.0
"""For killing, reaping and thread scheduling on a machine under load."""


class ChildPool:
    """Starts `settings.workers` children at once; they load in the background until `warm_up` or the first score."""

    def __init__(self, settings: RewardSettings, addresses: Addresses | None = None) -> None:
        """
        Args:
            addresses: of the models that terms ask; see `readdress`.
        """
        self._settings = settings
        self._asking = AskingPool(settings, addresses or {}) if settings.models else None
        self._threads = ThreadPoolExecutor(settings.workers, thread_name_prefix="score")
        self._children = [ScoringChild(settings) for _ in range(settings.workers)]
        self._idle: SimpleQueue[ScoringChild] = SimpleQueue()
        self._waiting = 0
        self._tickets: dict[str, threading.Event] = {}
        self._count_lock = threading.Lock()
        self._closed = False
        for started in [self._threads.submit(child.start) for child in self._children]:
            started.result(_GRACE_S)
        for child in self._children:
            self._idle.put(child)

    def warm_up(self) -> None:
        """Wait until every child has loaded its terms.

        Raises: RewardSetupError, one line, where the recipe's terms cannot work.
        """
        seats = [self._threads.submit(child.wait_ready) for child in self._children]
        for ready in seats:
            ready.result(self._settings.start_timeout_s * len(seats) + _GRACE_S)
        if self._asking is not None:
            self._asking.warm_up()

    def score(self, responses: Sequence[Response], ticket: str = "") -> list[Score]:
        """Scores of responses that know nothing of each other, in their order; terms that see a group are left out.

        Args:
            ticket: a name under which `cancel` may call it off.

        Raises: RuntimeError after `close`.
        """
        if self._closed:
            raise RuntimeError("the reward pool is closed")
        handed = _parts(responses, self._settings.workers)
        with self._waiting_for(len(responses)) as patience_s, self._cancellable(ticket) as cancelled:
            verdicts = [self._threads.submit(self._score_part, part, cancelled) for part in handed]
            parts = [
                self._collected(verdict, len(part), patience_s) for verdict, part in zip(verdicts, handed, strict=True)
            ]
            scores = [score for part in parts for score in part]
            if self._asking is None or cancelled.is_set():
                return scores
            return self._asking.score("response", GroupRequest(tuple(responses), tuple(scores), {}, {}), patience_s)

    def score_group(
        self,
        responses: Sequence[Response],
        history: Mapping[str, float] | None = None,
        shared: Mapping[str, float] | None = None,
        ticket: str = "",
    ) -> list[Score]:
        """Scores of all answers to one prompt, in their order: each by itself, then the terms that see the group.

        Args:
            history, shared: what is remembered of the prompt and of the run; see `rewards.group.Group`.

        Raises: RuntimeError after `close`.
        """
        scores = self.score(responses, ticket)
        if not self.sees_groups or _all_failed(scores):
            return scores
        request = GroupRequest(tuple(responses), tuple(scores), history or {}, shared or {})
        with self._waiting_for(1) as patience_s, self._cancellable(ticket) as cancelled:
            if self._rules_see_groups and not cancelled.is_set():
                verdict = self._threads.submit(self._with_child, lambda child: child.score_group(request))
                scores = self._collected(verdict, len(responses), patience_s)
            if self._asking is not None and self._asking.sees_groups and not cancelled.is_set():
                scores = self._asking.score("group", replace(request, scores=tuple(scores)), patience_s)
            return scores

    def cancel(self, ticket: str) -> None:
        """Nobody waits for this call's scores any more: what no child has begun gets the fallback."""
        with self._count_lock:
            event = self._tickets.get(ticket)
        if event is not None:
            event.set()

    def readdress(self, addresses: Addresses) -> None:
        """The models of these names are to be found there from now on."""
        if self._asking is not None:
            self._asking.readdress(addresses)

    def close(self) -> None:
        """Kill the children. Samples in progress get the fallback. Safe to call twice."""
        self._closed = True
        if self._asking is not None:
            self._asking.close()
        for child in self._children:
            child.retire()
        self._threads.shutdown(wait=True, cancel_futures=True)
        for child in self._children:
            child.kill()

    @property
    def sees_groups(self) -> bool:
        """Whether a term sees all answers to a prompt together; known once a child is ready."""
        return self._rules_see_groups or (self._asking is not None and self._asking.sees_groups)

    @property
    def child_pids(self) -> list[int]:
        """Process ids of the children alive."""
        asking = None if self._asking is None else self._asking.pid
        return [pid for pid in (*(child.pid for child in self._children), asking) if pid is not None]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def _rules_see_groups(self) -> bool:
        return any(child.sees_groups for child in self._children)

    @property
    def _longest_sample_s(self) -> float:
        return self._settings.deadline_s + self._settings.start_timeout_s + _GRACE_S

    @contextmanager
    def _waiting_for(self, responses: int) -> Iterator[float]:
        """How long it may take until these, and all that stand before them, have their scores."""
        with self._count_lock:
            self._waiting += responses
            patience_s = self._waiting * self._longest_sample_s
        try:
            yield patience_s
        finally:
            with self._count_lock:
                self._waiting -= responses

    @contextmanager
    def _cancellable(self, ticket: str) -> Iterator[threading.Event]:
        with self._count_lock:
            cancelled = self._tickets.setdefault(ticket, threading.Event()) if ticket else threading.Event()
        try:
            yield cancelled
        finally:
            with self._count_lock:
                self._tickets.pop(ticket, None)

    def _score_part(self, responses: Sequence[Response], cancelled: threading.Event) -> list[Score]:
        if cancelled.is_set():
            return self._without_verdict("cancelled", "nobody needs the group any more", len(responses))
        return self._with_child(lambda child: child.score(responses))

    def _with_child(self, work: "Callable[[ScoringChild], list[Score]]") -> list[Score]:
        child = self._idle.get(timeout=_GRACE_S)  # never empty: there are as many children as threads
        try:
            return work(child)
        finally:
            self._idle.put(child)

    def _collected(self, verdict: "Future[list[Score]]", responses: int, patience_s: float) -> list[Score]:
        try:
            return verdict.result(patience_s)
        except CancelledError:
            return self._without_verdict("closed", "the reward pool was closed", responses)

    def _without_verdict(self, kind: FailureKind, reason: str, responses: int) -> list[Score]:
        return [Score(self._settings.fallback, {}, reason, failure=Failure(kind))] * responses


def _parts(responses: Sequence[Response], workers: int) -> list[Sequence[Response]]:
    """The responses in order, in parts that become smaller: the last ones even out what the children had to do."""
    parts: list[Sequence[Response]] = []
    start = 0
    while start < len(responses):
        left = len(responses) - start
        size = max(1, min(_HANDED_AT_MOST, left if workers == 1 else left // (2 * workers)))
        parts.append(responses[start : start + size])
        start += size
    return parts


def _all_failed(scores: Sequence[Score]) -> bool:
    return all(score.error is not None for score in scores)
