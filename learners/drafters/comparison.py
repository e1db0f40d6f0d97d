"""Drafter and target side by side, draft position by draft position, without ever holding all logits.

Rows go through the two heads in chunks; under autograd each chunk's logits are computed again in the backward pass.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from learners.drafters.drafter import Drafter, DraftStep
from learners.drafters.losses import LossInput
from learners.drafters.target import FINAL
from learners.drafters.windows import PackedWindows
from learners.logprobs import CHUNK_ELEMENTS

Reduce = Callable[[LossInput, Tensor], Tensor]
"""What is wanted of n rows: their comparison, and the places [n] of the tokens both stand behind -> [n, values]."""


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """Compares one drafter with its target on one pack of windows.

    Attributes:
        temperature: both distributions are those at this temperature.
        chunk: rows compared at once.
    """

    drafter: Drafter
    windows: PackedWindows
    temperature: float
    chunk: int

    @classmethod
    def of(cls, drafter: Drafter, windows: PackedWindows, temperature: float) -> "Comparison":
        vocabulary = drafter.tables.head.shape[0]
        return cls(drafter, windows, temperature, max(1, CHUNK_ELEMENTS["cpu"] // vocabulary))

    def positions(self, count: int, anchors: Tensor | None, reduce: Reduce) -> Iterator[Tensor]:
        """[n, values] of `reduce` for each draft position from 1 to `count`; ends where no anchor is left.

        Args:
            anchors: [n] places to draft from, with room for `count` positions; None: all that have room for each.
        """
        for step in self.drafter.unroll(self.windows, count):
            places = anchors
            if places is None:
                places = (self.windows.room >= step.position).nonzero().squeeze(1)
            if len(places):
                yield torch.cat([self._piece(step, piece, reduce) for piece in places.split(self.chunk)])

    def _piece(self, step: DraftStep, places: Tensor, reduce: Reduce) -> Tensor:
        features = step.features.index_select(0, places)
        hidden = None if step.hidden is None else step.hidden.index_select(0, places)
        behind = places + step.position
        truth = self.windows.hidden[FINAL].index_select(0, behind)

        def compare(features: Tensor, hidden: Tensor | None) -> Tensor:
            with torch.no_grad():
                target = self._logprobs(self.drafter.tables.logits(truth))
            draft = self._logprobs(self.drafter.logits(features))
            return reduce(LossInput(target, draft, truth, hidden), behind)

        if not torch.is_grad_enabled():
            return compare(features, hidden)
        result: Tensor = checkpoint(compare, features, hidden, use_reentrant=False)
        return result

    def _logprobs(self, logits: Tensor) -> Tensor:
        return (logits.float() / self.temperature).log_softmax(-1)
