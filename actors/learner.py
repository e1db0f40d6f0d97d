"""The learner actor: one rank of the learner group, and rank 0's side of the weight channels.

`step` (or `begin_step`, `add`, `finish_step`), `publish`, `perturb`, `restore`, `save`, `save_optimizer`,
`begin_checkpoint` and `load_checkpoint` are collective: the group calls them on every rank in the same order. `send`
and `finish_checkpoint` run in threads of their own beside the next step: what they send and write are copies that
nothing changes. The learner's own code is imported by `start`: the driver, which makes this actor, needs none of it.
"""

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import ray
import torch

from actors.engine import ChannelAddress, WeightStream
from actors.weight_channel import WeightSender, listen
from learners.batch import TrainBatch, TrainSequence
from learners.drafters.settings import CaptureSettings
from learners.settings import AlgorithmSettings, TrainerSettings
from learners.weights import WeightManifest, WeightTruth

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from learners.learner import Learner


SHARED_WITH_DRAFTER = ("model.embed_tokens.weight", "lm_head.weight", "lm_head.bias")


@dataclass(frozen=True, slots=True)
class WindowParcel:
    """Training windows of one rank's step.

    Attributes:
        windows: one reference, in a tuple so that Ray hands it on unread.
    """

    windows: tuple[ray.ObjectRef, ...]
    tokens: int
    nbytes: int


class LearnerWorker:
    """Wrapped with `ray.remote` by the learner group; `send` and `open_sender` belong to its `io` threads."""

    def __init__(self, rank: int, world_size: int) -> None:
        self._rank = rank
        self._world_size = world_size
        self._learner: Learner | None = None
        self._tokenizer: PreTrainedTokenizerBase | None = None
        self._snapshots: dict[int, tuple[WeightManifest, Mapping[str, torch.Tensor]]] = {}
        """Published weights that may still have to be sent, by version."""
        self._drafter: tuple[WeightManifest, Mapping[str, torch.Tensor]] | None = None
        """The drafter's published weights: engines get them through this rank's channels, behind the target's."""
        self._senders: dict[str, WeightSender] = {}
        self._export: tuple[Path, Mapping[str, torch.Tensor]] | None = None
        """Where the checkpoint in progress wants the published weights as a model."""

    def rendezvous(self) -> tuple[str, int]:
        """Host and a free port at which the ranks may meet (asked of rank 0)."""
        host = ray.util.get_node_ip_address()
        with socket.socket() as probe:
            probe.bind((host, 0))
            return host, probe.getsockname()[1]

    def start(
        self,
        model: str,
        algorithm: AlgorithmSettings,
        trainer: TrainerSettings,
        *,
        temperature: float,
        device: Literal["cpu", "gpu"],
        rendezvous: tuple[str, int],
        sequence_parallel: int = 1,
        repeat_seed: int | None = None,
    ) -> None:
        """Join the group and load the model.

        Args:
            sequence_parallel: ranks that share each packed row.
            repeat_seed: of a learner whose every step repeats to the bit; None where it need not.
        """
        from transformers import AutoTokenizer

        from learners.determinism import repeat_to_the_bit
        from learners.learner import Learner
        from learners.process_group import join_process_group

        if repeat_seed is not None:
            repeat_to_the_bit(repeat_seed)
        host, port = rendezvous
        # Ray shows each rank its own GPU alone: it is number 0 there.
        on = torch.device("cuda", 0) if device == "gpu" else torch.device("cpu")
        timeout_s = trainer.step_timeout_s
        join_process_group(self._rank, self._world_size, host, port, on, timeout_s, offload=trainer.cpu_offload)
        self._tokenizer = AutoTokenizer.from_pretrained(model)
        self._learner = Learner(
            model,
            algorithm,
            trainer,
            temperature=temperature,
            rank=self._rank,
            world_size=self._world_size,
            device=on,
            sequence_parallel=sequence_parallel,
        )

    def step(self, batch: TrainBatch) -> dict[str, float]:
        """One training step on the whole batch, of which this rank takes its share."""
        return self.learner.step(batch)

    def begin_step(self, version: int) -> None:
        """A step whose batch comes in parts: see `Learner.begin_step`."""
        self.learner.begin_step(version)

    def add(self, sequences: tuple[TrainSequence, ...]) -> None:
        self.learner.add(sequences)

    def finish_step(self) -> dict[str, float]:
        return self.learner.finish_step()

    def start_anew(self) -> None:
        """See `Learner.start_anew`."""
        self.learner.start_anew()

    def publish(self, version: int, probe_ids: Sequence[int], keep: Sequence[int]) -> WeightTruth | None:
        """Gather the weights as `version` for `send`, beside the older `keep`; rank 0 answers with the truth."""
        manifest, tensors = self.learner.snapshot(version)
        truth = self.learner.truth(manifest, tensors, probe_ids)
        if self._rank != 0:
            return None
        kept = {older: snapshot for older, snapshot in self._snapshots.items() if older in keep}
        self._snapshots = {**kept, version: (manifest, tensors)}
        return truth

    def open_sender(self, engine: str, backend: str, workers: int, timeout_s: float) -> ChannelAddress:
        """Listen for this engine's workers; they join while `send` or the first transfer waits for them."""
        before = self._senders.pop(engine, None)
        if before is not None:  # the engine was replaced
            before.close()
        sender = listen(backend, workers=workers, timeout_s=timeout_s, host=ray.util.get_node_ip_address())
        self._senders[engine] = sender
        return sender.address

    def connect_sender(self, engine: str) -> None:
        """Complete the channel once the engine's workers join; runs while the engine opens its side."""
        self._senders[engine].connect()

    def capture(self, layers: Sequence[int], settings: CaptureSettings) -> None:
        """See `Learner.capture`."""
        self.learner.capture(layers, settings)

    def take_windows(self) -> WindowParcel | None:
        """What the last step left for the drafter's trainer; None where it left nothing."""
        windows = self.learner.take_windows()
        if not windows:
            return None
        return WindowParcel((ray.put(windows),), sum(map(len, windows)), sum(window.nbytes for window in windows))

    def drafter_tables(self, version: int) -> tuple[ray.ObjectRef, ...]:
        """Embedding and head of a published version, which a drafter shares (asked of rank 0)."""
        _, tensors = self._published(version)
        return (ray.put({name: tensors[name] for name in SHARED_WITH_DRAFTER if name in tensors}),)

    def hold_drafter(self, manifest: WeightManifest, tensors: Mapping[str, torch.Tensor]) -> None:
        """These are the drafter's weights to `send` from now on."""
        self._drafter = (manifest, tensors)

    def send(self, engine: str, version: int, stream: WeightStream = "target") -> None:
        """Send a published version to this engine."""
        if stream == "drafter":
            if self._drafter is None or self._drafter[0].version != version:
                raise RuntimeError(f"version {version} of the drafter is not kept")
            self._senders[engine].send(*self._drafter)
            return
        self._senders[engine].send(*self._published(version))

    def _published(self, version: int) -> tuple[WeightManifest, Mapping[str, torch.Tensor]]:
        if version not in self._snapshots:
            raise RuntimeError(f"version {version} is not kept: {sorted(self._snapshots)} are")
        return self._snapshots[version]

    def perturb(self, seed: int, scale: float) -> None:
        self.learner.perturb(seed, scale)

    def restore(self) -> None:
        self.learner.restore()

    def save(self, folder: Path) -> None:
        """Write a Hugging Face checkpoint, atomically."""
        assert self._tokenizer is not None, "start() comes first"
        self.learner.save(folder, self._tokenizer)

    def save_optimizer(self, folder: Path) -> None:
        """See `Learner.save_optimizer`."""
        self.learner.save_optimizer(folder)

    def begin_checkpoint(self, folder: Path, export: Path, version: int) -> None:
        """Copy the training state, to be written to `folder` beside the next steps: see `Learner.begin_checkpoint`.

        Args:
            export: where the published weights of `version` are written as a Hugging Face checkpoint meanwhile.
        """
        self.learner.begin_checkpoint(folder)
        self._export = (export, self._published(version)[1]) if self._rank == 0 else None

    def finish_checkpoint(self) -> None:
        """Until all of the checkpoint is on the disk; one of the `io` threads."""
        self.learner.finish_checkpoint()
        export, self._export = self._export, None
        if export is not None:
            assert self._tokenizer is not None, "start() comes first"
            self.learner.export(export[1], export[0], self._tokenizer)

    def load_checkpoint(self, folder: Path) -> None:
        """See `Learner.load_checkpoint`."""
        self.learner.load_checkpoint(folder)

    def shutdown(self) -> None:
        for sender in self._senders.values():
            sender.close()

    @property
    def learner(self) -> "Learner":
        if self._learner is None:
            raise RuntimeError("start() comes first")
        return self._learner
