"""The Serve application of a judge: each replica is the model server of a run, behind Ray Serve's proxy.

So a judge says the same as a service and inside a run. Ray Serve's own application for LLMs is not taken: it wants
another vLLM than the one that is pinned, and knows neither classifiers nor the routes that rewards ask.
"""

import asyncio
import os

import aiohttp
from ray import serve
from ray.serve import Application
from starlette.requests import Request
from starlette.responses import Response

from actors.model_replies import CALL_S
from actors.model_server import LONGEST_QUESTION, ModelServer
from deploy.serving import KEY_VARIABLE, JudgeArguments
from orchestrator.errors import SettingError
from orchestrator.model_servers import LOOPBACK, served_model
from orchestrator.preflight import find_model
from orchestrator.progress import Progress

PASSED_ON = ("Authorization", "Content-Type")
START_TIMEOUT_S = 1500.0
WAITING = 64
"""Questions that a replica takes beside those that it answers; they wait inside it."""


def app(arguments: JudgeArguments) -> Application:
    """What `serveConfigV2` names."""
    places = arguments.places
    options = {
        "num_cpus": places.cpus,
        "num_gpus": places.gpus,
        "resources": {} if places.nodes is None else {places.nodes: 0.001},
        "runtime_env": {"env_vars": {"OMP_NUM_THREADS": str(places.cpus)}},
    }
    deployment = serve.deployment(
        name="judge",
        num_replicas=arguments.replicas,
        max_ongoing_requests=arguments.model.max_running + WAITING,
        ray_actor_options=options,
    )(Judge)
    return deployment.bind(arguments)


class Judge:
    """Answers what a run's model server answers, to whoever bears the key."""

    async def __init__(self, arguments: JudgeArguments) -> None:  # type: ignore[misc]  # Serve awaits it
        key = os.environ.get(KEY_VARIABLE)
        if not key:
            raise SettingError(KEY_VARIABLE, "no environment variable of this name is set", "name the Secret with it")
        with Progress(f"judge {arguments.model.model}") as progress:
            folder = await asyncio.to_thread(find_model, arguments.model.model, progress)
        self._server = ModelServer()
        served = served_model(
            arguments.model, arguments.places, folder, host=LOOPBACK, token=key, start_timeout_s=START_TIMEOUT_S
        )
        self._base = (await self._server.start(served)).removesuffix("/v1")
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=CALL_S))

    async def check_health(self) -> None:
        """Serve asks for it, and replaces a replica that raises or hangs."""
        await self._server.heartbeat()

    async def __call__(self, request: Request) -> Response:
        body = await request.body()
        if len(body) > LONGEST_QUESTION:
            return Response(status_code=413)
        headers = {name: request.headers[name] for name in PASSED_ON if name in request.headers}
        path = self._base + request.url.path
        async with self._session.request(request.method, path, data=body, headers=headers) as reply:
            return Response(await reply.read(), status_code=reply.status, media_type=reply.content_type)
