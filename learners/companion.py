"""A second policy beside the trained one, which only says how likely it finds a token: a reference or a teacher.

Invariants:
- it is never trained: its parameters need no gradient, and its forward passes keep none;
- every public method is called on all ranks alike: inside are collectives (the caller guarantees it);
- a fixed companion's weights never change; a moving one's change in `follow` alone.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from learners.attention import best_attention
from learners.errors import PolicyError
from learners.micro_batch import MicroBatch
from learners.policy import Policy, load_policy
from learners.sequence_parallel import SequenceGroup
from learners.settings import CompanionSettings
from learners.sharding import forward_only, local_shard, shard_policy


class Companion:
    """Args:
    model: folder or hub id of the trained policy's checkpoint, the companion's own where its settings name none.
    vocabulary: number of tokens of the trained policy.
    sequence_group, offload: of the trained policy.

    Raises:
        PolicyError: it cannot be loaded, or reads another vocabulary.
    """

    def __init__(
        self,
        settings: CompanionSettings,
        model: str,
        *,
        vocabulary: int,
        mesh: DeviceMesh,
        dtype: torch.dtype,
        sequence_group: SequenceGroup | None = None,
        offload: bool = False,
    ) -> None:
        self._settings = settings
        source = settings.model or model
        shared_rows = sequence_group is not None
        attention = best_attention(torch.device(mesh.device_type), dtype, shared_rows=shared_rows)
        loaded = load_policy(source, attention=attention).eval()
        if loaded.config.vocab_size != vocabulary:
            raise PolicyError(f"model={source}: {loaded.config.vocab_size} tokens, but the policy has {vocabulary}")
        self._policy = Policy(loaded, sequence_group).requires_grad_(requires_grad=False)
        shard_policy(self._policy, mesh, dtype, offload=offload)

    def logprobs(self, micro: MicroBatch, temperature: float) -> Tensor:
        """[N] of the trained tokens, at the temperature of sampling."""
        return forward_only(self._policy, micro.packed, micro.positions, temperature).logprobs

    def follows(self, step: int) -> bool:
        """Whether it moves when the policy has made this step, counted from 1."""
        return self._settings.kind == "moving" or (self._settings.kind == "reset" and step % self._settings.every == 0)

    @torch.no_grad()
    def follow(self, trained: Mapping[str, Tensor]) -> None:
        """The policy has made a step after which this one `follows`: move towards it.

        Args:
            trained: the policy's parameters by name, sharded as the companion's are.
        """
        keep = self._settings.decay if self._settings.kind == "moving" else 0.0
        for name, own in self._policy.model.named_parameters():
            # own = keep own + (1 - keep) trained
            local_shard(own).lerp_(local_shard(trained[name]), 1 - keep)

    def state(self) -> dict[str, Tensor]:
        """For a checkpoint: empty where the weights are always those of a model's folder."""
        if self._settings.kind == "fixed":
            return {}
        return {name: parameter.detach() for name, parameter in self._policy.model.named_parameters()}
