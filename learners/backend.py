"""What training needs of a policy whose weights, gradients and optimizer state are spread over the ranks.

Two libraries do the spreading: FSDP2 (`learners.fsdp2`) and DeepSpeed (`learners.zero`). Learner and training step know
this protocol alone, so what they promise holds over either. A companion is never trained: FSDP2 shards it in any case.

Invariants, every backend's: masters, gradient sums and optimizer state are float32, the passes compute in the dtype of
the wire; gradients are sums over micro-batches and ranks, which nothing divides before `update`. The caller's: every
method is called on all ranks alike, since inside may be collectives.
"""

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from learners.adapters import Adapters
from learners.logprobs import TokenLogprobs
from learners.packing import PackedSequences
from learners.policy import Policy
from learners.settings import TrainerSettings


class Backend(Protocol):
    """One policy and its AdamW."""

    def forward(
        self,
        packed: PackedSequences,
        positions: Tensor | None = None,
        temperature: float = 1.0,
        moments: bool = False,
        attention: bool = False,
    ) -> TokenLogprobs:
        """`Policy.forward`, to be followed by `backward`."""

    def forward_only(
        self,
        packed: PackedSequences,
        positions: Tensor | None = None,
        temperature: float = 1.0,
        moments: bool = False,
        attention: bool = False,
    ) -> TokenLogprobs:
        """`Policy.forward` without gradients; nothing that was gathered for it stays."""

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of this rank's loss, a sum, to those at hand."""

    def begin_step(self) -> None:
        """Set the learning rate of the next training step, and count it."""

    def update(self, divisor: float) -> float:
        """One optimizer step from the gradients at hand over `divisor`, which it clears.

        An update whose gradient is not finite is left out, on all ranks alike.

        Returns: the norm of the divided gradient before clipping.
        """

    def discard(self) -> None:
        """Clear the gradients at hand."""

    @property
    def steps(self) -> int:
        """Training steps begun so far, over the whole life of the run."""

    @property
    def learning_rate(self) -> float: ...

    def parameters(self) -> Mapping[str, Tensor]:
        """The masters by their names in the model: this rank's rows, as a DTensor where there are several ranks.

        They may be copies: what is changed in them is the policy's after `accept_parameters` alone.
        """

    def accept_parameters(self, parameters: Mapping[str, Tensor]) -> None:
        """Make these, from `parameters`, the policy's."""

    def training_state(self) -> Mapping[str, Tensor]:
        """What a checkpoint must hold of weights (`model.`) and optimizer (`optimizer.`), one set of names for all
        backends; copies or not as `parameters`."""

    def accept_training_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from this, from `training_state` and filled since."""

    def full_weights(self, *, keep: bool) -> dict[str, Tensor]:
        """Full tensors in the dtype of the wire, which nothing changes later, under their names in the model.

        Args:
            keep: whether this rank wants the result; the others get an empty dict.
        """


def open_backend(
    policy: Policy, trainer: TrainerSettings, mesh: DeviceMesh, dtype: torch.dtype, adapters: Adapters | None = None
) -> Backend:
    """Spread a policy, in place, and give it an optimizer.

    Args:
        policy: with float32 parameters, alike on all ranks.
        dtype: of compute and wire.
        adapters: of the policy, where they alone are trained; FSDP2 knows how.

    Raises:
        BackendError: the chosen library is not installed, serves another device, or cannot train such a policy.
    """
    # Each is imported where it is chosen: DeepSpeed need not be installed.
    if trainer.backend == "deepspeed":
        from learners.zero import ZeroBackend

        return ZeroBackend(policy, trainer, mesh, dtype)
    from learners.fsdp2 import Fsdp2Backend

    return Fsdp2Backend(policy, trainer, mesh, dtype, adapters)
