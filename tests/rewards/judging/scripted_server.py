"""An OpenAI-compatible server over real HTTP whose replies the test decides."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Self

from aiohttp import web

START_S = 20.0


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as it arrived; `text` is what the model was shown."""

    path: str
    body: Mapping[str, object]
    authorization: str | None

    @property
    def text(self) -> str:
        return "\n".join(message["content"] for message in self.body.get("messages", []))  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True)
class Reply:
    """`body` is sent as JSON, or as it is where it is bytes."""

    body: object = None
    status: int = 200
    after_s: float = 0.0


def chat(*texts: str, after_s: float = 0.0) -> Reply:
    return Reply({"choices": [{"message": {"role": "assistant", "content": text}} for text in texts]}, after_s=after_s)


def classes(*probabilities: float) -> Reply:
    return Reply({"data": [{"index": 0, "label": "x", "probs": list(probabilities)}]})


def vectors(*rows: tuple[float, ...]) -> Reply:
    return Reply({"data": [{"index": index, "embedding": list(row)} for index, row in enumerate(rows)]})


@dataclass
class ScriptedServer:
    """Answers each request by `script`, which the test may change at any time."""

    script: Callable[[Asked], Reply]
    asked: list[Asked] = field(default_factory=list)
    most_at_once: int = 0
    port: int = 0
    _under_way: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def saying(self, *texts: str, after_s: float = 0.0) -> Self:
        self.script = lambda _: chat(*texts, after_s=after_s)
        return self

    async def handle(self, request: web.Request) -> web.Response:
        asked = Asked(request.path, json.loads(await request.read()), request.headers.get("Authorization"))
        self.asked.append(asked)
        self._under_way += 1
        self.most_at_once = max(self.most_at_once, self._under_way)
        try:
            reply = self.script(asked)
            await asyncio.sleep(reply.after_s)
        finally:
            self._under_way -= 1
        body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
        return web.Response(status=reply.status, body=body, content_type="application/json")


@contextmanager
def serving(port: int = 0) -> Iterator[ScriptedServer]:
    """On a thread and a loop of its own."""
    server = ScriptedServer(lambda _: chat("Score: 10"))
    loop, started, stop = asyncio.new_event_loop(), threading.Event(), asyncio.Event()

    async def serve() -> None:
        app = web.Application(client_max_size=1 << 26)
        app.router.add_post("/{path:.*}", server.handle)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", port)
        await site.start()
        server.port = runner.addresses[0][1]
        started.set()
        await stop.wait()
        await runner.cleanup()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), daemon=True)
    thread.start()
    assert started.wait(START_S)
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(START_S)
        loop.close()
