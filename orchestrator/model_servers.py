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
from orchestrator.placement import judge_name
from orchestrator.policies.restart_budget import RestartBudget
from orchestrator.reservation import Reservation
from orchestrator.topology import JudgePlaces
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
    places: JudgePlaces
    folder: Path
    actor: ActorHandle
    token: str


class ModelServers:
    """Args:
    models: those of the recipe that the run serves, with what each takes and its checkpoint's folder.
    reserved: what Ray set aside for them.
    tell: is called with the addresses that are new.
    on_cluster: servers may lie on other machines than who asks them, and listen on their node's address.
    """

    def __init__(
        self,
        models: Mapping[str, tuple[ModelSettings, JudgePlaces, Path]],
        reserved: Reservation,
        *,
        tell: Callable[[Mapping[str, Address]], None],
        listener: ServerListener,
        budget: RestartBudget,
        start_timeout_s: float,
        on_cluster: bool = False,
    ) -> None:
        self._tell, self._listener, self._budget = tell, listener, budget
        self._start_timeout_s, self._on_cluster = start_timeout_s, on_cluster
        self._reserved = reserved
        self._seats = {
            name: _Seat(settings, places, folder, self._spawned(name, places), secrets.token_urlsafe(TOKEN_BYTES))
            for name, (settings, places, folder) in models.items()
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
        served = served_model(
            seat.settings,
            seat.places,
            seat.folder,
            host=host,
            token=seat.token,
            start_timeout_s=self._start_timeout_s,
        )
        started = seat.actor.start.remote(served)
        url = await within(self._start_timeout_s, started, what)
        self._tell({name: Address(url, seat.token)})

    def _spawned(self, name: str, places: JudgePlaces) -> ActorHandle:
        options = {
            "num_cpus": places.cpus,
            "num_gpus": places.gpus,
            "max_concurrency": 1000,
            "runtime_env": {"env_vars": {"OMP_NUM_THREADS": str(places.cpus)}},
            **self._reserved.options(judge_name(name)),
        }
        return ray.remote(**options)(ModelServer).remote()

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
        worker = judge_name(name)
        ray.kill(self._seats[name].actor, no_restart=True)
        while self._budget.allow(worker, time.monotonic()):
            self._listener.worker_lost(worker, reason)
            self._seats[name].actor = self._spawned(name, self._seats[name].places)
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


def served_model(
    settings: ModelSettings, places: JudgePlaces, folder: Path, *, host: str, token: str, start_timeout_s: float
) -> ServedModel:
    """What the model's server is told.

    Args:
        host: address that it shall listen on.
        token: that whoever asks must bear.
    """
    return ServedModel(
        folder=str(folder),
        name=settings.model,
        host=host,
        token=token,
        task=settings.task,
        engine=settings.engine,
        dtype=settings.dtype,
        context_length=settings.context_length,
        max_running=settings.max_running,
        threads=places.cpus,
        kv_cache_gib=settings.kv_cache_gib,
        on_gpu=places.gpus > 0,
        start_timeout_s=start_timeout_s,
    )
