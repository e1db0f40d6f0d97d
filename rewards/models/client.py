"""The one way in which terms ask models: an OpenAI-compatible server, somebody's or the run's own.

Invariant: two calls that ask for the same thing are one call, whether at the same time or one soon after the other: a
verifier is asked once about an answer that half of the group gave.
"""

import asyncio
import hashlib
import json
import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar, cast

from pydantic import BaseModel, ValidationError

from rewards.models.address import Address
from rewards.models.asking import Message, ModelFailed
from rewards.models.connection import Call, Connection
from rewards.models.patience import in_line
from rewards.models.settings import ModelSettings
from rewards.response import Json

REMEMBERED = 1024
"""Newest replies that are kept."""
_Reply = TypeVar("_Reply", bound=BaseModel)
_Item = TypeVar("_Item")
_Found = TypeVar("_Found")


class _Said(BaseModel):
    content: str


class _Choice(BaseModel):
    message: _Said


class _Chat(BaseModel):
    choices: list[_Choice]


class _Class(BaseModel):
    probs: list[float]


class _Vector(BaseModel):
    index: int
    embedding: list[float]


class _Data(BaseModel, Generic[_Item]):
    data: list[_Item]


@dataclass(frozen=True, slots=True)
class _Asked:
    """A call and what was read from its reply; `begun` is set when it stands in line no longer."""

    reply: "asyncio.Task[object]"
    begun: asyncio.Event

    @property
    def failed(self) -> bool:
        return self.reply.done() and (self.reply.cancelled() or self.reply.exception() is not None)


class HttpModel:
    """A `rewards.models.asking.Model` at an address; made inside the event loop that asks it."""

    def __init__(
        self, name: str, settings: ModelSettings, address: Callable[[], Address | None], timeout_s: float
    ) -> None:
        self._name, self._model = name, settings.model
        self._connection = Connection(name, settings, address, timeout_s)
        self._asked: OrderedDict[bytes, _Asked] = OrderedDict()

    async def generate(
        self,
        messages: Sequence[Message],
        *,
        n: int = 1,
        max_tokens: int = 512,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> list[str]:
        asked: dict[str, Json] = {
            "messages": _as_json(messages),
            "n": n,
            "max_tokens": max_tokens,
            "temperature": temperature,
            "seed": seed,
        }

        def read(reply: bytes) -> list[str]:
            said = self._read(_Chat, reply).choices[:n]
            if not said:
                raise self._malformed("a reply without a choice")
            return [choice.message.content for choice in said]

        return await self._reply("/chat/completions", asked, read)

    async def classify(self, messages: Sequence[Message]) -> list[float]:
        def read(reply: bytes) -> list[float]:
            found = self._read(_Data[_Class], reply).data
            if len(found) != 1 or not found[0].probs or not all(0 <= value <= 1 for value in found[0].probs):
                raise self._malformed("a classification without probabilities")
            return found[0].probs

        # The route of vLLM's server, beside those that OpenAI knows.
        return await self._reply("/classify", {"messages": _as_json(messages)}, read, beside=True)

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        asked: dict[str, Json] = {"input": [_sendable(text) for text in texts], "encoding_format": "float"}

        def read(reply: bytes) -> list[list[float]]:
            found = self._read(_Data[_Vector], reply).data
            vectors = [item.embedding for item in sorted(found, key=lambda item: item.index)]
            sizes = {len(vector) for vector in vectors}
            finite = all(math.isfinite(value) for vector in vectors for value in vector)
            if len(vectors) != len(texts) or len(sizes) > 1 or 0 in sizes or not finite:
                raise self._malformed(
                    f"{len(vectors)} vectors for {len(texts)} texts, or none of one length and of finite numbers"
                )
            return vectors

        return await self._reply("/embeddings", asked, read)

    async def close(self) -> None:
        for asked in self._asked.values():
            asked.reply.cancel()
        await self._connection.close()

    async def _reply(
        self, path: str, asked: dict[str, Json], read: Callable[[bytes], _Found], *, beside: bool = False
    ) -> _Found:
        """That of an equal call, where there is one. Nobody who gives up takes the call away from the others.

        Args:
            read: makes something of the reply, or raises; of one path and body always the same.
        """
        body: dict[str, Json] = {"model": self._model, **asked}
        key = hashlib.sha256(f"{path}\n{json.dumps(body, sort_keys=True)}".encode()).digest()
        known = self._asked.get(key)
        if known is None or known.failed:
            known = self._begun(Call(path, body, beside), read)
        self._asked[key] = known
        self._asked.move_to_end(key)
        self._forget()
        with in_line():
            await known.begun.wait()
        return cast(_Found, await asyncio.shield(known.reply))

    def _begun(self, call: Call, read: Callable[[bytes], object]) -> _Asked:
        begun = asyncio.Event()

        async def asked() -> object:
            return read(await self._connection.post(call, begun))

        reply = asyncio.create_task(asked())
        reply.add_done_callback(_retrieved)
        return _Asked(reply, begun)

    def _forget(self) -> None:
        over = [key for key, asked in self._asked.items() if asked.reply.done()]
        for key in over[: max(0, len(self._asked) - REMEMBERED)]:
            del self._asked[key]

    def _read(self, kind: type[_Reply], reply: bytes) -> _Reply:
        try:
            return kind.model_validate_json(reply)
        except ValidationError:
            raise self._malformed("a reply of another form than OpenAI's") from None

    def _malformed(self, what: str) -> ModelFailed:
        return ModelFailed("malformed", f"{self._name}: {what}")


def _as_json(messages: Sequence[Message]) -> list[Json]:
    return [{"role": message.role, "content": _sendable(message.content)} for message in messages]


def _sendable(text: str) -> str:
    """A model may have written half of a pair of surrogates, which is no UTF-8."""
    return text.encode("utf-8", "replace").decode()


def _retrieved(task: "asyncio.Task[object]") -> None:
    """Its error is for whoever waits; where nobody does any more, asyncio shall not complain."""
    if not task.cancelled():
        task.exception()
