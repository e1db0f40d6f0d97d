"""The checkpoints of a run: what lies in one, how it comes to be whole, and which of them are kept.

    checkpoints/step-000010/   learner/    the learner's sharded state (`learners.checkpoint`)
                               model/      the same weights as a Hugging Face checkpoint
                               drafter/    the drafter that serves, in a run that trains one
                               run.json    the driver's state, the recipe, and the sizes of the learner's files

All of it is written into a draft beside it and appears by one rename: a checkpoint has a run.json, or it is none.
Invariants: one write at a time, `write` waits for the one before; a write that fails leaves no checkpoint, and the
next `check`, `write` or `settle` says so in one line; older checkpoints go only when a newer one is there, and of those
that go model and drafter stay.
"""

import asyncio
import functools
import json
import os
import shutil
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from pydantic import JsonValue, TypeAdapter

from learners.errors import first_line
from orchestrator.deadline import within
from orchestrator.disk import disk_errors
from orchestrator.errors import PacelineError, SettingError
from orchestrator.run_layout import CARD, DRAFTER, LEARNER, MODEL, step_name, step_of
from orchestrator.stages.recipes import StageRecipe
from orchestrator.storage.mirror import NO_MIRROR, Mirror

FORMAT = 1
CLOSE_S = 20.0
"""How long a run that stops waits for the checkpoint in progress."""


class State(Protocol):
    """What a driver remembers at a step boundary: a dataclass of what JSON can hold."""

    @property
    def step(self) -> int:
        """Training steps made."""

    @property
    def weights(self) -> dict[str, int]:
        """Checksum of each tensor at that step."""


S = TypeVar("S", bound=State, covariant=True)


@dataclass(frozen=True, slots=True)
class Card:
    """What run.json says. `files`: the learner's, with their sizes in bytes."""

    format: int
    recipe: dict[str, JsonValue]
    files: dict[str, int]
    state: JsonValue


_CARD = TypeAdapter(Card)


@functools.cache
def _adapter(state: type[S]) -> TypeAdapter[S]:
    return TypeAdapter(state)


@dataclass(frozen=True, slots=True)
class Checkpoint(Generic[S]):
    """One that can be resumed from."""

    path: Path
    recipe: dict[str, JsonValue]
    state: S

    @property
    def learner(self) -> Path:
        return self.path / LEARNER

    @property
    def drafter(self) -> Path | None:
        """That served; None where the run trained none."""
        folder = self.path / DRAFTER
        return folder if folder.is_dir() else None


class CheckpointSource(Protocol):
    """The learners."""

    async def begin_checkpoint(self, folder: Path, export: Path, version: int) -> None: ...

    async def finish_checkpoint(self) -> None: ...


class Checkpoints:
    """Args:
    folder: of all checkpoints of a run.
    recipe: the run goes on with only where it agrees.
    save_drafter: writes the drafter that serves into a folder; None where the run trains none.
    mirror: gets a copy of each, and the next is not begun before.
    """

    def __init__(
        self,
        folder: Path,
        recipe: StageRecipe,
        learners: CheckpointSource,
        save_drafter: Callable[[Path], Awaitable[None]] | None = None,
        mirror: Mirror = NO_MIRROR,
    ) -> None:
        self._folder, self._learners, self._save_drafter = folder, learners, save_drafter
        self._mirror = mirror
        self._recipe: dict[str, JsonValue] = recipe.model_dump(mode="json")
        self._keep, self._timeout_s = recipe.trainer.keep_checkpoints, recipe.trainer.step_timeout_s
        self._writing: asyncio.Task[None] | None = None
        self._newest: int | None = None
        """Step of the checkpoint that was begun last, or that the run goes on from."""

    async def write(self, state: State) -> None:
        """Have the learner's state copied; everything is written from then on, beside the next steps.

        `state` is read before anything is waited for.

        Raises:
            RunError: the checkpoint before this one could not be written, or this one not begun.
        """
        content = _adapter(type(state)).dump_python(state, mode="json")
        await self.settle()
        await self._mirror.room()
        draft = self._draft(state.step)
        with disk_errors(f"the checkpoint {draft}"):
            shutil.rmtree(draft, ignore_errors=True)  # of a process that died while writing
            draft.mkdir(parents=True)
        await self._learners.begin_checkpoint(draft / LEARNER, draft / MODEL, state.step)
        self._newest = state.step
        self._writing = asyncio.create_task(self._finish(state.step, content), name=f"checkpoint {state.step}")

    async def write_last(self, state: State) -> None:
        """Until `state` is in a checkpoint, which it may be already. Raises: RunError: it could not be written."""
        if self._newest != state.step:
            await self.write(state)
        await self.settle()

    def check(self) -> None:
        """Raises: RunError: the last write has failed."""
        if self._writing is not None and self._writing.done():
            writing, self._writing = self._writing, None
            if (failure := writing.exception()) is not None:
                raise failure

    async def settle(self) -> None:
        """Until nothing is being written. Raises: RunError: it could not be."""
        if self._writing is not None:
            # The task outlives a wait that is given up: whoever comes next sees how it ends.
            await within(self._timeout_s, asyncio.shield(self._writing), "the checkpoint")
            self._writing = None

    async def close(self) -> None:
        """The run stops: give the write in progress a little time."""
        if self._writing is not None:
            with suppress(PacelineError):
                await within(CLOSE_S, self._writing, "the checkpoint")

    def forget_after(self, step: int) -> None:
        """The run goes on from this step: what it wrote beyond did not happen."""
        self._newest = step
        self._mirror.forget_after(self._folder, step)
        for path in _folders(self._folder):
            if step_of(path.name) > step:
                _withdraw(path)
                shutil.rmtree(path, ignore_errors=True)
        for draft in self._folder.glob(".step-*.partial"):
            shutil.rmtree(draft, ignore_errors=True)

    async def _finish(self, step: int, content: object) -> None:
        draft = self._draft(step)
        try:
            if self._save_drafter is not None:
                await self._save_drafter(draft / DRAFTER)
            await self._learners.finish_checkpoint()
            await asyncio.to_thread(self._publish, step, content)
        except PacelineError:
            await asyncio.to_thread(shutil.rmtree, draft, ignore_errors=True)
            raise

    def _publish(self, step: int, content: object) -> None:
        draft, path = self._draft(step), self._folder / step_name(step)
        with disk_errors(f"the checkpoint {path}"):
            files = {file.name: file.stat().st_size for file in sorted((draft / LEARNER).iterdir())}
            card = {"format": FORMAT, "recipe": self._recipe, "files": files, "state": content}
            with (draft / CARD).open("w", encoding="utf-8") as file:
                json.dump(card, file)
                file.flush()
                os.fsync(file.fileno())
            os.rename(draft, path)
            _sync_folder(self._folder)
            for older in [path for path in _folders(self._folder) if (path / CARD).is_file()][: -self._keep]:
                _withdraw(older)
                shutil.rmtree(older / LEARNER, ignore_errors=True)
        self._mirror.published(path, self._keep)

    def _draft(self, step: int) -> Path:
        return self._folder / f".{step_name(step)}.partial"


def has_checkpoint(folder: Path) -> bool:
    """Whether there is anything to resume from among a run's checkpoints."""
    return any((path / CARD).is_file() for path in _folders(folder))


def find_checkpoint(folder: Path, state: type[S], step: int | None = None) -> Checkpoint[S]:
    """The newest checkpoint of a run, or that of this step.

    Args:
        folder: of all its checkpoints.
        state: what the run's driver remembers.

    Raises:
        SettingError: there is none, or it is damaged.
    """
    whole = {step_of(path.name): path for path in _folders(folder) if (path / CARD).is_file()}
    if step is None:
        if not whole:
            raise SettingError(
                "RUN", f"{folder} holds no checkpoint to resume from", "set trainer.checkpoint_every in the next run"
            )
        step = max(whole)
    if step not in whole:
        known = ", ".join(map(str, sorted(whole))) or "none"
        raise SettingError("--step", f"{folder} has no checkpoint of step {step}", f"there are: {known}")
    return _read(whole[step], state)


def _read(path: Path, state: type[S]) -> Checkpoint[S]:
    fix = "resume from an older one with --step"
    try:
        card = _CARD.validate_python(json.loads((path / CARD).read_text(encoding="utf-8")))
        remembered = _adapter(state).validate_python(card.state) if card.format == FORMAT else None
    except (OSError, ValueError) as error:  # pydantic's ValidationError is one
        first = first_line(error)
        raise SettingError("RUN", f"{path / CARD} cannot be read: {first}", fix) from None
    if remembered is None:
        raise SettingError("RUN", f"{path} has format {card.format}, this version reads {FORMAT}", fix)
    for name, size in card.files.items():
        file = path / LEARNER / name
        found = file.stat().st_size if file.is_file() else None
        if found != size:
            fault = "is missing" if found is None else f"has {found} bytes of {size}"
            raise SettingError("RUN", f"the checkpoint is damaged: {file} {fault}", fix)
    return Checkpoint(path, card.recipe, remembered)


def _folders(folder: Path) -> list[Path]:
    """Of steps, ascending; drafts are none."""
    return sorted((path for path in folder.glob("step-*") if path.is_dir()), key=lambda path: step_of(path.name))


def _withdraw(path: Path) -> None:
    """From now on it is no checkpoint, whatever becomes of the rest."""
    with suppress(FileNotFoundError):
        (path / CARD).unlink()


def _sync_folder(folder: Path) -> None:
    """The rename outlives a crash of the machine."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
