"""What the torch engine speculates with, from the same settings as vLLM."""

import time
from pathlib import Path

from actors.engine import WeightStream
from actors.speculation.drafter import Drafter, Speculation
from actors.speculation.guarded_governor import GuardedGovernor
from actors.speculation.learned_drafter import LearnedDrafter
from actors.speculation.settings import SpeculationSettings
from actors.speculation.step_governor import make_governor
from actors.speculation.step_record import StepRecord
from actors.speculation.suffix_drafter import SuffixDrafter


class GovernedLengths:
    """The governor's choices as `actors.speculation.drafter.DraftLengths`."""

    def __init__(self, governor: GuardedGovernor) -> None:
        self._governor = governor

    @property
    def trouble(self) -> str | None:
        """Why nothing is drafted any more; None while all is well."""
        return self._governor.trouble

    def choose(self, running: int) -> int:
        return self._governor.choose(running, time.monotonic()).k

    def record(self, step: StepRecord) -> None:
        self._governor.observe(step)


def torch_speculation(settings: SpeculationSettings) -> Speculation:
    """The drafter and the governor that these settings name.

    Raises:
        DrafterError: the drafter's files cannot be read.
        ValueError: there is no such governor.
    """
    # Its drafter reads along in every step: it has no pass of its own that could be left out.
    governor = GuardedGovernor(make_governor(settings, detachable=False, on_cpu=True), settings.lengths)
    drafter: Drafter = SuffixDrafter()
    if settings.drafter is not None:
        drafter = LearnedDrafter(Path(settings.drafter), settings.draft_sampling)

    def updated(stream: WeightStream) -> None:
        if stream == "drafter":
            governor.drafter_updated()
        else:
            governor.target_updated()

    return Speculation(drafter, GovernedLengths(governor), updated)
