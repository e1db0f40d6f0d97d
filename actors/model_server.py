"""The model server: the actor that serves one model for rewards, as an OpenAI-compatible endpoint of the run's own.

A plain class; the orchestrator wraps it with ``ray.remote(...)(ModelServer)``. Invariants: it listens on the address
that it is given alone, and answers nobody who does not bear the token of this run; it keeps no state between calls, so
that its successor says the same.
"""

import asyncio
import hmac
import logging
from collections.abc import Awaitable, Callable
from typing import Annotated

import ray
from aiohttp import web
from pydantic import BaseModel, Field, ValidationError

from actors.engine import EngineError
from actors.model_replies import Encoder, Generator, ReplyTooLong
from actors.model_settings import ServedModel
from rewards.models.asking import Message

LONGEST_QUESTION = 16 * 2**20
_LISTEN_S = 30.0
_log = logging.getLogger(__name__)
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class _Turn(BaseModel):
    role: Annotated[str, Field(pattern="^(system|user|assistant)$")]
    content: str

    def message(self) -> Message:
        return Message(self.role, self.content)  # type: ignore[arg-type]  # the pattern allows no other


class _Chat(BaseModel):
    messages: Annotated[list[_Turn], Field(min_length=1)]
    n: Annotated[int, Field(ge=1, le=64)] = 1
    max_tokens: Annotated[int, Field(ge=1)] = 512
    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0


class _Classified(BaseModel):
    messages: Annotated[list[_Turn], Field(min_length=1)]


class _Embedded(BaseModel):
    input: Annotated[list[str], Field(min_length=1, max_length=4096)]


class ModelServer:
    """Serves one model once it is started."""

    async def node_address(self) -> str:
        """Where other machines of the cluster reach this one."""
        return str(ray.util.get_node_ip_address())

    async def start(self, served: ServedModel) -> str:
        """Load the model and listen. Returns: the base address, with its ``/v1``."""
        self._served = served
        app = web.Application(client_max_size=LONGEST_QUESTION, middlewares=[self._guarded])
        if self._served.task == "generate":
            self._generator = Generator(self._served)
            await self._generator.start()
            app.router.add_post("/v1/chat/completions", self._chat)
        else:
            self._encoder = Encoder(self._served)
            await self._encoder.start()
            classifies = self._served.task == "classify"
            app.router.add_post(*(("/classify", self._classify) if classifies else ("/v1/embeddings", self._embed)))
        # What is asked stands in no log; who gives up ends the engine's work.
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
        await asyncio.wait_for(runner.setup(), _LISTEN_S)
        await asyncio.wait_for(web.TCPSite(runner, self._served.host, 0).start(), _LISTEN_S)
        port: int = runner.addresses[0][1]
        return f"http://{self._served.host}:{port}/v1"

    async def heartbeat(self) -> None:
        """Answers while the process lives."""

    @web.middleware
    async def _guarded(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        borne = request.headers.get("Authorization", "").encode()
        if not hmac.compare_digest(borne, f"Bearer {self._served.token}".encode()):
            return _refusal(401, "this server answers the run that started it")
        try:
            return await handler(request)
        except ValidationError as error:
            return _refusal(400, f"not what this route takes: {error.error_count()} faults")
        except ReplyTooLong as error:
            return _refusal(400, str(error))
        except (EngineError, TimeoutError) as error:
            _log.error("%s: %s", self._served.name, error)
            return _refusal(503, "the engine gave no reply")

    async def _chat(self, request: web.Request) -> web.Response:
        asked = _Chat.model_validate_json(await request.read())
        said = await self._generator.replies(
            [turn.message() for turn in asked.messages],
            n=asked.n,
            max_tokens=asked.max_tokens,
            temperature=asked.temperature,
            seed=asked.seed,
        )
        choices = [{"index": i, "message": {"role": "assistant", "content": text}} for i, text in enumerate(said)]
        return web.json_response({"object": "chat.completion", "model": self._served.name, "choices": choices})

    async def _classify(self, request: web.Request) -> web.Response:
        asked = _Classified.model_validate_json(await request.read())
        found = await self._encoder.probabilities([turn.message() for turn in asked.messages])
        best = max(range(len(found)), key=found.__getitem__)
        data = [{"index": 0, "label": f"LABEL_{best}", "probs": found, "num_classes": len(found)}]
        return web.json_response({"object": "list", "model": self._served.name, "data": data})

    async def _embed(self, request: web.Request) -> web.Response:
        asked = _Embedded.model_validate_json(await request.read())
        vectors = await self._encoder.vectors(asked.input)
        data = [{"object": "embedding", "index": i, "embedding": vector} for i, vector in enumerate(vectors)]
        return web.json_response({"object": "list", "model": self._served.name, "data": data})


def _refusal(status: int, message: str) -> web.Response:
    return web.json_response({"error": {"message": message}}, status=status)
