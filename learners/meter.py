"""Statistics per trained token, summed over micro-batches and ranks."""

import torch
import torch.distributed as dist
from torch import Tensor


class TokenMeter:
    """Keeps sum, count and maximum of each named quantity.

    Every rank adds the same names in the same order (also with empty tensors), which `reduce` relies on.

    Args:
        group: ranks whose statistics add up to the batch's; None is all.
    """

    def __init__(self, device: torch.device, group: dist.ProcessGroup | None = None) -> None:
        self._device = device
        self._group = group
        self._sums: dict[str, Tensor] = {}
        self._tops: dict[str, Tensor] = {}

    def add(self, name: str, values: Tensor) -> None:
        """Args: values: [n], any n from 0."""
        values = values.detach().double()
        count = torch.tensor(float(values.numel()), dtype=torch.float64, device=self._device)
        total = torch.stack([values.sum(), count])
        top = values.max() if values.numel() else torch.full((), -torch.inf, dtype=torch.float64)
        top = top.to(self._device)
        self._sums[name] = total if name not in self._sums else self._sums[name] + total
        self._tops[name] = top if name not in self._tops else torch.maximum(self._tops[name], top)

    def reduce(self) -> "TokenStatistics":
        """Join the ranks; a collective."""
        names = list(self._sums)
        sums = torch.stack([self._sums[name] for name in names])
        tops = torch.stack([self._tops[name] for name in names])
        if dist.is_initialized() and dist.get_world_size(self._group) > 1:
            dist.all_reduce(sums, group=self._group)
            dist.all_reduce(tops, op=dist.ReduceOp.MAX, group=self._group)
        return TokenStatistics(
            {name: (pair[0], pair[1]) for name, pair in zip(names, sums.tolist(), strict=True)},
            dict(zip(names, tops.tolist(), strict=True)),
        )


class TokenStatistics:
    """Means and maxima over all ranks. A quantity without tokens, or never added, has mean and maximum 0."""

    def __init__(self, sums: dict[str, tuple[float, float]], tops: dict[str, float]) -> None:
        self._sums = sums
        self._tops = tops

    def names(self) -> list[str]:
        return list(self._sums)

    def mean(self, name: str) -> float:
        total, count = self._sums.get(name, (0.0, 0.0))
        return total / count if count else 0.0

    def total(self, name: str) -> float:
        return self._sums.get(name, (0.0, 0.0))[0]

    def count(self, name: str) -> float:
        """Tokens for which it was recorded."""
        return self._sums.get(name, (0.0, 0.0))[1]

    def maximum(self, name: str) -> float:
        return self._tops[name] if self._sums.get(name, (0.0, 0.0))[1] else 0.0
