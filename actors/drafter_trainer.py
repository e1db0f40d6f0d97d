"""The drafter trainer: an actor that learns from windows of the learner's own forward pass, one micro-step a call.

It has no loop of its own: whoever holds a lease on the accelerator calls `micro_step` for as long as the lease lasts,
so that taking the lease back costs one micro-step at most, and a lost message costs nothing.

Invariants:
- what engines draft with (`serving`) changes in `publish` and `take_back` alone; training goes on beside it;
- held-out windows are never trained on; both sets of weights are judged on the same ones;
- a training checkpoint is written beside the next micro-step, from copies.
"""

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import ray
import torch

from learners.drafters.errors import DrafterError
from learners.drafters.settings import DrafterTrainingSettings, WindowBufferSettings
from learners.weights import TensorSpec, WeightManifest, checksum

if TYPE_CHECKING:
    from learners.drafters.drafter_files import DrafterCard
    from learners.drafters.drafter_training import DrafterTrainer
    from learners.drafters.shadow import ShadowScore
    from learners.drafters.window_buffer import BufferCounts, WindowBuffer
    from learners.drafters.windows import Window


@dataclass(frozen=True, slots=True)
class Judged:
    """Shadow scores of the weights in training and of those that serve, on the same held-out windows."""

    candidate: "ShadowScore"
    serving: "ShadowScore"


@dataclass(frozen=True, slots=True)
class DrafterTruth:
    """A published version of the drafter.

    Attributes:
        checksums: of each tensor, by name.
        tensors: one reference (in a tuple, so that Ray hands it on unread) to the tensors by name.
    """

    manifest: WeightManifest
    checksums: Mapping[str, int]
    tensors: tuple[ray.ObjectRef, ...]


class DrafterTrainerWorker:
    """Wrapped with `ray.remote` by the launcher; all calls are served one after another."""

    def __init__(self) -> None:
        self._trainer: DrafterTrainer | None = None
        self._buffer: WindowBuffer | None = None
        self._card: DrafterCard | None = None
        self._serving: dict[str, torch.Tensor] = {}
        self._wire: torch.dtype = torch.float32
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="drafter checkpoint")
        self._writing: Future[None] | None = None

    def start(
        self,
        model: str,
        drafter: str,
        training: DrafterTrainingSettings,
        buffer: WindowBufferSettings,
        *,
        wire_dtype: str,
        device: Literal["cpu", "gpu"],
        threads: int,
    ) -> tuple[int, ...]:
        """Load the drafter from its folder, and of its target the embedding and head alone.

        Args:
            wire_dtype: in which its weights are published, the engines' own.

        Returns: the layers of the target whose hidden states its windows must hold.

        Raises:
            DrafterError: the drafter cannot be read.
        """
        from learners.drafters.drafter_files import load_drafter
        from learners.drafters.drafter_training import DrafterTrainer
        from learners.drafters.target import DraftTarget
        from learners.drafters.window_buffer import WindowBuffer

        torch.set_num_threads(threads)
        on = torch.device("cuda", 0) if device == "gpu" else torch.device("cpu")
        tables = DraftTarget.of_folder(Path(model)).tables(torch.float32, on)
        loaded, self._card = load_drafter(Path(drafter), tables)
        self._trainer = DrafterTrainer(loaded, training, on)
        self._buffer = WindowBuffer(buffer)
        self._wire = getattr(torch, wire_dtype)
        self._serving = self._copy()
        return tuple(loaded.reads)

    def offer(self, windows: "list[Window]") -> "BufferCounts":
        """Windows of the learner's step in progress."""
        self.buffer.add(windows)
        return self.buffer.counts

    def end_step(self) -> None:
        """The learner has made its step."""
        self.buffer.end_step()

    def refresh(self, tables: Mapping[str, torch.Tensor]) -> None:
        """The target's embedding and head of a newer version."""
        self.trainer.refresh(tables)

    def micro_step(self, token_budget: int) -> dict[str, float]:
        """One update on windows of the buffer; empty where there is nothing to train on.

        Raises:
            DrafterDivergedError: see `DrafterTrainer.micro_step`.
        """
        windows = [window for window in self.buffer.sample(token_budget) if len(window) > 1]
        return self.trainer.micro_step(windows) if windows else {}

    def judge(self, positions: int) -> Judged | None:
        """Score the weights in training and those that serve; None where no held-out window is long enough."""
        windows = [window for window in self.buffer.held_out() if len(window) > positions]
        if not windows:
            return None
        candidate = self.trainer.evaluate(windows, positions)
        trained = self._copy()
        self._fill(self._serving)
        try:
            serving = self.trainer.evaluate(windows, positions)
        finally:
            self._fill(trained)
        return Judged(candidate, serving)

    def publish(self, version: int) -> DrafterTruth:
        """The weights in training become those that serve, under this version."""
        self._serving = self._copy()
        return self._truth(version)

    def take_back(self, truth: DrafterTruth) -> None:
        """Engines draft with this earlier version again; training goes on from there."""
        earlier: Mapping[str, torch.Tensor] = ray.get(truth.tensors[0], timeout=_FETCH_S)
        self._fill(earlier)
        self._serving = self._copy()

    def save(self, folder: Path, version: int) -> None:
        """Write the serving weights as vLLM loads them.

        Raises:
            DrafterError: the folder is taken, or the disk refused.
        """
        from learners.drafters.drafter_files import DrafterCard, save_drafter

        trained = self._copy()
        self._fill(self._serving)
        try:
            save_drafter(self.trainer.drafter, DrafterCard(self.card.fingerprint, version), folder, self._wire)
        finally:
            self._fill(trained)

    def checkpoint(self, folder: Path, version: int) -> None:
        """Begin to write what is trained, and nothing else, beside the steps to come; the last write has ended then.

        Raises:
            DrafterError: the last one could not be written.
        """
        from learners.drafters.drafter_files import DrafterCard, save_training

        self.finish_checkpoint()
        state = {name: tensor.to("cpu", copy=True) for name, tensor in self.trainer.state().items()}
        card = DrafterCard(self.card.fingerprint, version)
        self._writing = self._writer.submit(save_training, state, card, folder)

    def finish_checkpoint(self) -> None:
        """Until the last checkpoint is on the disk. Raises: DrafterError: it could not be written."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result(timeout=_FETCH_S)

    def restore(self, folder: Path) -> None:
        """Go on from a training checkpoint.

        Raises:
            DrafterError: it cannot be read, or is another drafter's.
        """
        from learners.drafters.drafter_files import load_training

        state, card = load_training(folder)
        if card.fingerprint != self.card.fingerprint:
            raise DrafterError(f"{folder}: the training state of a drafter for another target")
        self.trainer.restore(state)
        self._serving = self._copy()

    @property
    def trainer(self) -> "DrafterTrainer":
        if self._trainer is None:
            raise RuntimeError("start() comes first")
        return self._trainer

    @property
    def buffer(self) -> "WindowBuffer":
        if self._buffer is None:
            raise RuntimeError("start() comes first")
        return self._buffer

    @property
    def card(self) -> "DrafterCard":
        if self._card is None:
            raise RuntimeError("start() comes first")
        return self._card

    def _truth(self, version: int) -> DrafterTruth:
        tensors = {name: tensor.to("cpu", self._wire).contiguous() for name, tensor in self._serving.items()}
        specs = tuple(
            TensorSpec(name, str(self._wire).removeprefix("torch."), tuple(tensor.shape))
            for name, tensor in tensors.items()
        )
        checksums = {name: checksum(tensor) for name, tensor in tensors.items()}
        return DrafterTruth(WeightManifest(version, specs), checksums, (ray.put(tensors),))

    def _copy(self) -> dict[str, torch.Tensor]:
        return {name: tensor.detach().clone() for name, tensor in self.trainer.drafter.trainable().items()}

    def _fill(self, tensors: Mapping[str, torch.Tensor]) -> None:
        from learners.drafters.drafter_files import fill

        fill(self.trainer.drafter, tensors, "the drafter in memory")


_FETCH_S = 120.0
