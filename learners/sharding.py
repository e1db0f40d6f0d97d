"""FSDP2 over a policy: what is sharded, in what precision, and how the shards are joined again.

Parameters are sharded along their first dimension over all ranks of one mesh; masters, gradient sums and
optimizer state are float32, compute is in the given dtype. Gradients are summed over ranks, not averaged:
losses are divided by counts of the whole batch (`learners.aggregation`).
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
)
from torch.distributed.tensor import DTensor, distribute_tensor

from learners.logprobs import TokenLogprobs
from learners.packing import PackedSequences
from learners.policy import PackedModel, Policy


def shard_policy(policy: PackedModel, mesh: DeviceMesh, dtype: torch.dtype, *, offload: bool = False) -> None:
    """Shard in place: each decoder layer is one unit, the rest (embedding, norm, head) another.

    Units are gathered again for the backward pass where there is something to save, i.e. beyond one rank.

    Args:
        offload: the shards, their gradients and what is made like them lie in main memory; a unit is on the mesh's
            device while it computes.
    """
    place = CPUOffloadPolicy(pin_memory=mesh.device_type != "cpu") if offload else OffloadPolicy()
    precision = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
    several = mesh.size() > 1
    layer_classes = set(policy.model._no_split_modules or ())
    units = [module for module in policy.modules() if type(module).__name__ in layer_classes]
    for unit in units:
        fully_shard(unit, mesh=mesh, mp_policy=precision, reshard_after_forward=several, offload_policy=place)
    fully_shard(policy, mesh=mesh, mp_policy=precision, reshard_after_forward=False, offload_policy=place)
    for module in policy.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            # Without it a factor of one's own goes through NCCL's PreMulSum, which gloo lacks.
            module.set_force_sum_reduction_for_comms(True)


def reshard(policy: PackedModel) -> None:
    """Drop gathered parameters, so that the shards are again what the policy's parameters are.

    A backward pass does so by itself. After a forward pass alone it must be said: units that stay gathered would
    compute with old values after the shards have changed.
    """
    for module in policy.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


@torch.no_grad()
def forward_only(
    policy: Policy,
    packed: PackedSequences,
    positions: Tensor | None = None,
    temperature: float = 1.0,
    moments: bool = False,
    attention: bool = False,
) -> TokenLogprobs:
    """`Policy.forward` without gradients; nothing that was gathered for it stays."""
    try:
        seen: TokenLogprobs = policy(packed, positions, temperature, moments, attention)
    finally:
        reshard(policy)
    return seen


def local_shard(tensor: Tensor) -> Tensor:
    """This rank's part; shares memory with the whole."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def cut_like(tensor: Tensor, whole: Tensor) -> Tensor:
    """A tensor that every rank has whole, cut as `tensor` is."""
    if not isinstance(tensor, DTensor):
        return whole
    return distribute_tensor(whole, tensor.device_mesh, tensor.placements, src_data_rank=None)


def gather(state: Mapping[str, Tensor], dtype: torch.dtype, keep: bool) -> dict[str, Tensor]:
    """Full tensors in the given dtype. A collective: every rank calls it with the same names in the same
    order.

    Args:
        keep: whether this rank wants the result; the others join the gathers and get an empty dict.
    """
    full: dict[str, Tensor] = {}
    for name, tensor in state.items():
        narrow = tensor.detach().to(dtype) if tensor.is_floating_point() else tensor.detach()
        whole = narrow.full_tensor() if isinstance(narrow, DTensor) else narrow
        if keep:
            # A dtype that needed no conversion, on one rank, is still the live parameter; a gather of uneven shards
            # is a view of a larger buffer, which a checkpoint cannot be written from.
            alone = whole.untyped_storage().nbytes() == whole.nbytes
            live = whole.data_ptr() == local_shard(tensor).data_ptr()
            full[name] = whole if alone and not live else whole.clone()
    return full
