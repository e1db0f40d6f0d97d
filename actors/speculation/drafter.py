"""The `Drafter` protocol: what guesses tokens ahead of the target model, and the data that goes in and out of it.

An engine tells its drafter what happens to each request and asks it for drafts; the target verifies every drafted
token (`actors.speculation.verification`), so a drafter decides speed alone, never which distribution is sampled.

What a drafter owes the engine for that to hold:
- the probabilities of a draft are those that each of its tokens was drawn from, given the drafted tokens before it;
- whether a draft has an n-th token depends on nothing that was drawn at or after n. Otherwise kept and dropped tokens
  differ in law, and what is sampled is biased. A deterministic draft draws nothing: its length is free;
- what is drawn is drawn with the generator that the request brings, so that its seed alone fixes its randomness.

The engine calls all methods one at a time, between two forward passes of the target.
"""

import hashlib
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from actors.speculation.step_record import StepRecord

if TYPE_CHECKING:  # Drafters without a model stay free of torch.
    import torch

    from actors.engine import Sampling, WeightStream


def prompt_key(prompt_ids: Sequence[int]) -> bytes:
    """Names the group of answers that share this prompt; the same on every engine and in every run."""
    return hashlib.blake2b(array("q", prompt_ids).tobytes(), digest_size=16).digest()


@dataclass(frozen=True, slots=True, eq=False)
class Draft:
    """Tokens guessed to follow a request's sequence, first to last; may be empty.

    Attributes:
        probabilities: [len(token_ids), vocabulary] float, each row the distribution that its token was drawn from.
            None: the tokens are no draws but the drafter's only guess, whose probability counts as one.
    """

    token_ids: tuple[int, ...]
    probabilities: "torch.Tensor | None" = None


NO_DRAFT = Draft(())


@dataclass(frozen=True, slots=True, eq=False)
class DraftRequest:
    """Asks for a draft that follows all that was observed of this request.

    Attributes:
        length: most tokens that are of use; fewer, or none, are welcome where the drafter is not sure.
        sampling: how the target will draw. A learned drafter shapes its own distribution by it.
        generator: the request's own, on the CPU. A drafter that draws uses it and no other.
    """

    request_id: str
    length: int
    sampling: "Sampling"
    generator: "torch.Generator"


@dataclass(frozen=True, slots=True, eq=False)
class Observation:
    """What one step of the target did to one request.

    The sequence is prompt, prefix and all emitted tokens; positions count from 0. The step read the tokens at
    positions `start` to `start + read - 1` and kept them, and emitted the tokens that end at position
    `start + read`: the last one is not read yet. A step that reads the sequence from the beginning, as the first one
    and one after `drop_kv` do, has `start` 0 and emits one token.

    Attributes:
        token_ids: emitted by this step, at least one.
        read: tokens that were read and kept; their KV stands.
        hidden: for each of the drafter's `hidden_layers` [read, width], the target's hidden states of these tokens,
            in the target's type. Empty where the drafter names no layer.
    """

    request_id: str
    token_ids: tuple[int, ...]
    start: int
    read: int
    hidden: "tuple[torch.Tensor, ...]" = ()


class Drafter(Protocol):
    """See the module's docstring."""

    @property
    def name(self) -> str:
        """The kind of drafter, for reports."""

    @property
    def version(self) -> int:
        """Of the weights it drafts with; changes by `load_weights` alone. 0 where there are none."""

    @property
    def hidden_layers(self) -> tuple[int, ...]:
        """The target's layers whose states it observes, by transformers' count of hidden states: 0 is the embedding,
        i the residual stream behind block i, -1 what the output head reads (behind the last norm)."""

    def attach(self, target: "torch.nn.Module") -> None:
        """Called once, when the target is loaded. Updates change the target's weights in place, so that a drafter that
        shares its embedding or head always has the current ones."""

    def begin(self, request_id: str, group: bytes, prompt_ids: Sequence[int], prefix_ids: Sequence[int]) -> None:
        """A request takes its first step now; requests that wait for a place are not told.

        Args:
            group: `prompt_key(prompt_ids)`; answers to one prompt share it.
            prefix_ids: what was sampled of the answer before, here or elsewhere.
        """

    def observe(self, observations: Sequence[Observation]) -> None:
        """One step of the target. Comes for every step, also where no draft was asked for. A request whose answer ends
        with this step is among them; `end` follows."""

    def propose(self, requests: Sequence[DraftRequest]) -> list[Draft]:
        """A draft for each, in this order, each with at most its `length` tokens. Each request was observed at least
        once since `begin` and since the last `drop_kv`."""

    def load_weights(self, tensors: "Mapping[str, torch.Tensor]", version: int) -> None:
        """Draft with these weights from now on, under this version; answers in progress go on.

        Raises:
            ValueError: it has no weights, or others; nothing was loaded.
        """

    def end(self, request_id: str) -> None:
        """The request is over, or was aborted; nothing more comes of it. What its group learned may stay."""

    def drop_kv(self) -> None:
        """The target forgets the KV of all requests, as after an update that asks for it: each one's next observation
        has `start` 0, with the hidden states of its whole sequence."""


class DraftLengths(Protocol):
    """Chooses how many tokens to draft, step by step. Owned by the engine's caller; called on the engine's thread."""

    @property
    def trouble(self) -> str | None:
        """Why nothing is drafted any more; None while all is well."""

    def choose(self, running: int) -> int:
        """Draft length of the step that comes, given how many answers are in it; 0 drafts nothing."""

    def record(self, step: StepRecord) -> None:
        """What came of it; called once after each `choose`."""


@dataclass(frozen=True, slots=True)
class FixedLength:
    """Always the same draft length."""

    length: int

    @property
    def trouble(self) -> None:
        """It cannot fail."""

    def choose(self, running: int) -> int:
        return self.length

    def record(self, step: StepRecord) -> None:
        pass


@dataclass(frozen=True, slots=True)
class Speculation:
    """What an engine speculates with.

    Attributes:
        updated: is told, between two steps, whose weights have changed.
    """

    drafter: Drafter
    lengths: DraftLengths
    updated: "Callable[[WeightStream], None]" = lambda stream: None
