"""How long accelerators will stand idle, as far as can be foreseen: what the arbiter lends by.

Read from the fleet and the learner's activity; predictions only, nobody relies on them being right. An engine counts
as idle when it has no answers and none wait; it stays so until the last answer of the others has ended, because the
next batch starts then. The learner counts while it waits, for as long as its last waits took.
"""

from collections.abc import Mapping

from orchestrator.activity import Activity
from orchestrator.drafting.arbiter import predicted_idle
from orchestrator.rollout_fleet import RolloutFleet

LEARNER = "learner"


def idle_ahead(fleet: RolloutFleet, activity: Activity) -> Mapping[str, float]:
    """Predicted idle seconds of each accelerator that nobody uses now, by engine's name or `LEARNER`."""
    idle: dict[str, float] = {}
    remaining = fleet.remaining()
    if not fleet.waiting and fleet.tokens_per_s:
        ahead = predicted_idle(remaining, dict.fromkeys(remaining, fleet.tokens_per_s))
        idle = {name: seconds for name, seconds in ahead.items() if not remaining[name]}
    wait = activity.wait_ahead()
    return idle if wait is None else {**idle, LEARNER: wait}
