"""The drafters that every gate of exactness is held against; a new kind joins by an entry in `DRAFTERS`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from actors.speculation.drafter import Draft, Drafter, DraftRequest, Observation
from actors.speculation.suffix_drafter import SuffixDrafter
from actors.token_sampling import processed_logprobs

BIAS = "bias"
"""The one weight of the drafters here [vocabulary]: added to their logits."""
LAYERS = (0, 1, -1)


class _Reading:
    """A drafter that keeps each answer's tokens, and checks the contract while it is told of them."""

    name = "scripted"
    hidden_layers: tuple[int, ...] = ()

    def __init__(self) -> None:
        self.version = 0
        self.bias = torch.zeros(257)
        self.sequences: dict[str, list[int]] = {}
        self._read: dict[str, int] = {}
        self._target: torch.nn.Module | None = None

    @property
    def target(self) -> torch.nn.Module:
        assert self._target is not None, "attached before anything else"
        return self._target

    def attach(self, target: torch.nn.Module) -> None:
        assert self._target is None
        self._target = target

    def begin(self, request_id: str, group: bytes, prompt_ids: Sequence[int], prefix_ids: Sequence[int]) -> None:
        assert request_id not in self.sequences
        self.sequences[request_id] = [*prompt_ids, *prefix_ids]
        self._read[request_id] = 0

    def observe(self, observations: Sequence[Observation]) -> None:
        for seen in observations:
            sequence = self.sequences[seen.request_id]
            assert seen.start == self._read[seen.request_id], "nothing is skipped, nothing comes twice"
            sequence += seen.token_ids
            self._read[seen.request_id] = seen.start + seen.read
            assert seen.start + seen.read == len(sequence) - 1, "all but the last token stand"
            assert [states.shape for states in seen.hidden] == [(seen.read, 64)] * len(self.hidden_layers)

    def propose(self, requests: Sequence[DraftRequest]) -> list[Draft]:
        assert all(self._read[request.request_id] > 0 for request in requests), "observed before it is asked"
        assert all(request.length > 0 for request in requests)
        return [self.draft(request) for request in requests]

    def draft(self, request: DraftRequest) -> Draft:
        raise NotImplementedError

    def load_weights(self, tensors: Mapping[str, torch.Tensor], version: int) -> None:
        if set(tensors) != {BIAS}:
            raise ValueError(f"it has the weight {BIAS} alone")
        self.bias, self.version = tensors[BIAS], version

    def end(self, request_id: str) -> None:
        del self.sequences[request_id]
        del self._read[request_id]

    def drop_kv(self) -> None:
        self._read = dict.fromkeys(self._read, 0)


class Perfect(_Reading):
    """Guesses what the target itself would say to the whole sequence: right until the KV comes from other weights."""

    name = "perfect"

    def draft(self, request: DraftRequest) -> Draft:
        tokens = list(self.sequences[request.request_id])
        for _ in range(request.length):
            logits = self.target(input_ids=torch.tensor([tokens]), use_cache=False, logits_to_keep=1).logits[0, -1]
            tokens.append(int((logits + self.bias).argmax()))
        return Draft(tuple(tokens[-request.length :]))


class Guessing(_Reading):
    """Anything, of any length: mostly wrong."""

    name = "guessing"

    def draft(self, request: DraftRequest) -> Draft:
        guesses = torch.Generator().manual_seed(hash(tuple(self.sequences[request.request_id][-3:])))
        length = int(torch.randint(0, request.length + 1, (), generator=guesses))
        return Draft(tuple(torch.randint(0, 257, (length,), generator=guesses).tolist()))


class Drawing(_Reading):
    """Draws from a blurred reading of the target: accepted often, refused often. Sees hidden states as well."""

    name = "drawing"
    hidden_layers = LAYERS

    def draft(self, request: DraftRequest) -> Draft:
        tokens = list(self.sequences[request.request_id])
        rows = []
        for _ in range(request.length):
            logits = self.target(input_ids=torch.tensor([tokens]), use_cache=False, logits_to_keep=1).logits[0, -1]
            rows.append(processed_logprobs(0.7 * logits + self.bias, request.sampling).exp())
            tokens.append(int(torch.multinomial(rows[-1], 1, generator=request.generator)))
        return Draft(tuple(tokens[-request.length :]), torch.stack(rows))


class DrawingBlindly(_Reading):
    """Draws from one distribution whatever came before, over all tokens: mostly refused."""

    name = "drawing blindly"

    def draft(self, request: DraftRequest) -> Draft:
        probabilities = (self.bias + torch.arange(257) / 64).softmax(-1)
        drawn = torch.multinomial(probabilities, request.length, replacement=True, generator=request.generator)
        return Draft(tuple(drawn.tolist()), probabilities.expand(request.length, -1))


@dataclass(frozen=True, slots=True)
class Entry:
    """A kind of drafter, and what the gates may expect of it.

    Attributes:
        draws: its drafts are draws, so that a seed gives other tokens than without it.
        learns: it takes the weights that `weights(seed)` gives.
    """

    make: Callable[[], Drafter]
    draws: bool = False
    learns: Callable[[int], dict[str, torch.Tensor]] | None = None


def _bias(seed: int) -> dict[str, torch.Tensor]:
    return {BIAS: torch.randn(257, generator=torch.Generator().manual_seed(seed))}


DRAFTERS: dict[str, Entry] = {
    "suffix": Entry(SuffixDrafter),
    "perfect": Entry(Perfect, learns=_bias),
    "guessing": Entry(Guessing, learns=_bias),
    "drawing": Entry(Drawing, draws=True, learns=_bias),
    "drawing_blindly": Entry(DrawingBlindly, draws=True, learns=_bias),
}
