"""Lets the fleet grow and shrink beside the driver, as the growth rule says (`orchestrator.policies.growth`).

A new engine is a plain Ray actor outside of the run's reservation: while it waits for a node it is what an autoscaler
goes by. It joins as a replacement does, after it attested the weights that it serves.
"""

import asyncio
import time
from collections.abc import Callable
from itertools import count

from orchestrator.placement import rollout_name
from orchestrator.policies.growth import FleetView, GrowthRule
from orchestrator.rollout_fleet import RolloutFleet

LOOK_EVERY_S = 1.0


class Growth:
    """Args:
    rule: its bounds are the topology's.
    clock: monotonic seconds.
    """

    def __init__(self, fleet: RolloutFleet, rule: GrowthRule, clock: Callable[[], float] = time.monotonic) -> None:
        self._fleet, self._rule, self._clock = fleet, rule, clock
        self._watching: asyncio.Task[None] | None = None

    def begin(self) -> None:
        self._watching = asyncio.create_task(self._watch(), name="growth of the fleet")

    def close(self) -> None:
        if self._watching is not None:
            self._watching.cancel()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            fleet = self._fleet
            running = {member.link.name: len(member.running) for member in fleet.members}
            view = FleetView(running, int(fleet.recruiting), fleet.waiting)
            change = self._rule.look(view, self._clock())
            if change.grow:
                name = next(name for name in map(rollout_name, count()) if name not in running)
                if not await fleet.enlarge(name):
                    self._rule.did_not_come(self._clock())
            elif change.let_go is not None:
                fleet.lose(change.let_go, "it stood idle, and is let go", replaced=False)
