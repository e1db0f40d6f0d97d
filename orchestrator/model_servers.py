"""The models that a run serves to its own rewards: an actor each, watched, and replaced when it dies or hangs.

Invariants: whoever asks is told of each new address; a model that cannot be replaced is said to be gone once, and what
asks it goes on with its fallbacks; a token is made for this run and stands in no file of it.
"""

import asyncio
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError

from actors.model_server import ModelServer
from actors.model_settings import ServedModel
from orchestrator.deadline import DeadlineMissed, within
from orchestrator.errors import last_line
from orchestrator.policies.restart_budget import RestartBudget
from rewards.models.address import Address
from rewards.models.settings import ModelSettings

LOOK_EVERY_S = 1.0
BEAT_S = 20.0
"""A server that does not answer for so long hangs."""
TOKEN_BYTES = 32
LOOPBACK = "127.0.0.1"


class ServerListener(Protocol):
    def worker_lost(self, worker: str, reason: str) -> None: ...

    def model_serves(self, worker: str) -> None: ...

    def warned(self, message: str) -> None: ...


@dataclass(slots=True)
class _Seat:
    """A model's place, and the actor that sits there now."""

    settings: ModelSettings
    folder: Path
    actor: ActorHandle
    token: str


class ModelServers:
    """Args:
    models: those of the recipe that the run serves, with their checkpoints' folders.
    tell: is called with the addresses that are new.
    on_cluster: servers may lie on other machines than who asks them, and listen on their node's address.
    """

    def __init__(
        self,
        models: Mapping[str, tuple[ModelSettings, Path]],
        *,
        tell: Callable[[Mapping[str, Address]], None],
        listener: ServerListener,
        budget: RestartBudget,
        start_timeout_s: float,
        on_cluster: bool = False,
    ) -> None:
        self._tell, self._listener, self._budget = tell, listener, budget
        self._start_timeout_s, self._on_cluster = start_timeout_s, on_cluster
        self._seats = {
            name: _Seat(settings, folder, _spawned(settings), secrets.token_urlsafe(TOKEN_BYTES))
            for name, (settings, folder) in models.items()
        }
        self._watching: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Load all models at the same time. Raises: RayError, DeadlineMissed where one cannot be served."""
        await asyncio.gather(*[self._seat(name) for name in self._seats])
        if self._seats:
            self._watching = asyncio.create_task(self._watch(), name="models of the rewards")

    async def close(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
        for seat in self._seats.values():
            ray.kill(seat.actor, no_restart=True)

    async def _seat(self, name: str) -> None:
        seat = self._seats[name]
        what = f"model {name} of the rewards"
        host = LOOPBACK
        if self._on_cluster:
            host = await within(self._start_timeout_s, seat.actor.node_address.remote(), what)
        started = seat.actor.start.remote(_served(name, seat, host, self._start_timeout_s))
        url = await within(self._start_timeout_s, started, what)
        self._tell({name: Address(url, seat.token)})

    async def _watch(self) -> None:
        while self._seats:
            await asyncio.sleep(LOOK_EVERY_S)
            # Each look has a deadline of its own.
            await asyncio.gather(*[self._look(name) for name in list(self._seats)])

    async def _look(self, name: str) -> None:
        try:
            await within(BEAT_S, self._seats[name].actor.heartbeat.remote(), f"model {name} of the rewards")
        except (RayError, DeadlineMissed) as error:
            await self._replace(name, last_line(error))

    async def _replace(self, name: str, reason: str) -> None:
        worker = f"model-{name}"
        ray.kill(self._seats[name].actor, no_restart=True)
        while self._budget.allow(worker, time.monotonic()):
            self._listener.worker_lost(worker, reason)
            self._seats[name].actor = _spawned(self._seats[name].settings)
            try:
                await self._seat(name)
            except (RayError, DeadlineMissed) as error:
                reason = last_line(error)
                ray.kill(self._seats[name].actor, no_restart=True)
                continue
            self._listener.model_serves(worker)
            return
        del self._seats[name]
        self._listener.warned(f"{worker} is gone ({reason}): terms that ask it go on with their fallbacks")


def _spawned(settings: ModelSettings) -> ActorHandle:
    options = {
        "num_cpus": settings.cpus,
        "num_gpus": settings.gpus,
        "max_concurrency": 1000,
        "runtime_env": {"env_vars": {"OMP_NUM_THREADS": str(settings.cpus)}},
    }
    return ray.remote(**options)(ModelServer).remote()


def _served(name: str, seat: _Seat, host: str, start_timeout_s: float) -> ServedModel:
    settings = seat.settings
    return ServedModel(
        folder=str(seat.folder),
        name=settings.model,
        host=host,
        token=seat.token,
        task=settings.task,
        engine=settings.engine,
        dtype=settings.dtype,
        context_length=settings.context_length,
        max_running=settings.max_running,
        threads=settings.cpus,
        kv_cache_gib=settings.kv_cache_gib,
        on_gpu=settings.gpus > 0,
        start_timeout_s=start_timeout_s,
    )
