"""A visible, known and exactly reversible change of all matrices, for the sync drill that opens a run.

The noise depends on the seed and each matrix's name alone: any number of ranks makes the same change.
"""

import zlib
from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor

from learners.sharding import local_shard


class Perturbation:
    """Adds seeded normal noise of `scale` x a matrix's own standard deviation to every matrix.

    `take_back` restores the identical bits, from copies: subtracting would leave rounding behind. Invariant,
    the owner's: no optimizer step between the two.
    """

    def __init__(self, parameters: Mapping[str, Tensor], *, seed: int, scale: float) -> None:
        self._parameters = parameters
        self._before = {name: local_shard(value.detach()).clone() for name, value in parameters.items()}
        for name, value in parameters.items():
            if value.ndim < 2:
                continue
            generator = torch.Generator().manual_seed(seed ^ zlib.crc32(name.encode()))
            noise = torch.randn(value.shape, generator=generator)
            local = local_shard(value.detach())
            local.add_(_own_rows(noise, local.shape[0]).to(local), alpha=scale * _standard_deviation(value))

    def take_back(self) -> Mapping[str, Tensor]:
        """Returns: the parameters, as they were before."""
        for name, value in self._parameters.items():
            local_shard(value.detach()).copy_(self._before[name])
        return self._parameters


def _own_rows(full: Tensor, count: int) -> Tensor:
    """The rows that FSDP2 gives this rank: it deals the first dimension out as `torch.chunk` does."""
    if not dist.is_initialized() or count == full.shape[0]:
        return full
    start = dist.get_rank() * -(-full.shape[0] // dist.get_world_size())
    return full[start : start + count]


def _standard_deviation(value: Tensor) -> float:
    """Over the whole matrix; a collective where it is sharded."""
    local = local_shard(value.detach()).double()
    sums = torch.stack([local.sum(), local.square().sum()])
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(sums)
    mean, square = (sums / value.numel()).tolist()
    return float(max(square - mean * mean, 0.0) ** 0.5)
