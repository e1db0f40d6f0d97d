"""One rank of a learner group: the policy's shard, its optimizer, and the steps that train it.

Invariants:
- Every public method is called on all ranks, in the same order, with the same arguments: inside are
  collectives. The caller guarantees it; a rank that is missing ends the others at the process group's
  timeout.
- The process group exists before and outlives the learner (`learners.process_group`).
- A step's result depends neither on the number of ranks nor on the token budget nor on the parts in which its batch
  came, up to float rounding: losses are normalised by counts of the whole batch.
- Nothing leaves or replaces the weights while a streamed step is half done.
- Parameters are float32 masters; what leaves through `snapshot`, `truth` and `save` is in the wire dtype,
  the compute dtype, and `probe_logprobs` computes with exactly those values.
"""

import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from transformers import PreTrainedTokenizerBase

from learners.adapters import Adapters, WithoutAdapters
from learners.backend import open_backend
from learners.base_weights import BaseWeights
from learners.batch import TrainBatch, TrainSequence
from learners.companion import Companion
from learners.critic.advantages import asks_critic
from learners.critic.credit import credit_tokens
from learners.critic.critic import Critic
from learners.drafters.capture import HiddenCapture
from learners.drafters.settings import CaptureSettings
from learners.drafters.windows import Window
from learners.errors import EmptyBatchError, PolicyError
from learners.logprobs import TokenLogprobs
from learners.micro_batch import Part, cut_minibatches, cut_part
from learners.objective import companions_needed, needs_of_objective
from learners.off_policy import check_writers_are_known
from learners.packing import pack
from learners.perturbation import Perturbation
from learners.policy import Policy, checkpoint_names, own_state, save_policy
from learners.sequence_parallel import open_grid
from learners.settings import AlgorithmSettings, CompanionSettings, TrainerSettings
from learners.sharding import cut_like, local_shard
from learners.skipped_updates import SkippedUpdates
from learners.trained_policy import open_policy
from learners.training_record import TrainingRecord
from learners.training_step import Trainee, TrainingStep
from learners.weights import TensorSpec, WeightManifest, WeightTruth, checksum


@dataclass(slots=True)
class _StreamedStep:
    """A step whose batch comes in parts, and what has come: `tokens` read, `seconds` of work."""

    step: TrainingStep
    parts: int = 0
    tokens: int = 0
    seconds: float = 0.0


class Learner:
    """Trains one policy on batches of answers.

    Args:
        model: folder of a Hugging Face checkpoint, or a hub id.
        temperature: at which the answers were sampled; logprobs are of the distribution at this temperature.
        sequence_parallel: ranks that share each packed row; divides `world_size`.
        device: ``cpu``, or this rank's ``cuda:i``.

    Raises:
        RuntimeError: the process group is missing or of another shape.
        PolicyError: the model cannot be loaded.
        UnknownNameError: the algorithm names a part that does not exist.
    """

    def __init__(
        self,
        model: str,
        algorithm: AlgorithmSettings,
        trainer: TrainerSettings,
        *,
        temperature: float,
        rank: int,
        world_size: int,
        device: torch.device,
        sequence_parallel: int = 1,
    ) -> None:
        if not dist.is_initialized() or (dist.get_rank(), dist.get_world_size()) != (rank, world_size):
            raise RuntimeError(f"rank {rank} of {world_size}: join the learner's process group first")
        self._model = model
        self._algorithm = algorithm
        self._trainer = trainer
        self._temperature = temperature
        self._rank = rank
        self._world_size = world_size
        self._device = device
        self._wire_dtype: torch.dtype = getattr(torch, trainer.dtype)
        self._grid = open_grid(rank, world_size, sequence_parallel, trainer.step_timeout_s)
        needs = needs_of_objective(algorithm)
        self._watched = "attention" in needs
        self._policy, self._adapters = self._open_policy()
        # Before it is sharded: every rank has all of it.
        base = None if self._adapters is None else BaseWeights(self._adapters.base())
        mesh = init_device_mesh(device.type, (world_size,))
        self._backend = open_backend(self._policy, trainer, mesh, self._wire_dtype, self._adapters)
        self._companions = {
            name: self._open_companion(getattr(algorithm, name), model, mesh)
            for name in sorted(companions_needed(algorithm))
        }
        self._critic: Critic | None = None
        if asks_critic(algorithm.advantage):
            vocabulary = self._policy.model.config.vocab_size
            self._critic = Critic(algorithm, trainer, model, vocabulary=vocabulary, mesh=mesh, dtype=self._wire_dtype)
        self._record = TrainingRecord(
            self._backend, self._companions, self._critic, base, timeout_s=trainer.step_timeout_s
        )
        self._trainee = Trainee(
            self._backend,
            algorithm,
            needs,
            temperature,
            device,
            SkippedUpdates("the policy", trainer.max_skipped_updates),
            self._companions,
            self._critic,
            data_group=self._grid.data_group,
        )
        self._windows: list[Window] = []
        self._streamed: _StreamedStep | None = None
        self._perturbation: Perturbation | None = None
        if trainer.optimizer_from is not None:
            self._record.take_over_optimizer(Path(trainer.optimizer_from))

    def capture(self, layers: Sequence[int], settings: CaptureSettings) -> None:
        """From now on, keep windows of these layers' hidden states from the passes that training makes anyway.

        Raises:
            DrafterError: the model has no such layer.
            RuntimeError: a streamed step is half done.
        """
        self._expect_between_steps("another capture")
        kept = HiddenCapture(self._policy.model, layers, settings, self._grid.sequence_group)
        self._trainee = replace(self._trainee, capture=kept)

    def take_windows(self) -> list[Window]:
        """What this rank's last training step left, once."""
        windows, self._windows = self._windows, []
        return windows

    def step(self, batch: TrainBatch) -> dict[str, float]:
        """Train on one batch; every rank gets all of it and takes its share.

        Returns: the step's metrics, equal on all ranks but for `seconds`.

        Raises:
            EmptyBatchError: nothing to train on.
            DivergedError: too many updates in a row had a loss or a gradient that is not finite.
            ValueError: a sequence longer than the token budget.
            RuntimeError: the weights are perturbed, or a streamed step is half done.
        """
        self._expect_between_steps("a training step")
        self._expect_true_weights("a training step")
        started = time.perf_counter()
        check_writers_are_known(batch.sequences, self._algorithm.off_policy)
        minibatches = cut_minibatches(
            batch.sequences,
            version=batch.version,
            minibatches=self._trainer.minibatches,
            token_budget=self._trainer.token_budget,
            rank=self._grid.data_rank,
            ranks=self._grid.data_ranks,
            whole_groups="whole_groups" in self._trainee.needs,
        )
        if self._critic is not None:
            minibatches = credit_tokens(minibatches, self._critic, self._algorithm)
        starts = self._start_logprobs(minibatches)
        step = TrainingStep(self._trainee, batch.version)
        for index, minibatch in enumerate(minibatches):
            step.add(minibatch, starts[index] if starts is not None else None)
            step.update()
        self._let_companions_follow()
        self._windows = step.windows
        return {**step.metrics(), "tokens": float(batch.tokens), "seconds": time.perf_counter() - started}

    def begin_step(self, version: int) -> None:
        """Begin a step whose batch comes in parts: `add` each of them, then `finish_step`.

        The result is that of `step` on the whole batch, up to float rounding, however it was cut. It is one optimizer
        step, so `trainer.minibatches` must be 1.

        Args:
            version: of the batch, from which the staleness of its tokens counts.

        Raises:
            RuntimeError: the weights are perturbed, a streamed step is half done, or there are several minibatches.
        """
        self._expect_between_steps("another step")
        self._expect_true_weights("a training step")
        if self._trainer.minibatches != 1:
            raise RuntimeError(
                f"trainer.minibatches is {self._trainer.minibatches}, but a streamed batch makes one optimizer step: "
                f"set it to 1 or train on whole batches"
            )
        self._streamed = _StreamedStep(TrainingStep(self._trainee, version))

    def add(self, sequences: tuple[TrainSequence, ...]) -> None:
        """Add the gradients of some whole sequences to the step; every rank gets all of them and takes its share.

        Sequences without a trained token cost nothing; a part may hold no others, or none at all.

        Raises:
            RuntimeError: no step has begun.
            ValueError: a sequence is longer than the token budget; nothing was added.
        """
        streamed = self._half_done("add()")
        started = time.perf_counter()
        check_writers_are_known(sequences, self._algorithm.off_policy)
        part = cut_part(
            sequences,
            version=streamed.step.version,
            token_budget=self._trainer.token_budget,
            rank=self._grid.data_rank,
            ranks=self._grid.data_ranks,
            whole_groups="whole_groups" in self._trainee.needs,
        )
        if self._critic is not None:
            (part,) = credit_tokens((part,), self._critic, self._algorithm)
        streamed.step.add(part)
        streamed.parts += 1
        streamed.tokens += sum(len(sequence) for sequence in sequences)
        streamed.seconds += time.perf_counter() - started

    def finish_step(self) -> dict[str, float]:
        """Make the optimizer step of all that was added.

        Returns: the metrics of `step`; `seconds` counts the work and not the waits between the parts.

        Raises:
            RuntimeError: no step has begun, or nothing was added.
            EmptyBatchError: no token of what was added takes loss. The step stays half done.
            DivergedError: see `step`. The step stays half done.
        """
        streamed = self._half_done("finish_step()")
        if not streamed.parts:
            raise RuntimeError("nothing was added to this step: add() comes before finish_step()")
        if not streamed.step.counts.tokens:
            raise EmptyBatchError
        started = time.perf_counter()
        streamed.step.update()
        self._let_companions_follow()
        metrics = streamed.step.metrics()
        self._windows = streamed.step.windows
        self._streamed = None
        seconds = streamed.seconds + time.perf_counter() - started
        return {**metrics, "tokens": float(streamed.tokens), "seconds": seconds}

    def abandon_step(self) -> None:
        """Forget a streamed step that is half done, as if it had never begun.

        Raises:
            RuntimeError: no step has begun.
        """
        self._half_done("abandon_step()")
        self._backend.discard()
        if self._critic is not None:
            self._critic.discard()
        self._streamed = None

    def _open_policy(self) -> tuple[Policy, Adapters | None]:
        return open_policy(self._model, self._trainer, self._grid.sequence_group, self._device, watched=self._watched)

    def _open_companion(self, settings: CompanionSettings, model: str, mesh: DeviceMesh) -> Companion | WithoutAdapters:
        if self._adapters is not None and settings.kind == "fixed" and settings.model is None:
            return WithoutAdapters(self._policy, self._adapters)
        return Companion(
            settings,
            model,
            vocabulary=self._policy.model.config.vocab_size,
            mesh=mesh,
            dtype=self._wire_dtype,
            sequence_group=self._grid.sequence_group,
            offload=self._trainer.cpu_offload,
        )

    @torch.no_grad()
    def start_anew(self) -> None:
        """Go back to the weights of the checkpoint that training began with, and to a fresh optimizer.

        Raises:
            RuntimeError: the weights are perturbed, or a streamed step is half done.
        """
        self._expect_between_steps("a start anew")
        self._expect_true_weights("a start anew")
        first, _ = self._open_policy()
        fresh = own_state(first.model)
        state = self._backend.training_state()
        for name, tensor in state.items():
            if name.startswith("model."):
                local_shard(tensor).copy_(local_shard(cut_like(tensor, fresh[name.removeprefix("model.")])))
            else:
                local_shard(tensor).zero_()
        self._backend.accept_training_state(state)

    def _let_companions_follow(self) -> None:
        following = [companion for companion in self._companions.values() if companion.follows(self.steps)]
        if not following:
            return
        trained = self._backend.parameters() if self._adapters is None else self._adapters.merged()
        for companion in following:
            companion.follow(trained)

    def _expect_true_weights(self, wish: str) -> None:
        if self._perturbation is not None:
            raise RuntimeError(f"the weights are perturbed: restore them before {wish}")

    def _expect_between_steps(self, wish: str) -> None:
        if self._streamed is not None:
            raise RuntimeError(f"a streamed step is half done: finish_step() or abandon_step() before {wish}")

    def _half_done(self, wish: str) -> _StreamedStep:
        if self._streamed is None:
            raise RuntimeError(f"no step is half done: begin_step() comes before {wish}")
        return self._streamed

    def _start_logprobs(self, minibatches: Sequence[Part]) -> list[list[TokenLogprobs]] | None:
        """[minibatch][micro-batch] what the weights at the start of the batch give, where the clip wants it.

        None where they need no pass of their own: with one minibatch, the update's own forward has those
        weights.
        """
        if self._algorithm.old_logprobs != "recompute" or len(minibatches) == 1:
            return None
        return [
            [
                self._backend.forward_only(
                    micro.packed, micro.positions, self._temperature, "moments" in self._trainee.needs
                )
                for micro in minibatch.micro_batches
            ]
            for minibatch in minibatches
        ]

    def snapshot(self, version: int) -> tuple[WeightManifest, dict[str, Tensor]]:
        """The weights as an engine shall see them: wire dtype, names of the checkpoint, a tied head left out.

        Returns: the manifest, and the full tensors on rank 0 (detached copies); other ranks get an empty
        dict.

        Raises:
            RuntimeError: a streamed step is half done.
        """
        self._expect_between_steps("a snapshot")
        full = self._full_state()
        specs = tuple(
            TensorSpec(name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))
            for name, tensor in full.items()
        )
        shared = [specs]
        if self._world_size > 1:
            dist.broadcast_object_list(shared, src=0)
        return WeightManifest(version, shared[0]), full

    def truth(self, manifest: WeightManifest, tensors: Mapping[str, Tensor], probe_ids: Sequence[int]) -> WeightTruth:
        """What attestation compares with; `tensors` is this rank's part of `snapshot` (so checksums exist on
        rank 0).

        Invariant, the caller's: the weights have not changed since the snapshot.
        """
        checksums = {name: checksum(tensor) for name, tensor in tensors.items()}
        return WeightTruth(manifest, checksums, self.probe_logprobs(probe_ids))

    def probe_logprobs(self, token_ids: Sequence[int]) -> list[float]:
        """Logprob of each token after the first at temperature 1, computed with the weights in the wire
        dtype."""
        with nullcontext() if self._adapters is None else self._adapters.merged_in(self._policy):
            return [float(value) for value in self._backend.forward_only(pack([token_ids])).logprobs.tolist()]

    def perturb(self, seed: int, scale: float) -> None:
        """Change every matrix by seeded noise of `scale` x its own standard deviation, until `restore`.

        Raises:
            RuntimeError: it is perturbed already, or a streamed step is half done.
        """
        self._expect_between_steps("a perturbation")
        if self._perturbation is not None:
            raise RuntimeError("the weights are perturbed already: restore them first")
        parameters = self._backend.parameters()
        self._perturbation = Perturbation(parameters, seed=seed, scale=scale)
        self._backend.accept_parameters(parameters)

    def restore(self) -> None:
        """Bring back the bits from before `perturb`.

        Raises:
            RuntimeError: nothing is perturbed.
        """
        if self._perturbation is None:
            raise RuntimeError("the weights are not perturbed: there is nothing to restore")
        self._backend.accept_parameters(self._perturbation.take_back())
        self._perturbation = None

    def save(self, folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
        """Write the policy as a Hugging Face checkpoint in the wire dtype, whole or not at all.

        Raises:
            PolicyError: on every rank, where rank 0 could not write.
            RuntimeError: a streamed step is half done.
        """
        self._expect_between_steps("an export")
        full = self._full_state()
        problem: list[str] = [""]
        if self._rank == 0:
            try:
                save_policy(self._policy.model, full, tokenizer, folder)
            except PolicyError as error:
                problem = [str(error)]
        if self._world_size > 1:
            dist.broadcast_object_list(problem, src=0)
        if problem[0]:
            raise PolicyError(problem[0])

    def export(self, tensors: Mapping[str, Tensor], folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
        """Write a snapshot's tensors as `save` writes the policy; rank 0 alone, beside whatever else goes on.

        Raises:
            PolicyError: it could not be written.
        """
        save_policy(self._policy.model, tensors, tokenizer, folder)

    def begin_checkpoint(self, folder: Path) -> None:
        """Copy model, optimizer and step count, and write the copy beside the next steps, whole or not at all.

        Any number of ranks can load it. The last write has ended when this returns.

        Raises:
            CheckpointError: on every rank, where the last write failed.
            RuntimeError: a streamed step is half done, or the weights are perturbed.
        """
        self._expect_between_steps("a checkpoint")
        self._expect_true_weights("a checkpoint")
        self._record.begin(folder)

    def finish_checkpoint(self) -> None:
        """Until the checkpoint that was begun is on the disk; another thread may wait while this one trains.

        Raises:
            CheckpointError: on every rank, where it could not be written.
        """
        self._record.finish()

    def save_checkpoint(self, folder: Path) -> None:
        """The same, and wait for it."""
        self.begin_checkpoint(folder)
        self.finish_checkpoint()

    def load_checkpoint(self, folder: Path) -> None:
        """Go on from a checkpoint as if there had been no break.

        Raises:
            CheckpointError: on every rank.
            RuntimeError: a streamed step is half done.
        """
        self._expect_between_steps("loading a checkpoint")
        self._record.load(folder)

    def save_optimizer(self, folder: Path) -> None:
        """Write the moments that AdamW keeps of each trained parameter, whole or not at all.

        Raises:
            CheckpointError: on every rank.
            RuntimeError: a streamed step is half done.
        """
        self._expect_between_steps("writing the optimizer")
        self._record.save_optimizer(folder)

    @property
    def steps(self) -> int:
        """Training steps so far, checkpoints' included; also those in which the critic trained alone."""
        return self._backend.steps if self._critic is None else self._critic.steps

    def _full_state(self) -> dict[str, Tensor]:
        """Full tensors on rank 0, under the names of the checkpoint."""
        full = self._backend.full_weights(keep=self._rank == 0)
        # Offloaded shards make full tensors in main memory, and engines are sent what lies on the device.
        return checkpoint_names(self._policy.model, {name: value.to(self._device) for name, value in full.items()})
