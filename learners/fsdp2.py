"""The backend over PyTorch's own FSDP2: sharding, AdamW on the shards, and tensors that are never copies."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from learners.adapters import Adapters
from learners.logprobs import TokenLogprobs
from learners.optimizer import ShardedAdamW
from learners.packing import PackedSequences
from learners.policy import Policy, own_state
from learners.settings import TrainerSettings
from learners.sharding import forward_only, gather, shard_policy


class Fsdp2Backend:
    """See `learners.backend`. What `parameters` and `training_state` give is live, so that accepting it is nothing.

    With adapters, they alone have optimizer state and are in checkpoints; what leaves is merged.
    """

    def __init__(
        self,
        policy: Policy,
        trainer: TrainerSettings,
        mesh: DeviceMesh,
        dtype: torch.dtype,
        adapters: Adapters | None = None,
    ) -> None:
        shard_policy(policy, mesh, dtype, offload=trainer.cpu_offload)
        self._policy = policy
        self._dtype = dtype
        self._adapters = adapters
        trained = {name: value for name, value in policy.model.named_parameters() if value.requires_grad}
        self._optimizer = ShardedAdamW(trained, trainer)

    def forward(
        self,
        packed: PackedSequences,
        positions: Tensor | None = None,
        temperature: float = 1.0,
        moments: bool = False,
        attention: bool = False,
    ) -> TokenLogprobs:
        seen: TokenLogprobs = self._policy(packed, positions, temperature, moments, attention)
        return seen

    def forward_only(
        self,
        packed: PackedSequences,
        positions: Tensor | None = None,
        temperature: float = 1.0,
        moments: bool = False,
        attention: bool = False,
    ) -> TokenLogprobs:
        return forward_only(self._policy, packed, positions, temperature, moments, attention)

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def begin_step(self) -> None:
        self._optimizer.begin_step()

    def update(self, divisor: float) -> float:
        return self._optimizer.update(divisor)

    def discard(self) -> None:
        self._optimizer.discard()

    @property
    def steps(self) -> int:
        return self._optimizer.steps

    @property
    def learning_rate(self) -> float:
        return self._optimizer.learning_rate

    def parameters(self) -> Mapping[str, Tensor]:
        return dict(self._policy.model.named_parameters())

    def accept_parameters(self, parameters: Mapping[str, Tensor]) -> None:
        """They are the policy's already."""

    def training_state(self) -> Mapping[str, Tensor]:
        own = own_state(self._policy.model) if self._adapters is None else self._adapters.own()
        weights = {f"model.{name}": value.detach() for name, value in own.items()}
        return weights | {f"optimizer.{key}": value for key, value in self._optimizer.state().items()}

    def accept_training_state(self, state: Mapping[str, Tensor]) -> None:
        """It is the policy's and the optimizer's already."""

    def full_weights(self, *, keep: bool) -> dict[str, Tensor]:
        own = own_state(self._policy.model) if self._adapters is None else self._adapters.merged()
        return gather(own, self._dtype, keep)
