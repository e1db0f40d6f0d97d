"""Copies a run's folder to its place in storage, beside the run, which waits for it at checkpoints alone.

Invariants:
- a checkpoint is to be seen there only when all of it is there, and the logs up to its moment: its card comes last;
- what is read as a whole and ends a run (`summary.json`) comes after all that it speaks of;
- a killed driver loses there what lies between two copies of the logs, and the checkpoint that was on its way;
- one checkpoint at a time is on its way: the next waits for it (`room`), as long as anything moves and for at most
  `storage.patience_s` when nothing does; then the run stops, and its folder holds everything;
- two processes never write in one place for long: who begins there leaves a mark, who finds another's mark stops;
- nothing is ever removed there but what the run itself has given up: shards of older checkpoints, and checkpoints after
  the step from which it goes on.

The driver calls, one thread of the mirror's own does the work in the order of the calls, each piece again and again
until it is done: every piece may be done twice.
"""

import asyncio
import time
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread

from orchestrator.errors import RunError
from orchestrator.progress import Progress
from orchestrator.run_layout import CARD, ENDS, LEARNER, checkpoint_steps, joined, next_aside
from orchestrator.storage.fault import StorageFault
from orchestrator.storage.remote_folder import RemoteFolder
from orchestrator.storage.selection import files_to_copy
from orchestrator.storage.settings import StorageSettings

OWNER = ".paceline-owner"
"""Names the process that writes in a place."""
FIRST_COPY_S, POLL_S = 5.0, 0.1
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
"""Between two attempts at what failed."""
REST = 10
"""A copy of the logs is followed by so many times its duration without one."""


@dataclass(frozen=True, slots=True)
class _Task:
    """A piece of work, and when it was asked for, seconds of the monotonic clock."""

    work: Callable[[], None]
    asked_at: float


class _Taken(Exception):
    """Another process writes in this place."""


class RunMirror:
    """Args:
    folder: that the run works in; it may not exist yet.
    remote: its place.
    """

    def __init__(self, folder: Path, remote: RemoteFolder, settings: StorageSettings) -> None:
        self._folder, self._remote, self._settings = folder, remote, settings
        self._owner = uuid.uuid4().hex.encode()
        self._sent: dict[str, tuple[int, int]] = {}
        """Size and time of change of each file as it was copied, by name."""
        self._tasks: deque[_Task] = deque()
        self._wake, self._stopped = Event(), Event()
        self._news: deque[str] = deque()
        self._warned: Callable[[str], None] = lambda _: None
        self._trouble: StorageFault | None = None
        self._taken = False
        self._thread = Thread(target=self._work, daemon=True, name="mirror of the run")

    # --- the run's side -------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Take the place. Raises: StorageFault: it cannot be written, read, or deleted from."""
        self._remote.probe()
        self._remote.write(OWNER, self._owner)
        self._thread.start()

    def report_to(self, warned: Callable[[str], None]) -> None:
        self._warned = warned

    def check(self) -> None:
        while self._news:
            self._warned(self._news.popleft())
        if self._taken:
            raise RunError(
                f"another process goes on with {self._remote.url}, so this one stops; its part lies in {self._folder}",
                "let one process at a time work in a run_dir",
            )

    async def room(self) -> None:
        while self._tasks:
            self._expect_movement(self._settings.patience_s)
            await asyncio.sleep(POLL_S)

    def published(self, checkpoint: Path, keep: int) -> None:
        self._ask(lambda: self._publish(self._name(checkpoint), keep))

    def forget_after(self, checkpoints: Path, step: int) -> None:
        self._ask(lambda: self._withdraw(self._name(checkpoints), lambda its: its > step))

    def set_aside(self, run: Path) -> None:
        self._ask(lambda: self._rename_ends(self._name(run)))

    def finish(self, progress: Progress, patience_s: float | None = None) -> None:
        """Copy the rest, and stop.

        Args:
            patience_s: without a byte moved; None is that of the settings.

        Raises:
            RunError: it could not be copied; the run's folder holds all of it.
        """
        self.report_to(progress.warn)  # the run's own log is closed
        progress.phase(f"copying the rest to {self._remote.url}")
        self._ask(self._copy)
        try:
            while self._tasks:
                self._expect_movement(self._settings.patience_s if patience_s is None else patience_s)
                time.sleep(POLL_S)
        finally:
            self._stopped.set()
            self._wake.set()
        self.check()

    def withdraw(self) -> None:
        """The run does not begin: leave the place as it was found, where nothing was copied."""
        self._stopped.set()
        self._wake.set()
        self._thread.join(timeout=self._settings.timeout_s)
        if not self._sent:
            self._remote.remove([OWNER])

    def _expect_movement(self, patience_s: float) -> None:
        """Raises: RunError: what is asked for has not moved for so long."""
        self.check()
        oldest = next(iter(tuple(self._tasks)), None)
        if oldest is None:
            return
        still_s = time.monotonic() - max(oldest.asked_at, self._remote.moved_at)
        if still_s > patience_s:
            why = f" ({self._trouble})" if self._trouble else ""
            fix = self._trouble.fix if self._trouble else "look at the storage"
            raise RunError(
                f"{self._remote.url} takes nothing for {still_s:.0f} s now{why}; all of the run is in {self._folder}",
                f"{fix}, then go on with `paceline resume {self._folder}`",
            )

    def _ask(self, work: Callable[[], None]) -> None:
        self._tasks.append(_Task(work, time.monotonic()))
        self._wake.set()

    def _name(self, path: Path) -> str:
        """From the run's folder on; empty for that itself."""
        name = path.resolve().relative_to(self._folder.resolve()).as_posix()
        return "" if name == "." else name

    # --- the mirror's own thread ----------------------------------------------------------------------------------

    def _work(self) -> None:
        due = time.monotonic() + min(FIRST_COPY_S, self._settings.sync_every_s)
        while not self._stopped.is_set():
            self._wake.wait(timeout=max(0.0, due - time.monotonic()))
            self._wake.clear()
            while self._tasks and self._persist(self._tasks[0].work):
                self._tasks.popleft()
            began = time.monotonic()
            if began >= due:
                self._persist(self._copy)
                due = time.monotonic() + max(self._settings.sync_every_s, REST * (time.monotonic() - began))

    def _persist(self, work: Callable[[], None]) -> bool:
        """Until it is done. Returns: whether it is; not where the mirror was stopped."""
        pause = FIRST_PAUSE_S
        while not self._stopped.is_set():
            try:
                self._expect_own_mark()
                work()
            except _Taken:
                self._taken = True
                self._stopped.set()
            except (StorageFault, OSError) as error:
                fault = error if isinstance(error, StorageFault) else _of_this_disk(error)
                if self._trouble is None:
                    self._news.append(f"{self._remote.url}: {fault}; the run goes on, and waits at its next checkpoint")
                self._trouble = fault
                self._stopped.wait(timeout=pause)
                pause = min(2 * pause, LONGEST_PAUSE_S)
            else:
                if self._trouble is not None:
                    self._news.append(f"{self._remote.url} takes the run's files again")
                self._trouble = None
                return True
        return False

    def _expect_own_mark(self) -> None:
        if self._remote.read(OWNER) != self._owner:
            raise _Taken

    def _copy(self) -> None:
        """All that has changed, but for checkpoints."""
        for name in files_to_copy(self._folder):
            self._put(name)

    def _put(self, name: str) -> None:
        """A file as it is now, unless it was copied so; what is gone meanwhile is none."""
        local = self._folder / name
        try:
            facts = local.stat()
        except FileNotFoundError:
            return
        if self._sent.get(name) != (facts.st_size, facts.st_mtime_ns):
            self._remote.put(local, name)
            self._sent[name] = (facts.st_size, facts.st_mtime_ns)

    def _publish(self, name: str, keep: int) -> None:
        self._copy()  # the logs, to beyond the checkpoint's marks
        folder = self._folder / name
        card = f"{name}/{CARD}"
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            if (part := self._name(path)) != card:
                self._put(part)
        self._expect_own_mark()
        self._put(card)
        checkpoints = name.rpartition("/")[0]
        whole = sorted(checkpoint_steps(self._remote.entries(checkpoints), checkpoints))
        older = set(whole[:-keep])
        self._withdraw(checkpoints, lambda its: its in older, shards_alone=True)

    def _withdraw(self, checkpoints: str, which: Callable[[int], bool], *, shards_alone: bool = False) -> None:
        """Cards first: without one it is no checkpoint, whatever becomes of the rest."""
        there = self._remote.entries(checkpoints)
        for step, path in sorted(checkpoint_steps(there, checkpoints, whole=shards_alone).items()):
            if which(step):
                self._remote.remove([f"{path}/{CARD}"])
                below = f"{path}/{LEARNER}/" if shards_alone else f"{path}/"
                self._remote.remove([name for name in there if name.startswith(below) and not name.endswith(CARD)])

    def _rename_ends(self, run: str) -> None:
        there = self._remote.entries(run)
        for end in (joined(run, end) for end in ENDS):
            inside = [name for name in there if name.startswith(f"{end}/")]
            if inside:
                aside = next_aside(end, taken=lambda other: any(name.startswith(f"{other}/") for name in there))
                for name in inside:
                    self._remote.move(name, aside + name.removeprefix(end))


def _of_this_disk(error: OSError) -> StorageFault:
    return StorageFault(f"a file of the run cannot be read: {error}", "look at this machine's disk")
