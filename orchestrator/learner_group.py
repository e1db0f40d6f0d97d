"""The learner group as the driver sees it: a few verbs over all ranks, each with a deadline.

Invariant: collective verbs reach every rank in the same order, because one driver calls them one after another.
A rank that fails fails the verb, and with it the run: the group has no partial state to go on from.
"""

from collections.abc import Awaitable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import ray
from ray import ObjectRef
from ray.actor import ActorHandle
from ray.exceptions import RayError, RayTaskError

from actors.drafter_trainer import DrafterTruth
from actors.engine import ChannelAddress, WeightStream
from actors.learner import WindowParcel
from learners.batch import TrainBatch, TrainSequence
from learners.drafters.settings import CaptureSettings
from learners.errors import CheckpointError, PolicyError, TrainingStopError
from learners.weights import WeightTruth
from orchestrator.deadline import DeadlineMissed, all_within, within
from orchestrator.errors import RunError

T = TypeVar("T")


class StepInProgress:
    """One training step; each part is put into the object store once, for all ranks."""

    def __init__(self, group: "LearnerGroup", version: int, *, streamed: bool, anew: bool) -> None:
        self._group, self._version, self._streamed, self._anew = group, version, streamed, anew
        self._sequences: tuple[TrainSequence, ...] = ()

    @property
    def batch(self) -> TrainBatch:
        """All that was added."""
        return TrainBatch(self._version, self._sequences)

    async def add(self, part: TrainBatch) -> None:
        if self._streamed:
            if not self._sequences:
                await self._group.on_all("training step", "begin_step", self._version)
            await self._group.on_all("training step", "add", ray.put(part.sequences))
        self._sequences += part.sequences

    async def finish(self) -> dict[str, float]:
        """Make the step; the metrics are the group's."""
        if self._streamed:
            return (await self._group.on_all("training step", "finish_step"))[0]
        if self._anew:
            await self._group.on_all("training from the start", "start_anew")
            metrics = (await self._group.on_all("training step", "step", ray.put(self.batch)))[0]
            # The weights that sampled are not those that training began with: their gap says nothing of the engine.
            return {name: value for name, value in metrics.items() if not name.startswith("engine_gap")}
        return (await self._group.on_all("training step", "step", ray.put(self.batch)))[0]


class LearnerGroup:
    """Args:
    ranks: started actors, by rank.
    step_timeout_s: deadline of one collective verb.
    """

    def __init__(self, ranks: Sequence[ActorHandle], *, step_timeout_s: float) -> None:
        self._ranks = ranks
        self._timeout_s = step_timeout_s

    def begin_step(self, version: int, *, streamed: bool = False, anew: bool = False) -> "StepInProgress":
        """A training step of the learner at `version`, whose batch comes whole or in parts.

        Args:
            streamed: gradients of a part are computed as soon as it comes; else all when the batch is complete.
            anew: the step begins from the weights that the learner was started with, with a fresh optimizer.
        """
        return StepInProgress(self, version, streamed=streamed, anew=anew)

    async def on_all(self, what: str, verb: str, *args: object) -> list[dict[str, float]]:
        """Call this verb on every rank; what it returns, by rank."""
        return await self._collective(what, [getattr(rank, verb).remote(*args) for rank in self._ranks])

    async def publish(self, version: int, probe_ids: Sequence[int], *, keep: Sequence[int]) -> WeightTruth:
        """Take a snapshot of the weights as `version`, ready to be sent; of the older ones, only `keep` stay."""
        calls = [rank.publish.remote(version, probe_ids, keep) for rank in self._ranks]
        truth = (await self._collective("weight snapshot", calls))[0]
        assert truth is not None, "rank 0 answers with the truth"
        return truth

    async def perturb(self, seed: int, scale: float) -> None:
        await self._collective("sync drill", [rank.perturb.remote(seed, scale) for rank in self._ranks])

    async def restore(self) -> None:
        await self._collective("sync drill", [rank.restore.remote() for rank in self._ranks])

    async def save(self, folder: Path) -> None:
        """Write the model as a Hugging Face checkpoint; what cannot be written whole is not there."""
        await self._collective("writing the model", [rank.save.remote(folder) for rank in self._ranks])

    async def save_optimizer(self, folder: Path) -> None:
        """Write what a later training of the same parameters may begin with (`trainer.optimizer_from`)."""
        await self._collective("writing the optimizer", [rank.save_optimizer.remote(folder) for rank in self._ranks])

    async def begin_checkpoint(self, folder: Path, export: Path, version: int) -> None:
        """Copy the training state; it is written to `folder`, and the published `version` to `export`, from now on."""
        calls = [rank.begin_checkpoint.remote(folder, export, version) for rank in self._ranks]
        await self._collective("the checkpoint", calls)

    async def finish_checkpoint(self) -> None:
        """Until the checkpoint that was begun is on the disk; may be awaited beside training."""
        ranks = range(len(self._ranks))
        await self._collective("the checkpoint", [self._io("finish_checkpoint", rank=rank) for rank in ranks])

    async def load_checkpoint(self, folder: Path) -> None:
        """Go on from what a checkpoint holds."""
        await self._collective("loading the checkpoint", [rank.load_checkpoint.remote(folder) for rank in self._ranks])

    async def open_sender(self, engine: str, backend: str, workers: int, timeout_s: float) -> ChannelAddress:
        call = self._io("open_sender", engine, backend, workers, timeout_s)
        return await within(timeout_s, call, f"weight channel of {engine}")

    async def connect_sender(self, engine: str, timeout_s: float) -> None:
        await within(timeout_s, self._io("connect_sender", engine), f"weight channel of {engine}")

    async def send(self, engine: str, version: int, timeout_s: float, stream: WeightStream = "target") -> None:
        await within(timeout_s, self._io("send", engine, version, stream), f"transfer of the {stream} to {engine}")

    async def capture(self, layers: Sequence[int], settings: CaptureSettings) -> None:
        """From the next step on, keep windows of these layers' hidden states."""
        await self._collective("capture", [rank.capture.remote(layers, settings) for rank in self._ranks])

    async def take_windows(self) -> list[WindowParcel]:
        """What the last step left on the ranks."""
        calls: list[Awaitable[WindowParcel | None]] = [rank.take_windows.remote() for rank in self._ranks]
        return [parcel for parcel in await self._collective("windows", calls) if parcel is not None]

    async def drafter_tables(self, version: int) -> ObjectRef:
        """A reference to the embedding and head of a published version that is still kept."""
        tables: tuple[ObjectRef, ...] = await within(self._timeout_s, self._io("drafter_tables", version), "tables")
        return tables[0]

    async def hold_drafter(self, truth: DrafterTruth) -> None:
        """Make these the drafter's weights that `send` sends."""
        call = self._io("hold_drafter", truth.manifest, truth.tensors[0])
        await within(self._timeout_s, call, "weights of the drafter")

    async def close(self, timeout_s: float = 10.0) -> None:
        """Close the channels and kill the ranks."""
        with suppress(RayError, DeadlineMissed):  # they are killed below either way
            await within(timeout_s, self._io("shutdown"), "shutdown of the learner")
        for rank in self._ranks:
            ray.kill(rank, no_restart=True)

    def _io(self, verb: str, *args: object, rank: int = 0) -> "ray.ObjectRef":
        return getattr(self._ranks[rank], verb).options(concurrency_group="io").remote(*args)

    async def _collective(self, what: str, calls: Sequence[Awaitable[T]]) -> list[T]:
        try:
            return await all_within(self._timeout_s, calls, what)
        except RayTaskError as error:
            cause = error.cause
            if isinstance(cause, PolicyError):
                raise RunError(str(cause), "free some space or set run_dir to another disk") from error
            if isinstance(cause, TrainingStopError):
                raise RunError(str(cause), cause.fix) from error
            if isinstance(cause, CheckpointError):
                raise RunError(str(cause), "free some space, or resume from another checkpoint") from error
            last = str(cause).strip().splitlines() or [""]
            reason = f"{what} failed: {type(cause).__name__}: {last[0]}"
            raise RunError(reason, "the learner's log lies in Ray's session folder") from error
        except RayError as error:
            raise RunError(f"{what} failed: the learner died", "its log lies in Ray's session folder") from error
