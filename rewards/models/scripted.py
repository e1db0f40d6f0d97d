"""A model that says what it is told to: what a term's example is made of, and the test of a term's arithmetic."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle

from rewards.models.asking import Message, Model

Reply = str | tuple[float, ...] | tuple[tuple[float, ...], ...]
"""What it says to one call, by verb: a text, probabilities of classes, or vectors."""


class ScriptedModel:
    """Gives these replies in turn, and then from the first again; `asked` holds what it was shown."""

    def __init__(self, replies: Sequence[Reply]) -> None:
        self._replies: Iterator[Reply] = cycle(replies)
        self.asked: list[str] = []

    async def generate(
        self,
        messages: Sequence[Message],
        *,
        n: int = 1,
        max_tokens: int = 512,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> list[str]:
        self._note(messages)
        return [str(next(self._replies)) for _ in range(n)]

    async def classify(self, messages: Sequence[Message]) -> list[float]:
        self._note(messages)
        return [value for value in next(self._replies) if isinstance(value, float)]

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        self.asked += texts
        return [list(vector) for vector in next(self._replies) if isinstance(vector, tuple)]

    def _note(self, messages: Sequence[Message]) -> None:
        self.asked.append("\n".join(message.content for message in messages))


class ScriptedModels(Mapping[str, Model]):
    """The same model under every name."""

    def __init__(self, replies: Sequence[Reply]) -> None:
        self.model = ScriptedModel(replies)

    def __getitem__(self, name: str) -> Model:
        return self.model

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0
