"""Calls to one server: bounded in time and size, repeated where that may help, at most so many under way at a time.

Invariants: no reply is read beyond `LONGEST_REPLY` bytes; a redirect is not followed, so that the key goes to the
address of the recipe alone; an error says nothing of what the server wrote, which may repeat the key.
"""

import asyncio
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from itertools import count

import httpx

from rewards.models.address import Address
from rewards.models.asking import ModelFailed
from rewards.models.settings import ModelSettings
from rewards.response import Json

LONGEST_REPLY = 8 * 2**20
CONNECT_S = 5.0
BACKOFF_S = 0.25
"""Before the first repetition; it doubles with each."""
LONGEST_BACKOFF_S = 8.0


class _Again(Exception):
    """The same call may succeed later."""


@dataclass(frozen=True, slots=True)
class Call:
    """Attributes:
    beside: the route stands beside the ``/v1``; see `Address.of`.
    """

    path: str
    body: Mapping[str, Json]
    beside: bool = False


class Connection:
    """Args:
    name: of the model in the recipe, for errors.
    address: where its server is now; None while there is none.
    timeout_s: bound of one call, its repetitions included.
    """

    def __init__(
        self, name: str, settings: ModelSettings, address: Callable[[], Address | None], timeout_s: float
    ) -> None:
        self._name, self._settings, self._address, self._timeout_s = name, settings, address, timeout_s
        self._slots = asyncio.Semaphore(settings.concurrency)
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=settings.concurrency)
        timeout = httpx.Timeout(timeout_s, connect=min(CONNECT_S, timeout_s))
        # A proxy of the environment is none of a loopback's business.
        self._client = httpx.AsyncClient(timeout=timeout, limits=limits, trust_env=not settings.served)
        self._chance = random.Random(name)

    async def post(self, call: Call, begun: asyncio.Event) -> bytes:
        """The reply to this call, made when its turn comes.

        Args:
            begun: is set when it stands in line no longer.

        Raises: ModelFailed.
        """
        try:
            async with self._slots:
                begun.set()
                return await self._tried(call)
        finally:
            begun.set()

    async def close(self) -> None:
        await self._client.aclose()

    async def _tried(self, call: Call) -> bytes:
        trouble: _Again | None = None
        try:
            async with asyncio.timeout(self._timeout_s):
                for attempt in count():
                    try:
                        return await self._once(call)
                    except _Again as again:
                        trouble = again
                    if attempt == self._settings.retries:
                        break
                    backoff = min(LONGEST_BACKOFF_S, BACKOFF_S * 2**attempt)
                    await asyncio.sleep(backoff * self._chance.uniform(0.5, 1.0))
        except TimeoutError:
            if trouble is None:
                raise ModelFailed("timeout", f"{self._name}: no reply within {self._timeout_s:g} s") from None
        raise ModelFailed("unreachable", f"{self._name}: {trouble}, {attempt + 1} times")

    async def _once(self, call: Call) -> bytes:
        """Raises: _Again; ModelFailed."""
        address = self._address()
        if address is None:
            raise _Again("no server yet")
        headers = {} if address.key is None else {"Authorization": f"Bearer {address.key}"}
        url = address.of(call.path, beside=call.beside)
        try:
            async with self._client.stream("POST", url, json=call.body, headers=headers) as reply:
                self._check(reply.status_code)
                received = bytearray()
                async for part in reply.aiter_bytes():
                    received += part
                    if len(received) > LONGEST_REPLY:
                        raise ModelFailed("malformed", f"{self._name}: a reply of over {LONGEST_REPLY} bytes")
                return bytes(received)
        except httpx.ReadTimeout:
            raise ModelFailed("timeout", f"{self._name}: no reply within {self._timeout_s:g} s") from None
        except httpx.DecodingError:
            raise ModelFailed("malformed", f"{self._name}: a reply that cannot be decoded") from None
        except httpx.TransportError as error:
            raise _Again(type(error).__name__) from None

    def _check(self, status: int) -> None:
        if status == HTTPStatus.OK:
            return
        said = f"HTTP {status}"
        if status == HTTPStatus.TOO_MANY_REQUESTS or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise _Again(said)
        raise ModelFailed("refused", f"{self._name}: {said}; look at its url, model and api_key_env")
