"""The tracker that lets a run be watched: each thing that it hears of becomes readings of metrics at once."""

from collections.abc import Mapping

from orchestrator.monitoring.exporter import Exporter
from orchestrator.monitoring.readings import of_event, of_scene, of_step
from orchestrator.monitoring.scene import Scene
from orchestrator.monitoring.tracker import Tracker
from orchestrator.run_events import event_of


class Monitor(Tracker):
    def __init__(self, exporter: Exporter) -> None:
        self._exporter = exporter

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        for reading in of_step(step, metrics):
            self._exporter.show(reading)

    def happened(self, row: Mapping[str, object]) -> None:
        event = event_of(row)
        for reading in () if event is None else of_event(event):
            self._exporter.show(reading)

    def looked(self, scene: Scene) -> None:
        for reading in of_scene(scene):
            self._exporter.show(reading)

    def close(self) -> None:
        self._exporter.close()
