"""What a supervised stage writes down: a row of metrics a step, and the summary.

Of the learner's metrics those that compare with an engine mean nothing here and are left out.
"""

import time
from collections.abc import Mapping, Sequence
from statistics import fmean

from learners.batch import TrainBatch
from orchestrator.progress import Progress
from orchestrator.run_directory import RunDirectory
from orchestrator.summary import ENDS, Status
from orchestrator.trackers import Tracker

SHOWN = ("loss", "grad_norm", "skipped_updates", "entropy", "learning_rate", "trained_tokens", "tokens", "seconds")


class SupervisedLog:
    """Args: steps: of the stage."""

    def __init__(self, directory: RunDirectory, progress: Progress, trackers: Sequence[Tracker], steps: int) -> None:
        self._directory, self._progress, self._trackers, self._steps = directory, progress, trackers, steps
        self._losses: list[float] = []
        self._tokens = self._examples = 0

    def stepped(self, step: int, batch: TrainBatch, learner: Mapping[str, float]) -> None:
        """One training step is done."""
        self._losses.append(learner["loss"])
        self._tokens += batch.loss_tokens
        self._examples += len(batch.sequences)
        metrics = {f"learner/{name}": learner[name] for name in SHOWN}
        self._directory.metrics({"step": step, "time": time.time(), **metrics})
        for tracker in self._trackers:
            tracker.log(step, metrics)
        self._progress.part(step, self._steps, f"loss {learner['loss']:.3f}")

    def warned(self, message: str) -> None:
        self._directory.event({"time": time.time(), "event": "warning", "message": message})
        self._progress.warn(message)

    def close(self, *, status: Status, reason: str | None, wall_s: float, examples: int) -> None:
        """Write the summary.

        Args:
            examples: in the data.
        """
        losses = self._losses
        self._directory.summary(
            {
                "status": status,
                "reason": reason,
                "steps": len(losses),
                "wall_s": round(wall_s, 3),
                "loss_first": fmean(losses[:ENDS]) if losses else None,
                "loss_last": fmean(losses[-ENDS:]) if losses else None,
                "tokens_trained": self._tokens,
                "examples": examples,
                "epochs": round(self._examples / examples, 3),
            }
        )
        for tracker in self._trackers:
            tracker.close()
        self._directory.close()
