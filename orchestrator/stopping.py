"""How a run comes to its end when somebody asks it to: at the next step boundary, with a last checkpoint.

The first request (Ctrl-C, SIGTERM, the end of a Ray job) gives up what the driver waits for and lets finish what the
learner computes; the second, or the end of its patience, cancels the run where it is. So does the first, as long as the
run has made nothing that is worth the wait. Invariant: `Stopped` is raised
at step boundaries alone, so that whoever catches it may write a checkpoint.
"""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

SIGNALS = (signal.SIGINT, signal.SIGTERM)
BY_SIGNAL = "stopped by a signal"
AGAIN_S = 1.0
"""A request that follows so soon is the same one: a signal may reach a run by way of several processes."""


class Stopped(Exception):
    """The run is between two steps, and shall make no other."""


class Stopping:
    """Whether a run was asked to stop.

    Args:
        patience_s: what the way to the step boundary and the last checkpoint may take, seconds; 0 takes no such way.
        say: tells the person who asked.
    """

    def __init__(self, patience_s: float, say: Callable[[str], None]) -> None:
        self._patience_s, self._say = patience_s, say
        self._waits: asyncio.Timeout | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._guarded = False
        self._asked_at: float | None = None

    @contextmanager
    def heeded(self) -> Iterator[None]:
        """Signals that end programs are requests to stop the current task, as long as this lasts."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None, "a run is a task"
        for number in SIGNALS:
            loop.add_signal_handler(number, self.ask, task)
        try:
            yield
        finally:
            for number in SIGNALS:
                loop.remove_signal_handler(number)
            if self._deadline is not None:
                self._deadline.cancel()

    @property
    def asked(self) -> bool:
        return self._asked_at is not None

    def guard(self) -> None:
        """From now on there are steps to keep: a request waits for the end of the one in progress."""
        self._guarded = True

    def ask(self, task: "asyncio.Task[object]") -> None:
        """Ask the run of this task to stop; asked again, it is cancelled."""
        loop = asyncio.get_running_loop()
        if self._asked_at is not None or not (self._guarded and self._patience_s):
            if self._asked_at is None or loop.time() - self._asked_at > AGAIN_S:
                task.cancel()
            return
        self._asked_at = loop.time()
        self._say(f"stopping at the end of this step, within {self._patience_s:g} s; ask again to stop at once")
        self._deadline = loop.call_later(self._patience_s, task.cancel)
        if self._waits is not None:
            self._waits.reschedule(loop.time())

    def boundary(self) -> None:
        """A step has ended. Raises: Stopped: it was the last."""
        if self.asked:
            raise Stopped

    @asynccontextmanager
    async def waiting(self) -> AsyncIterator[None]:
        """Between two steps: what is done in this block may be given up.

        Raises:
            Stopped: it was, or nobody need begin with it.
        """
        self.boundary()
        try:
            async with asyncio.timeout(None) as self._waits:
                yield
        except TimeoutError:
            if self.asked and self._waits is not None and self._waits.expired():
                raise Stopped from None
            raise
        finally:
            self._waits = None
