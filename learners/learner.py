"""One rank of a learner group: the policy's shard, its optimizer, and the steps that train it.

Invariants:
- Every public method is called on all ranks, in the same order, with the same arguments: inside are
  collectives. The caller guarantees it; a rank that is missing ends the others at the process group's
  timeout.
- The process group exists before and outlives the learner (`learners.process_group`).
- A step's result depends neither on the number of ranks nor on the token budget, up to float rounding:
  losses are normalised by counts of the whole batch.
- Parameters are float32 masters; what leaves through `snapshot`, `truth` and `save` is in the wire dtype,
  the compute dtype, and `probe_logprobs` computes with exactly those values.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from transformers import PreTrainedTokenizerBase

from learners.attention import best_attention
from learners.batch import TrainBatch
from learners.checkpoint import load_sharded, save_sharded
from learners.logprobs import TokenLogprobs
from learners.meter import TokenMeter
from learners.micro_batch import MiniBatch, cut_minibatches
from learners.objective import ObjectiveInput, objective
from learners.optimizer import ShardedAdamW
from learners.packing import PackedSequences, pack
from learners.perturbation import Perturbation
from learners.policy import (
    Policy,
    PolicyError,
    checkpoint_names,
    load_policy,
    own_state,
    save_policy,
)
from learners.settings import AlgorithmSettings, TrainerSettings
from learners.sharding import gather, reshard, shard_policy
from learners.step_metrics import describe, record
from learners.weights import TensorSpec, WeightManifest, WeightTruth, checksum


class Learner:
    """Trains one policy on batches of answers.

    Args:
        model: folder of a Hugging Face checkpoint, or a hub id.
        temperature: at which the answers were sampled; logprobs are of the distribution at this temperature.
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
    ) -> None:
        if not dist.is_initialized() or (dist.get_rank(), dist.get_world_size()) != (rank, world_size):
            raise RuntimeError(f"rank {rank} of {world_size}: join the learner's process group first")
        if trainer.threads is not None:
            torch.set_num_threads(trainer.threads)
        self._algorithm = algorithm
        self._trainer = trainer
        self._temperature = temperature
        self._rank = rank
        self._world_size = world_size
        self._device = device
        self._wire_dtype: torch.dtype = getattr(torch, trainer.dtype)
        self._policy = Policy(load_policy(model, attention=best_attention(device, self._wire_dtype)))
        shard_policy(self._policy, init_device_mesh(device.type, (world_size,)), self._wire_dtype)
        self._optimizer = ShardedAdamW(dict(self._policy.model.named_parameters()), trainer)
        self._perturbation: Perturbation | None = None

    def step(self, batch: TrainBatch) -> dict[str, float]:
        """Train on one batch; every rank gets all of it and takes its share.

        Returns: the step's metrics, equal on all ranks but for `seconds`.

        Raises:
            ValueError: nothing to train on, or a sequence longer than the token budget.
            RuntimeError: the weights are perturbed.
        """
        if self._perturbation is not None:
            raise RuntimeError("the weights are perturbed: restore them before a training step")
        started = time.perf_counter()
        minibatches = cut_minibatches(
            batch.sequences,
            version=batch.version,
            minibatches=self._trainer.minibatches,
            token_budget=self._trainer.token_budget,
            rank=self._rank,
            ranks=self._world_size,
        )
        meter = TokenMeter(self._device)
        frozen = self._start_logprobs(minibatches)
        self._optimizer.begin_step()
        norms = [
            self._update(minibatch, frozen[index], meter, at_start=index == 0)
            for index, minibatch in enumerate(minibatches)
        ]
        return {
            **describe(meter.reduce(), norms),
            "learning_rate": self._optimizer.learning_rate,
            "tokens": float(batch.tokens),
            "seconds": time.perf_counter() - started,
        }

    def _start_logprobs(self, minibatches: Sequence[MiniBatch]) -> list[list[Tensor | None]]:
        """[minibatch][micro-batch] logprobs under the weights at the start of the batch, where the clip
        wants them.

        None where they need no pass of their own: with one minibatch, the update's own forward has those
        weights.
        """
        ahead = self._algorithm.old_logprobs == "recompute" and len(minibatches) > 1
        return [
            [
                self._forward_only(micro.packed, micro.positions, self._temperature) if ahead else None
                for micro in minibatch.micro_batches
            ]
            for minibatch in minibatches
        ]

    @torch.no_grad()
    def _forward_only(self, packed: PackedSequences, positions: Tensor | None, temperature: float) -> Tensor:
        try:
            seen: TokenLogprobs = self._policy(packed, positions, temperature)
        finally:
            reshard(self._policy)
        return seen.logprobs

    def _update(
        self, minibatch: MiniBatch, frozen: Sequence[Tensor | None], meter: TokenMeter, *, at_start: bool
    ) -> float:
        """One optimizer step; returns the gradient's norm."""
        for host, start in zip(minibatch.micro_batches, frozen, strict=True):
            micro = host.to(self._device)
            now: TokenLogprobs = self._policy(micro.packed, micro.positions, self._temperature)
            if start is None and at_start:
                start = now.logprobs.detach()
            proximal = micro.behaviour if self._algorithm.old_logprobs == "behaviour" else start
            assert proximal is not None, "recompute has a start for every minibatch"
            loss, seen = objective(
                ObjectiveInput(
                    now.logprobs,
                    proximal,
                    micro.behaviour,
                    micro.advantages,
                    micro.sequence,
                    minibatch.counts,
                ),
                self._algorithm,
            )
            loss.backward()
            record(meter, loss=loss, entropy=now.entropy, micro=micro, start=start, seen=seen)
        return self._optimizer.update()

    def snapshot(self, version: int) -> tuple[WeightManifest, dict[str, Tensor]]:
        """The weights as an engine shall see them: wire dtype, names of the checkpoint, a tied head left out.

        Returns: the manifest, and the full tensors on rank 0 (detached copies); other ranks get an empty
        dict.
        """
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
        return [float(value) for value in self._forward_only(pack([token_ids]), None, 1.0).tolist()]

    def perturb(self, seed: int, scale: float) -> None:
        """Change every matrix by seeded noise of `scale` x its own standard deviation, until `restore`.

        Raises:
            RuntimeError: it is perturbed already.
        """
        if self._perturbation is not None:
            raise RuntimeError("the weights are perturbed already: restore them first")
        self._perturbation = Perturbation(dict(self._policy.model.named_parameters()), seed=seed, scale=scale)

    def restore(self) -> None:
        """Bring back the bits from before `perturb`.

        Raises:
            RuntimeError: nothing is perturbed.
        """
        if self._perturbation is None:
            raise RuntimeError("the weights are not perturbed: there is nothing to restore")
        self._perturbation.take_back()
        self._perturbation = None

    def save(self, folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
        """Write the policy as a Hugging Face checkpoint in the wire dtype, whole or not at all.

        Raises:
            PolicyError: on every rank, where rank 0 could not write.
        """
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

    def save_checkpoint(self, folder: Path) -> None:
        """Write model, optimizer and step count, whole or not at all; any number of ranks can load it.

        Raises:
            CheckpointError: on every rank.
        """
        save_sharded(self._training_state(), folder)

    def load_checkpoint(self, folder: Path) -> None:
        """Go on from a checkpoint as if there had been no break.

        Raises:
            CheckpointError: on every rank.
        """
        load_sharded(self._training_state(), folder)

    @property
    def steps(self) -> int:
        """Training steps so far, checkpoints' included."""
        return self._optimizer.steps

    def _full_state(self) -> dict[str, Tensor]:
        """Full tensors on rank 0, under the names of the checkpoint."""
        model = self._policy.model
        own = own_state(model)
        full = gather(own, self._wire_dtype, keep=self._rank == 0)
        return checkpoint_names(model, full)

    def _training_state(self) -> dict[str, Tensor]:
        weights = {f"model.{name}": value.detach() for name, value in own_state(self._policy.model).items()}
        return {**weights, **{f"optimizer.{key}": value for key, value in self._optimizer.state().items()}}
