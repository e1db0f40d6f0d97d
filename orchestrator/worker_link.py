"""One rollout worker as the driver sees it: requests out in bulk, answers in, and a heartbeat.

Invariants:
- what is submitted or aborted during one turn of the event loop leaves as one call;
- the link is lost once, with a reason: its actor died (noticed by the pending `collect` call at once) or hangs
  (`collect` answers after `COLLECT_WAIT_S` unless the worker's event loop stands still);
- after `kill` nothing is delivered any more.
"""

import asyncio
from collections.abc import Callable

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError

from actors.engine import EngineError, EngineLoad, GenerationRequest
from actors.rollout import Collected
from orchestrator.deadline import DeadlineMissed, within
from orchestrator.errors import last_line

COLLECT_WAIT_S = 0.5
COLLECT_TIMEOUT_S = 60.0
"""How long a worker's event loop may stand still (a long update, a busy host) before the worker counts as lost."""
WORKER_FAILURES = (RayError, EngineError, DeadlineMissed)


class WorkerLink:
    """Args:
    actor: started, or being started by the caller.
    collect_timeout_s: see `COLLECT_TIMEOUT_S`.
    """

    def __init__(self, name: str, actor: ActorHandle, *, collect_timeout_s: float = COLLECT_TIMEOUT_S) -> None:
        self.name = name
        self.actor = actor
        self.load = EngineLoad(0, 0, 0.0)
        self._collect_timeout_s = collect_timeout_s
        self._outbox: list[GenerationRequest] = []
        self._aborts: list[str] = []
        self._pump: asyncio.Task[None] | None = None

    def begin(
        self, delivered: Callable[["WorkerLink", Collected], None], lost: Callable[["WorkerLink", str], None]
    ) -> None:
        """Start collecting, on the running event loop."""
        self._pump = asyncio.create_task(self._collect(delivered, lost), name=f"collect {self.name}")

    def submit(self, request: GenerationRequest) -> None:
        self._flush_soon()
        self._outbox.append(request)

    def abort(self, request_id: str) -> None:
        """Ask for this answer as it is; it comes back like any other."""
        self._flush_soon()
        self._aborts.append(request_id)

    def stop(self) -> None:
        """Stop collecting: from now on nothing is delivered and nothing is lost."""
        if self._pump is not None and self._pump is not asyncio.current_task():
            self._pump.cancel()

    def kill(self) -> None:
        """Stop collecting and end the actor's process. Idempotent."""
        self.stop()
        ray.kill(self.actor, no_restart=True)

    def _flush_soon(self) -> None:
        if not self._outbox and not self._aborts:
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        """Nobody waits for these calls: `collect` sees it if they fail."""
        if self._outbox:
            self.actor.submit.remote(tuple(self._outbox))
        if self._aborts:
            self.actor.abort.remote(tuple(self._aborts))
        self._outbox, self._aborts = [], []

    async def _collect(
        self, delivered: Callable[["WorkerLink", Collected], None], lost: Callable[["WorkerLink", str], None]
    ) -> None:
        while True:
            try:
                collected: Collected = await within(
                    self._collect_timeout_s, self.actor.collect.remote(COLLECT_WAIT_S), f"worker {self.name}"
                )
            except WORKER_FAILURES as error:
                lost(self, last_line(error))
                return
            self.load = collected.load
            delivered(self, collected)
