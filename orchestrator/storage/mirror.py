"""What a run tells of itself to whoever keeps a copy of its folder elsewhere."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol


class Mirror(Protocol):
    """What a run tells of itself to whoever keeps a copy of its folder. Paths are those of its folder here."""

    def report_to(self, warned: Callable[[str], None]) -> None:
        """Whom `check` and `room` tell what the run's owner should know."""

    def check(self) -> None:
        """Hand on the news. Raises: RunError: the run cannot go on."""

    async def room(self) -> None:
        """Until another checkpoint may be made. Raises: RunError: the last one could not be copied."""

    def published(self, checkpoint: Path, keep: int) -> None:
        """A checkpoint is whole; of the older ones the newest `keep - 1` can still be resumed from."""

    def forget_after(self, checkpoints: Path, step: int) -> None:
        """The run goes on from this step: later checkpoints did not happen."""

    def set_aside(self, run: Path) -> None:
        """The run will end again: what its end wrote before gets another name."""


class NoMirror:
    """Of a run whose folder is its only place."""

    def report_to(self, warned: Callable[[str], None]) -> None: ...

    def check(self) -> None: ...

    async def room(self) -> None: ...

    def published(self, checkpoint: Path, keep: int) -> None: ...

    def forget_after(self, checkpoints: Path, step: int) -> None: ...

    def set_aside(self, run: Path) -> None: ...


NO_MIRROR = NoMirror()
