"""The model-free drafter: each answer's next tokens by what followed the same words in its group and earlier epochs.

It drafts its only guess, which the engine verifies as a one-hot draft; so a draft's length may depend on its tokens.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from actors.speculation.drafter import Draft, DraftRequest, Observation
from actors.speculation.prompt_trees import Answer, PromptTrees, SuffixSettings

if TYPE_CHECKING:
    import torch


class SuffixDrafter:
    """See `actors.speculation.drafter.Drafter`."""

    name = "suffix"
    version = 0
    hidden_layers: tuple[int, ...] = ()

    def __init__(self, settings: SuffixSettings | None = None) -> None:
        self._trees = PromptTrees(settings or SuffixSettings())
        self._answers: dict[str, Answer] = {}

    def attach(self, target: "torch.nn.Module") -> None:
        """It reads tokens alone."""

    def begin(self, request_id: str, group: bytes, prompt_ids: Sequence[int], prefix_ids: Sequence[int]) -> None:
        self._answers[request_id] = self._trees.begin(group, prompt_ids, prefix_ids)

    def observe(self, observations: Sequence[Observation]) -> None:
        for observation in observations:
            self._trees.extend(self._answers[observation.request_id], observation.token_ids)

    def propose(self, requests: Sequence[DraftRequest]) -> list[Draft]:
        return [Draft(tuple(self._trees.draft(self._answers[r.request_id], r.length))) for r in requests]

    def load_weights(self, tensors: "Mapping[str, torch.Tensor]", version: int) -> None:
        raise ValueError("the suffix drafter has no weights")

    def end(self, request_id: str) -> None:
        self._trees.end(self._answers.pop(request_id))

    def drop_kv(self) -> None:
        """It has none: the tokens stay what they are."""
