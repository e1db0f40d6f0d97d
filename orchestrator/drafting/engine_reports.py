"""Asks every engine now and then what speculation did there, and hands it on.

Invariant: an engine that does not answer is left to those who watch over its life (`WorkerLink`); what it had to report
is lost, nothing else.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol

from ray.exceptions import RayError

from actors.engine import SpeculationStats
from actors.speculation.step_record import StepRecord
from orchestrator.deadline import DeadlineMissed, within
from orchestrator.rollout_fleet import RolloutFleet
from orchestrator.worker_link import WorkerLink

EVERY_S = 1.0
TIMEOUT_S = 30.0


class SpeculationListener(Protocol):
    """Is told what each engine reports."""

    def speculated(self, worker: str, records: tuple[StepRecord, ...]) -> None: ...

    def speculation_failed(self, worker: str, reason: str) -> None: ...


class EngineReports:
    """Args: observe: hears of every step record besides."""

    def __init__(
        self, fleet: RolloutFleet, listener: SpeculationListener, observe: Callable[[StepRecord], None] | None
    ) -> None:
        self._fleet, self._listener, self._observe = fleet, listener, observe
        self._troubles: dict[WorkerLink, str] = {}

    async def watch(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(EVERY_S)
            await self.collect()

    async def collect(self) -> None:
        """Ask every engine once."""
        await asyncio.gather(*(self._ask(member.link) for member in self._fleet.members))

    async def _ask(self, link: WorkerLink) -> None:
        try:
            call = link.actor.speculation_stats.remote()
            stats: SpeculationStats = await within(TIMEOUT_S, call, f"speculation on {link.name}")
        except (RayError, DeadlineMissed):
            return
        if stats.steps:
            self._listener.speculated(link.name, stats.steps)
        if self._observe is not None:
            for record in stats.steps:
                self._observe(record)
        if stats.trouble is not None and self._troubles.get(link) != stats.trouble:
            self._troubles[link] = stats.trouble
            self._listener.speculation_failed(link.name, stats.trouble)
