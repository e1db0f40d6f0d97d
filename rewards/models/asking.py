"""How a term asks a model: three verbs, one error. Who answers, and from where, is not a term's business."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

ModelFailureKind = Literal["unreachable", "refused", "timeout", "malformed"]
"""`unreachable`: no server, or one that could not take the call, after all retries. `refused`: it wants no such call
(a wrong key, an unknown model). `timeout`: no reply in time. `malformed`: a reply from which nothing could be read."""


class ModelFailed(Exception):
    """A model gave no usable reply. Its text is this program's own: nothing that a server or a model wrote is in it."""

    def __init__(self, kind: ModelFailureKind, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of what a model is shown."""

    role: Literal["system", "user", "assistant"]
    content: str


class Model(Protocol):
    """One model of the recipe. Every verb may raise `ModelFailed`, and waits no longer than the settings allow."""

    async def generate(
        self,
        messages: Sequence[Message],
        *,
        n: int = 1,
        max_tokens: int = 512,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> list[str]:
        """Replies to a conversation, at least one and at most `n`: an endpoint may give fewer than it is asked for."""

    async def classify(self, messages: Sequence[Message]) -> list[float]:
        """Probabilities of the classes of a sequence-classification checkpoint: a sigmoid where it has one class (a
        reward model's score), else a softmax."""

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """A vector for each text."""


Models = Mapping[str, Model]
"""The models of `reward.models` by name. A term that takes the keyword `models` is given them."""
