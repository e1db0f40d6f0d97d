"""Hears the gap between engine and learner from one source, and says or does what the recipe asks for.

Two sources, an alarm for each: the probe of every weight sync, and the tokens that a training step sampled under the
very weights that it began with. A probe is a fixed sequence; the tokens see whatever sampling does.
"""

from collections.abc import Callable

from actors.settings import GapAlarmSettings
from orchestrator.errors import RunError
from orchestrator.policies.gap_alarm import GapAlarm, GapFinding, GapState

CAUSES = (
    "likely causes: another precision (rollout.dtype, trainer.dtype), kernels that differ, sampling that the learner "
    "does not know of, or weights that a layer of the engine did not take"
)
FIX = "see whether rollout.engine=torch agrees, or raise weight_sync.gap_alarm.limit"


class GapWatch:
    """Args:
    what: is compared, as messages call it.
    limit: nats, where the settings name none.
    warned: is told of each change, in one line.
    """

    def __init__(self, settings: GapAlarmSettings, what: str, *, limit: float, warned: Callable[[str], None]) -> None:
        self._what, self._action, self._warned = what, settings.action, warned
        limit = settings.limit if settings.limit is not None else limit
        self._alarm = GapAlarm(limit=limit, factor=settings.factor, patience=settings.patience)

    def observe(self, gap: float | None) -> None:
        """Take the next mean gap, nats; None where nothing could be compared.

        Raises:
            RunError: it is too large for too long, and the recipe wants the run to stop then.
        """
        finding = self._alarm.observe(gap)
        if finding is None:
            return
        if not finding.ringing:
            self._warned(f"engine and learner agree again on {self._what}: logprob gap {finding.gap:.3g} nats")
            return
        reason = self._reason(finding)
        if self._action == "stop":
            raise RunError(reason, FIX)
        self._warned(f"{reason}; {FIX}")

    @property
    def state(self) -> GapState:
        """For a checkpoint."""
        return self._alarm.state

    def restore(self, state: GapState) -> None:
        self._alarm.state = state

    def _reason(self, finding: GapFinding) -> str:
        times = f"{finding.patience} times in a row " if finding.patience > 1 else ""
        return (
            f"engine and learner disagree on {self._what}: mean logprob gap {finding.gap:.3g} nats, {times}above "
            f"{finding.limit:.3g}; {CAUSES}"
        )


def fresh_gap(metrics: dict[str, float]) -> float | None:
    """The gap of a training step's tokens that can be compared; None where it had none."""
    return metrics["engine_gap_unmixed"] if metrics.get("engine_gap_unmixed_tokens") else None
