"""The critic beside the policy: a sharded value model with an optimizer of its own.

Invariants:
- every public method but `steps`, `warming_up`, `discard` and `state` is called on all ranks alike: inside are
  collectives (the caller guarantees it);
- between two calls of `update` its weights do not change, so that `values` before the first of a batch are those of
  the batch's start;
- gradients of `learn` are sums that nothing has divided yet; `update` divides them by the count of all tokens that
  taught, so that the result does not depend on how the batch was cut.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from learners.attention import best_attention
from learners.critic.value_loss import value_loss
from learners.critic.value_model import ValueModel
from learners.errors import PolicyError
from learners.meter import TokenMeter, TokenStatistics
from learners.micro_batch import Lesson, MicroBatch
from learners.optimizer import ShardedAdamW
from learners.policy import load_policy
from learners.process_group import sum_over_ranks
from learners.settings import AlgorithmSettings, CriticSettings, TrainerSettings
from learners.sharding import reshard, shard_policy
from learners.skipped_updates import SkippedUpdates


class Values(NamedTuple):
    """What the critic expects, float32 on the CPU: `before` [N] of the states before a row's trained tokens, `after`
    [S] of those after its sequences."""

    before: Tensor
    after: Tensor


class Critic:
    """Args:
    model: folder or hub id of the trained policy's checkpoint, the critic's own where its settings name none.
    vocabulary: number of tokens of the policy.

    Raises:
        PolicyError: it cannot be loaded, or reads another vocabulary.
    """

    def __init__(
        self,
        algorithm: AlgorithmSettings,
        trainer: TrainerSettings,
        model: str,
        *,
        vocabulary: int,
        mesh: DeviceMesh,
        dtype: torch.dtype,
    ) -> None:
        self._settings = algorithm.critic or CriticSettings()
        source = self._settings.model or model
        device = torch.device(mesh.device_type)
        loaded = load_policy(source, attention=best_attention(device, dtype))
        if loaded.config.vocab_size != vocabulary:
            raise PolicyError(
                f"algorithm.critic.model={source}: {loaded.config.vocab_size} tokens, but the policy has {vocabulary}"
            )
        self._model = ValueModel(loaded)
        shard_policy(self._model, mesh, dtype)
        own = {"learning_rate": self._settings.learning_rate, "max_grad_norm": self._settings.max_grad_norm}
        # `trainer.warmup_steps` is for a policy that must not forget; the critic's head begins at 0.
        settings = trainer.model_copy(update={**own, "warmup_steps": 0})
        self._optimizer = ShardedAdamW(dict(self._model.named_parameters()), settings)
        self._skipped = SkippedUpdates("the critic", trainer.max_skipped_updates)
        self._taught = torch.zeros(2, dtype=torch.float64)
        self._kept: list[MicroBatch] = []

    @property
    def steps(self) -> int:
        """Training steps begun so far, over the whole life of the run."""
        return self._optimizer.steps

    @property
    def warming_up(self) -> bool:
        """Whether the next training step is the critic's alone."""
        return self.steps < self._settings.warmup_steps

    @torch.no_grad()
    def values(self, micro: MicroBatch) -> Values:
        """Under the weights as they are."""
        # A row without sequences is there for the collectives alone.
        ends = micro.packed.cu_seqlens[1:][: len(micro.sequence_ids)].long() - 1
        try:
            values: Tensor = self._model(micro.packed, torch.cat([micro.positions, ends])).cpu()
        finally:
            reshard(self._model)
        count = micro.positions.numel()
        return Values(values[:count], values[count:])

    def begin_step(self) -> None:
        """A training step of one or several updates begins."""
        self._optimizer.begin_step()

    def learn(self, micro: MicroBatch, meter: TokenMeter) -> None:
        """Add the gradients of a micro-batch that has a lesson, and keep it for the passes after this one."""
        chosen, clipped = self._study(micro)
        if self._settings.passes > 1:
            self._kept.append(micro)
        lesson = _lesson_of(micro)
        meter.add("value_loss", chosen)
        meter.add("value_clipped", clipped)
        errors = (lesson.returns - lesson.values).double()
        meter.add("value_error", errors)
        meter.add("value_error_square", errors.square())
        returns = lesson.returns.double()
        meter.add("returns", returns)
        meter.add("returns_square", returns.square())

    def _study(self, micro: MicroBatch) -> tuple[Tensor, Tensor]:
        """Returns: loss and clip, float64, of the tokens that taught."""
        lesson = _lesson_of(micro)
        losses, clipped = value_loss(
            self._model(micro.packed, micro.positions), lesson.values, lesson.returns, self._settings.clip
        )
        # Chosen, not multiplied by 0: what does not teach may be anything, also not finite.
        chosen = losses[lesson.teaches]
        total = chosen.sum()
        total.backward()
        self._taught += torch.stack([total.detach().double(), lesson.teaches.sum().double()]).cpu()
        return chosen.detach().double(), clipped[lesson.teaches].double()

    def update(self) -> float:
        """An optimizer step from all that was learned since the last update, and one for each further pass over it.

        Targets stay those of the first pass.

        Returns: the greatest gradient norm before clipping; not finite where one was left out, 0 where nothing taught.

        Raises:
            DivergedError: too many in a row were left out.
        """
        kept, self._kept = self._kept, []
        norms = [self._step()]
        for _ in range(self._settings.passes - 1):
            for micro in kept:
                self._study(micro)
            norms.append(self._step())
        return max(norms, key=lambda norm: (not math.isfinite(norm), norm))

    def _step(self) -> float:
        """See `update`, of one pass."""
        loss, count = sum_over_ranks(self._taught).tolist()
        norm = 0.0 if math.isfinite(loss) else math.nan
        if count and math.isfinite(loss):
            norm = self._optimizer.update(count)
        self.discard()
        self._skipped.note(norm)
        return norm

    def discard(self) -> None:
        """Forget what was learned since the last update."""
        self._optimizer.discard()
        self._taught = torch.zeros_like(self._taught)
        self._kept = []

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint must hold: live tensors by name, to be saved or filled in place."""
        weights = {f"model.{name}": value.detach() for name, value in self._model.named_parameters()}
        return {**weights, **{f"optimizer.{key}": value for key, value in self._optimizer.state().items()}}


def _lesson_of(micro: MicroBatch) -> Lesson:
    assert micro.lesson is not None, "`credit_tokens` gives one to every micro-batch"
    return micro.lesson


def describe_critic(statistics: TokenStatistics, norms: Sequence[float]) -> dict[str, float]:
    """Metrics of a training step, over all ranks.

    `explained_variance` is 1 - Var(R - V) / Var(R) over the trained tokens, V under the weights at the start of the
    batch: 1 where the critic foresees every return, 0 where it is no better than their mean, below 0 where it is worse.

    Args:
        statistics: of `Critic.learn`.
        norms: of `Critic.update`.
    """
    spread = _variance(statistics, "returns")
    left = _variance(statistics, "value_error")
    return {
        "value_loss": statistics.mean("value_loss"),
        "value_clip_fraction": statistics.mean("value_clipped"),
        "explained_variance": 1 - left / spread if spread else 0.0,
        "returns_mean": statistics.mean("returns"),
        "critic_grad_norm": max(norms, key=lambda norm: (not math.isfinite(norm), norm)),
        "critic_skipped_updates": float(sum(not math.isfinite(norm) for norm in norms)),
    }


def _variance(statistics: TokenStatistics, name: str) -> float:
    return max(statistics.mean(f"{name}_square") - statistics.mean(name) ** 2, 0.0)
