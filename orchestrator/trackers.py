"""The trackers of a run: Prometheus always, Weights & Biases and TensorBoard on request."""

import uuid
from collections.abc import Mapping
from pathlib import Path

from learners.errors import first_line
from orchestrator.config import TrackingSettings
from orchestrator.errors import SettingError
from orchestrator.monitoring.exporter import RayExporter
from orchestrator.monitoring.monitor import Monitor
from orchestrator.monitoring.tracker import Tracker


class WandbTracker(Tracker):
    """Logs to Weights & Biases, online or (`WANDB_MODE=offline`) into the run directory."""

    def __init__(self, folder: Path, project: str, name: str, config: dict[str, object]) -> None:
        try:
            import wandb
        except ImportError:
            raise SettingError("tracking.wandb", "wandb is not installed", "pip install wandb") from None
        quiet = wandb.Settings(silent=True)
        try:
            self._run = wandb.init(
                project=project,
                name=name,
                dir=str(folder),
                config=config,
                settings=quiet,
                id=_own_id(folder / "wandb" / "run-id"),
                resume="allow",
            )
        except (wandb.Error, OSError) as error:
            fix = "run `wandb login` or set WANDB_MODE=offline"
            raise SettingError("tracking.wandb", first_line(error), fix) from None

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._run.log(dict(metrics), step=step)

    def close(self) -> None:
        self._run.finish()


def _own_id(file: Path) -> str:
    """The same in every process that goes on with the run."""
    if not file.is_file():
        file.parent.mkdir(exist_ok=True)
        file.write_text(uuid.uuid4().hex[:12], encoding="utf-8")
    return file.read_text(encoding="utf-8")


class TensorBoardTracker(Tracker):
    """Writes event files to <run>/tensorboard. `resumed`: what it holds of later steps is hidden, and comes again."""

    def __init__(self, folder: Path, resumed: int | None = None) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            fix = "pip install tensorboard"
            raise SettingError("tracking.tensorboard", "tensorboard is not installed", fix) from None
        purge = None if resumed is None else resumed + 1
        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=purge)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


def open_trackers(
    settings: TrackingSettings, folder: Path, name: str, config: dict[str, object], *, resumed: int | None = None
) -> list[Tracker]:
    """The trackers that the recipe asks for, and the one that shows the run to Prometheus.

    Args:
        resumed: the step after which the run goes on; None where it begins.

    Raises:
        SettingError: one of them is not installed or cannot log in.
    """
    trackers: list[Tracker] = [Monitor(RayExporter(run=folder.name, recipe=name))]
    if settings.wandb:
        trackers.append(WandbTracker(folder, settings.project, name, config))
    if settings.tensorboard:
        trackers.append(TensorBoardTracker(folder, resumed))
    return trackers
