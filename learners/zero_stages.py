"""Where each ZeRO stage keeps masters, optimizer state and gradients, and how whole tensors get in and out.

Every method but `masters` is a collective. Whole tensors are float32 and of the parameter's own shape, on every rank.
"""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from deepspeed.runtime.zero import GatheredParameters
from deepspeed.utils import (
    safe_get_full_fp32_param,
    safe_get_full_optimizer_state,
    safe_set_full_fp32_param,
    safe_set_full_optimizer_state,
    safe_set_local_fp32_param,
    safe_set_local_optimizer_state,
)
from torch import Tensor, nn

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine


class Stage(ABC):
    """One engine's tensors."""

    @abstractmethod
    def masters(self) -> list[Tensor]:
        """This rank's flat pieces: what the wrapped optimizer steps, and has its state of."""

    @staticmethod
    def read(parameter: nn.Parameter, key: str | None = None) -> Tensor:
        """The whole master, or the whole optimizer state of this key; a copy."""
        whole = safe_get_full_fp32_param(parameter) if key is None else safe_get_full_optimizer_state(parameter, key)
        assert isinstance(whole, Tensor), "every parameter is trained"
        return whole

    @abstractmethod
    def write(self, parameter: nn.Parameter, value: Tensor, key: str | None = None) -> None:
        """Set the master, or the optimizer state of this key; the passes see masters after `publish` alone."""

    @abstractmethod
    def publish(self) -> None:
        """Make the masters what the passes compute with."""

    @abstractmethod
    def weight(self, parameter: nn.Parameter) -> Tensor:
        """What the passes compute with, whole; a copy."""

    @abstractmethod
    def drop_gradients(self) -> None: ...

    @abstractmethod
    def release(self) -> None:
        """Let go of whole weights that a pass has gathered and not given back."""


class Stage2(Stage):
    """Gradients and optimizer state are sharded; every rank computes with all weights."""

    def __init__(self, engine: "DeepSpeedEngine") -> None:
        self._zero = engine.optimizer

    def masters(self) -> list[Tensor]:
        return list(self._zero.single_partition_of_fp32_groups)

    def write(self, parameter: nn.Parameter, value: Tensor, key: str | None = None) -> None:
        if key is None:
            safe_set_full_fp32_param(parameter, value)
        else:
            safe_set_full_optimizer_state(parameter, value, key)

    def publish(self) -> None:
        self._zero.update_lp_params()

    def weight(self, parameter: nn.Parameter) -> Tensor:
        return parameter.detach().clone()

    def drop_gradients(self) -> None:
        self._zero.zero_grad()
        # The sums of earlier backward passes; the same dictionaries are held elsewhere.
        for sums in (self._zero.averaged_gradients, self._zero.all_grad_tensors):
            for group in sums:
                sums[group] = None

    def release(self) -> None:
        """Whole weights are all that there are."""


class Stage3(Stage):
    """The weights are sharded as well, and gathered layer by layer as the passes need them."""

    def __init__(self, engine: "DeepSpeedEngine") -> None:
        self._zero = engine.optimizer
        self._written: dict[nn.Parameter, Tensor] = {}

    def masters(self) -> list[Tensor]:
        return list(self._zero.fp32_partitioned_groups_flat)

    def write(self, parameter: nn.Parameter, value: Tensor, key: str | None = None) -> None:
        piece = self._piece(parameter, value)
        if key is None:
            safe_set_local_fp32_param(parameter, piece)
            self._written[parameter] = piece
        else:
            safe_set_local_optimizer_state(parameter, piece, key)

    def publish(self) -> None:
        # What is still gathered would go on with old values.
        self.release()
        for parameter, piece in self._written.items():
            parameter.ds_tensor.data.copy_(piece)  # type: ignore[attr-defined]
        self._written = {}

    def weight(self, parameter: nn.Parameter) -> Tensor:
        with GatheredParameters([parameter]):
            return parameter.detach().clone()

    def drop_gradients(self) -> None:
        self._zero.zero_grad()
        # A parameter that the next passes do not reach would keep its sum.
        self._zero.grad_partitions_flat_buffer.zero_()
        self.release()

    def release(self) -> None:
        # The engine's method of this name would run Python's garbage collector as well: seconds each time.
        self._zero.empty_partition_cache()

    @staticmethod
    def _piece(parameter: nn.Parameter, value: Tensor) -> Tensor:
        """This rank's: the flat tensor is cut into even pieces, the last ones padded with zeros."""
        size: int = parameter.ds_tensor.numel()  # type: ignore[attr-defined]
        rank = dist.get_rank()
        mine = value.flatten()[size * rank : size * (rank + 1)]
        return torch.nn.functional.pad(mine, (0, size - mine.numel()))


def stage_of(engine: "DeepSpeedEngine") -> Stage:
    return Stage3(engine) if engine.zero_optimization_stage() == 3 else Stage2(engine)
