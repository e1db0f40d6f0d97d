"""Drafters that read the target's hidden states: what `eagle` and `eagle3` have in common.

A step joins a token's embedding with a hidden state; the first step of a chain takes the target's states, fused by the
kind, the later ones what the step before carried on. Training unrolls exactly that (training-time test, EAGLE-3,
arXiv 2503.01840; HASS, 2408.15766).
"""

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import LlamaConfig

from learners.drafters.draft_layer import CachedMemory, Memory, RotaryAngles, UnrolledMemory
from learners.drafters.drafter import Choose, Drafter, DraftSession, DraftStep
from learners.drafters.target import TargetTables
from learners.drafters.windows import PackedWindows


class StepOutput(NamedTuple):
    """[T, H] both: what the head reads, and what the next step takes for the hidden state."""

    features: Tensor
    carried: Tensor


class HiddenDrafter(Drafter):
    """Args: config: of the one layer."""

    config: LlamaConfig

    def __init__(self, config: LlamaConfig, tables: TargetTables) -> None:
        super().__init__(config, tables)
        self.angles = RotaryAngles(config)

    @abstractmethod
    def fuse(self, hidden: Mapping[int, Tensor]) -> Tensor:
        """[T, H] of each layer in `reads` -> [T, H], the hidden state of a chain's first step."""

    @abstractmethod
    def step(self, embedded: Tensor, hidden: Tensor, angles: tuple[Tensor, Tensor], memory: Memory) -> StepOutput:
        """One step of T chains: [T, H] embeddings of their next tokens, [T, H] hidden states."""

    def run(self, token_ids: Tensor, hidden: Tensor, positions: Tensor, memory: Memory) -> StepOutput:
        """`step` from [T] token ids at [T] positions."""
        embedded = self.tables.embed(token_ids).to(hidden.dtype)
        return self.step(embedded, hidden, self.angles(hidden, positions), memory)

    def unroll(self, windows: PackedWindows, count: int) -> Iterator[DraftStep]:
        memory = UnrolledMemory(windows.layout)
        hidden = self.fuse({layer: windows.hidden[layer].to(self.dtype) for layer in self.reads})
        for position in range(1, count + 1):
            token_ids = windows.ahead(windows.packed.input_ids, position)
            output = self.run(token_ids, hidden, windows.packed.position_ids + position - 1, memory)
            hidden = output.carried
            yield DraftStep(position, output.features, hidden if self.predicts_hidden else None)

    def session(self) -> DraftSession:
        return HiddenDraftSession(self)


class HiddenDraftSession(DraftSession):
    """Rows of true hidden states stay; those of a draft are taken back when it ends."""

    def __init__(self, drafter: HiddenDrafter) -> None:
        self._drafter = drafter
        self._memory = CachedMemory()
        self._last: StepOutput | None = None

    @property
    def rows(self) -> int:
        return len(self._memory)

    @torch.inference_mode()
    def read(self, token_ids: Tensor, hidden: Mapping[int, Tensor]) -> None:
        drafter = self._drafter
        states = drafter.fuse({layer: hidden[layer].to(drafter.dtype) for layer in drafter.reads})
        positions = torch.arange(self.rows, self.rows + states.shape[0], device=states.device)
        output = drafter.run(token_ids[1:], states, positions, self._memory)
        self._last = StepOutput(output.features[-1:], output.carried[-1:])

    @torch.inference_mode()
    def draft(self, count: int, choose: Choose) -> list[int]:
        if self._last is None:
            raise RuntimeError("read() comes before draft(): nothing is known of the sequence")
        kept = self.rows
        step = self._last
        drafted: list[int] = []
        while len(drafted) < count:
            if drafted:
                token = torch.tensor(drafted[-1:], device=step.carried.device)
                position = torch.tensor([kept + len(drafted) - 1], device=step.carried.device)
                step = self._drafter.run(token, step.carried, position, self._memory)
            chosen = choose(self._drafter.logits(step.features)[0])
            if chosen is None:
                break
            drafted.append(chosen)
        self._memory.truncate(kept)
        return drafted
