"""Experiment trackers beside the run's own metrics.jsonl: Weights & Biases and TensorBoard, on request."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from orchestrator.config import TrackingSettings
from orchestrator.errors import SettingError


class Tracker(Protocol):
    def log(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class WandbTracker:
    """Logs to Weights & Biases, online or (`WANDB_MODE=offline`) into the run directory."""

    def __init__(self, folder: Path, project: str, name: str, config: dict[str, object]) -> None:
        try:
            import wandb
        except ImportError:
            raise SettingError("tracking.wandb", "wandb is not installed", "pip install wandb") from None
        quiet = wandb.Settings(silent=True)
        try:
            self._run = wandb.init(project=project, name=name, dir=str(folder), config=config, settings=quiet)
        except (wandb.Error, OSError) as error:
            fix = "run `wandb login` or set WANDB_MODE=offline"
            raise SettingError("tracking.wandb", str(error).splitlines()[0], fix) from None

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._run.log(dict(metrics), step=step)

    def close(self) -> None:
        self._run.finish()


class TensorBoardTracker:
    """Writes event files to <run>/tensorboard."""

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            fix = "pip install tensorboard"
            raise SettingError("tracking.tensorboard", "tensorboard is not installed", fix) from None
        self._writer = SummaryWriter(str(folder / "tensorboard"))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


def open_trackers(settings: TrackingSettings, folder: Path, name: str, config: dict[str, object]) -> list[Tracker]:
    """The trackers that the recipe asks for.

    Raises:
        SettingError: one of them is not installed or cannot log in.
    """
    trackers: list[Tracker] = []
    if settings.wandb:
        trackers.append(WandbTracker(folder, settings.project, name, config))
    if settings.tensorboard:
        trackers.append(TensorBoardTracker(folder))
    return trackers
