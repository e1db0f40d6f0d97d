"""Learned drafters (`learners.drafters`) behind the `Drafter` protocol, for the torch engine.

Drafts are the drafter's likeliest tokens (`greedy`: only guesses, of probability one) or drawn from its distribution,
shaped by the request's sampling as the target's is (`probabilistic`). Both are exact; the second is accepted more often
where sampling is warm.

Invariants:
- whether a draft goes on depends on its length and on whether the logits are finite, never on what was drawn there;
- logits that are not finite draft nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from transformers import PreTrainedModel

from actors.engine import Sampling
from actors.speculation.drafter import NO_DRAFT, Draft, DraftRequest, Observation
from actors.token_sampling import processed_logprobs
from learners.drafters.drafter import Drafter, DraftSession
from learners.drafters.drafter_files import fill, load_drafter, read_card
from learners.drafters.target import TargetTables

DraftSampling = Literal["greedy", "probabilistic"]


@dataclass(slots=True, eq=False)
class _Answer:
    """Prompt, prefix and what was emitted since; and what the drafter read of it."""

    sequence: list[int]
    session: DraftSession


class LearnedDrafter:
    """See `actors.speculation.drafter.Drafter`.

    Args:
        folder: written by `learners.drafters.drafter_files.save_drafter`. Whether it fits the target is checked by
            `learners.drafters.fingerprint.mismatch`, before an engine is started.

    Raises:
        DrafterError: no readable drafter there; here its card is read, in `attach` the rest.
    """

    def __init__(self, folder: Path, draft_sampling: DraftSampling = "greedy") -> None:
        card = read_card(folder)
        self.name = card.fingerprint.kind
        self.version = card.version
        self.hidden_layers = card.fingerprint.layer_ids
        self._folder = folder
        self._draft_sampling = draft_sampling
        self._drafter: Drafter | None = None
        self._answers: dict[str, _Answer] = {}

    def attach(self, target: torch.nn.Module) -> None:
        assert isinstance(target, PreTrainedModel), "the torch engine's target is a transformers model"
        tables = TargetTables.of_model(target)
        drafter, _ = load_drafter(self._folder, tables, tables.embedding.dtype)
        self._drafter = drafter.eval()

    def begin(self, request_id: str, group: bytes, prompt_ids: Sequence[int], prefix_ids: Sequence[int]) -> None:
        self._answers[request_id] = _Answer([*prompt_ids, *prefix_ids], self._attached.session())

    def observe(self, observations: Sequence[Observation]) -> None:
        for seen in observations:
            answer = self._answers[seen.request_id]
            answer.sequence.extend(seen.token_ids)
            if seen.start == 0:
                answer.session = self._attached.session()
            tokens = torch.tensor(answer.sequence[seen.start : seen.start + seen.read + 1])
            answer.session.read(tokens, dict(zip(self.hidden_layers, seen.hidden, strict=True)))

    def propose(self, requests: Sequence[DraftRequest]) -> list[Draft]:
        return [self._propose(request) for request in requests]

    def load_weights(self, tensors: Mapping[str, torch.Tensor], version: int) -> None:
        for name, tensor in tensors.items():
            if not bool(torch.isfinite(tensor).all()):
                raise ValueError(f"version {version} of the drafter: {name} holds values that are not finite")
        fill(self._attached, tensors, f"version {version} of the drafter")
        self.version = version

    def end(self, request_id: str) -> None:
        del self._answers[request_id]

    def drop_kv(self) -> None:
        for answer in self._answers.values():
            answer.session = self._attached.session()

    def _propose(self, request: DraftRequest) -> Draft:
        drawing = _Drawing(request.sampling, request.generator)
        greedy = self._draft_sampling == "greedy" or request.sampling.temperature == 0
        session = self._answers[request.request_id].session
        drafted = session.draft(request.length, _likeliest if greedy else drawing)
        if not drafted:
            return NO_DRAFT
        return Draft(tuple(drafted), None if greedy else torch.stack(drawing.probabilities))

    @property
    def _attached(self) -> Drafter:
        if self._drafter is None:
            raise RuntimeError("attach() comes first: there is no target yet")
        return self._drafter


def _likeliest(logits: torch.Tensor) -> int | None:
    return int(logits.argmax()) if bool(torch.isfinite(logits).all()) else None


class _Drawing:
    """Draws tokens and keeps the distributions that they were drawn from."""

    def __init__(self, sampling: Sampling, generator: torch.Generator) -> None:
        self._sampling = sampling
        self._generator = generator
        self.probabilities: list[torch.Tensor] = []

    def __call__(self, logits: torch.Tensor) -> int | None:
        if not bool(torch.isfinite(logits).all()):
            return None
        probabilities = processed_logprobs(logits, self._sampling).exp()
        self.probabilities.append(probabilities)
        return int(torch.multinomial(probabilities, 1, generator=self._generator))
