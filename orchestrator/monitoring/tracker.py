"""Who hears of a run beside its own files. A tracker takes what it has a use for."""

from collections.abc import Mapping

from orchestrator.monitoring.scene import Scene


class Tracker:
    """What each method is told of, a tracker may leave alone."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """The metrics of a training step, or of an evaluation after it."""

    def happened(self, row: Mapping[str, object]) -> None:
        """An event, as events.jsonl has it."""

    def looked(self, scene: Scene) -> None:
        """Where everybody stands now; several times a second."""

    def close(self) -> None:
        """The run is over."""
