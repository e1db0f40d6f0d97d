"""A pool of scoring children: many responses in, as many scores out, in order, whatever the answers do.

Guarantees: every response gets a `Score`, with `error` and the fallback where its scoring timed out, ran out of memory
or ended its process; no bad answer costs another its verdict, or the pool more than one deadline and one restart; no
child outlives the pool or the process that made it. `score` may be called from several threads at a time.

As many threads as children: each thread borrows a child, waits for its verdict and gives it back. The children are
started on these threads because the kernel ties a child's life to the thread that started it.
"""

import threading
from collections.abc import Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from queue import SimpleQueue
from types import TracebackType
from typing import Self

from rewards.response import Response, Score
from rewards.scoring_child import ScoringChild
from rewards.settings import RewardSettings

_GRACE_S = 15.0
"""For killing, reaping and thread scheduling on a machine under load."""


class ChildPool:
    """Starts `settings.workers` children at once; they load in the background until `warm_up` or the first score."""

    def __init__(self, settings: RewardSettings) -> None:
        self._settings = settings
        self._threads = ThreadPoolExecutor(settings.workers, thread_name_prefix="score")
        self._children = [ScoringChild(settings) for _ in range(settings.workers)]
        self._idle: SimpleQueue[ScoringChild] = SimpleQueue()
        self._waiting = 0
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

    def score(self, responses: Sequence[Response]) -> list[Score]:
        """Scores in the order of the responses. Raises: RuntimeError after `close`."""
        if self._closed:
            raise RuntimeError("the reward pool is closed")
        with self._count_lock:
            self._waiting += len(responses)
            patience_s = self._waiting * self._longest_sample_s
        verdicts: list[Future[Score]] = []
        try:
            verdicts = [self._threads.submit(self._score_one, response) for response in responses]
            return [self._collected(verdict, patience_s) for verdict in verdicts]
        finally:
            with self._count_lock:
                self._waiting -= len(responses)

    def close(self) -> None:
        """Kill the children. Samples in progress get the fallback. Safe to call twice."""
        self._closed = True
        for child in self._children:
            child.retire()
        self._threads.shutdown(wait=True, cancel_futures=True)
        for child in self._children:
            child.kill()

    @property
    def child_pids(self) -> list[int]:
        """Process ids of the children alive."""
        return [child.pid for child in self._children if child.pid is not None]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def _longest_sample_s(self) -> float:
        return self._settings.deadline_s + self._settings.start_timeout_s + _GRACE_S

    def _score_one(self, response: Response) -> Score:
        child = self._idle.get(timeout=_GRACE_S)  # never empty: there are as many children as threads
        try:
            return child.score(response)
        finally:
            self._idle.put(child)

    def _collected(self, verdict: "Future[Score]", patience_s: float) -> Score:
        try:
            return verdict.result(patience_s)
        except CancelledError:
            return Score(self._settings.fallback, {}, "the reward pool was closed")
