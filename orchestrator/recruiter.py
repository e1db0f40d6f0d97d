"""Replaces a lost rollout worker: starts an actor of the same name and brings it the newest weights.

Invariant: a recruit joins the fleet only after it attested the version that it serves (the weight bus says so). How
often a worker may be replaced is bounded; a worker that keeps dying ends here with the reasons.
"""

import time
from collections.abc import Callable

from ray.actor import ActorHandle
from ray.exceptions import RayError

from orchestrator.deadline import DeadlineMissed, within
from orchestrator.errors import RunError, last_line
from orchestrator.policies.restart_budget import RestartBudget
from orchestrator.weight_bus import WeightBus
from orchestrator.worker_link import WorkerLink


class Recruiter:
    """Args:
    spawn: makes the actor of this name, not started.
    budget: how often one worker may be replaced.
    start_timeout_s: deadline of an engine's start.
    """

    def __init__(
        self,
        spawn: Callable[[str], ActorHandle],
        bus: WeightBus,
        *,
        budget: RestartBudget,
        start_timeout_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._spawn, self._bus, self._clock = spawn, bus, clock
        self._budget, self._start_timeout_s = budget, start_timeout_s

    async def replace(self, name: str) -> tuple[WorkerLink, int]:
        """A new worker of this name, and the version that it serves.

        Raises:
            RunError: it was replaced too often, or none could be started.
        """
        reason = "it kept dying"
        while self._budget.allow(name, self._clock()):
            link = WorkerLink(name, self._spawn(name))
            try:
                await within(self._start_timeout_s, link.actor.start.remote(), f"start of {name}")
                return link, await self._bus.enlist(link)
            except (RayError, DeadlineMissed, RunError) as error:
                reason = last_line(error)
                link.kill()
            except BaseException:
                link.kill()
                raise
        raise RunError(
            f"{name} was replaced {self._budget.spent(name, self._clock())} times ({reason})",
            "look at the worker's log, or raise rollout.max_restarts",
        )
