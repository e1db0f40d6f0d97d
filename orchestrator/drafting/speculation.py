"""Speculation beside a run: what engines report of it, and where its drafter learns."""

import asyncio
from collections.abc import Mapping
from pathlib import Path

from ray import ObjectRef
from ray.exceptions import RayError

from orchestrator.activity import Activity
from orchestrator.deadline import DeadlineMissed
from orchestrator.drafting.arbiter import Arbiter
from orchestrator.drafting.decay import DecayRules
from orchestrator.drafting.engine_reports import EngineReports
from orchestrator.drafting.school import DrafterSchool
from orchestrator.drafting.settings import SpeculationSection
from orchestrator.drafting.study import Study
from orchestrator.errors import last_line
from orchestrator.idle_time import idle_ahead
from orchestrator.launch import Actors
from orchestrator.run_log import RunLog
from orchestrator.weight_bus import WeightBus


class Speculation:
    """Args: section: the recipe's, of a run whose engines speculate."""

    def __init__(
        self, section: SpeculationSection, actors: Actors, bus: WeightBus, activity: Activity, log: RunLog
    ) -> None:
        self._actors, self._log, self._bus = actors, log, bus
        self._school: DrafterSchool | None = None
        if actors.drafter is not None:
            rules = section.retrain

            async def tables() -> ObjectRef:
                return await actors.learners.drafter_tables(bus.newest or 0)

            def idle() -> Mapping[str, float]:
                return idle_ahead(actors.fleet, activity)

            self._school = DrafterSchool(
                actors.drafter,
                section,
                bus,
                study=Study(
                    rules.policy,
                    DecayRules(delta=rules.delta, memory=rules.memory, least_gap_s=rules.least_gap_s),
                    fresh=section.checkpoint is None,
                ),
                arbiter=Arbiter(ttl_s=rules.lease_s, least_work_s=rules.least_work_s, switch_prior_s=0.0),
                idle=idle,
                tables=tables,
                listener=log,
            )
        observe = None if self._school is None else self._school.observe
        self._reports = EngineReports(actors.fleet, log, observe)
        self._watching: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Start, on the running event loop."""
        self._watching = asyncio.create_task(self._reports.watch(), name="speculation reports")
        if self._school is not None:
            self._school.begin()

    async def stepped(self) -> None:
        """The learner has made a step and published it."""
        if self._school is not None:
            self._school.stepped(await self._actors.learners.take_windows())

    async def save(self, folder: Path) -> None:
        """Write the drafter that serves, as vLLM loads it."""
        if self._school is None or self._actors.drafter is None:
            return
        try:
            await self._actors.drafter.save(folder, self._school.version)
        except (RayError, DeadlineMissed) as error:
            self._log.warned(f"the drafter was not written: {last_line(error)}")

    async def close(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
        if self._school is not None:
            await self._school.close()
