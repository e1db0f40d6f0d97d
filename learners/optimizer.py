"""AdamW over sharded parameters, with warm-up and clipping by the global gradient norm.

Invariants: gradients are sums over all ranks when `update` is called (FSDP2 guarantees it after backward),
so the norm and the update are those of one process that holds everything. Optimizer state exists from the
start, so that a checkpoint of step 0 is a checkpoint like any other.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from learners.settings import TrainerSettings
from learners.sharding import local_shard


class AdamWSettings(Protocol):
    """The part of a trainer's settings that AdamW itself reads."""

    @property
    def learning_rate(self) -> float: ...
    @property
    def betas(self) -> tuple[float, float]: ...
    @property
    def weight_decay(self) -> float: ...


def adamw(values: Sequence[nn.Parameter], settings: AdamWSettings) -> torch.optim.AdamW:
    """Decoupled weight decay (AdamW, arXiv 1711.05101), for matrices alone: norms and biases do not decay."""
    return torch.optim.AdamW(
        [
            {"params": [value for value in values if value.ndim >= 2]},
            {"params": [value for value in values if value.ndim < 2], "weight_decay": 0.0},
        ],
        lr=settings.learning_rate,
        betas=settings.betas,
        weight_decay=settings.weight_decay,
        fused=True,
    )


def with_state(optimizer: torch.optim.AdamW) -> torch.optim.AdamW:
    """The optimizer with the state that it would else make at its first step; zeros."""
    for group in optimizer.param_groups:
        for value in group["params"]:
            optimizer.state[value] = {
                "step": torch.zeros((), dtype=torch.float32, device=local_shard(value).device),
                "exp_avg": torch.zeros_like(value),
                "exp_avg_sq": torch.zeros_like(value),
            }
    return optimizer


def warm_up(step: int, settings: TrainerSettings) -> float:
    """Share of the full learning rate at a training step counted from 1: linear, then constant."""
    return min(1.0, step / max(1, settings.warmup_steps))


class ShardedAdamW:
    """See `adamw` and `warm_up`."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], settings: TrainerSettings) -> None:
        self._parameters = dict(parameters)
        self._settings = settings
        self._adamw = with_state(adamw(list(self._parameters.values()), settings))
        self._steps = torch.zeros((), dtype=torch.int64)

    @property
    def learning_rate(self) -> float:
        return float(self._adamw.param_groups[0]["lr"])

    @property
    def steps(self) -> int:
        """Training steps begun so far, over the whole life of the run."""
        return int(self._steps)

    def begin_step(self) -> None:
        """Count the training step, and set its learning rate."""
        self._steps += 1
        for group in self._adamw.param_groups:
            group["lr"] = self._settings.learning_rate * warm_up(self.steps, self._settings)

    def update(self, divisor: float = 1.0) -> float:
        """One optimizer step from the gradients at hand, which it clears; a collective.

        An update whose gradient is not finite is left out, on all ranks alike.

        Args:
            divisor: what the summed gradients are divided by.

        Returns: the norm of the divided gradient before clipping.
        """
        grads = [local_shard(value.grad) for value in self._parameters.values() if value.grad is not None]
        # Rows in float32, their sum in float64: as exact as is needed, and no copy of all gradients.
        squares = torch.stack([torch.linalg.vector_norm(grad, dim=-1).double().square().sum() for grad in grads]).sum()
        if dist.get_world_size() > 1:
            dist.all_reduce(squares)
        norm = math.sqrt(float(squares)) / divisor
        if math.isfinite(norm):
            scale = min(1.0, self._settings.max_grad_norm / norm) if norm else 1.0
            for grad in grads:
                grad.mul_(scale / divisor)
            self._adamw.step()
        self.discard()
        return norm

    def discard(self) -> None:
        """Clear the gradients at hand."""
        self._adamw.zero_grad(set_to_none=True)

    def reset(self) -> None:
        """Back to the state before the first step."""
        self.discard()
        for tensor in self.state().values():
            tensor.zero_()

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint must hold: live tensors by name, to be saved or filled in place."""
        state = {"steps": self._steps}
        for name, value in self._parameters.items():
            for key, tensor in self._adamw.state[value].items():
                state[f"{key}.{name}"] = tensor
        return state
