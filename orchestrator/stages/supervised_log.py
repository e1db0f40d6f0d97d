"""What a supervised stage writes down: a row of metrics a step, and the summary.

Of the learner's metrics those that compare with an engine mean nothing here and are left out.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from learners.batch import TrainBatch
from orchestrator.monitoring.tracker import Tracker
from orchestrator.progress import Progress
from orchestrator.run_directory import RunDirectory
from orchestrator.summary import ENDS, Status

SHOWN = ("loss", "grad_norm", "skipped_updates", "entropy", "learning_rate", "trained_tokens", "tokens", "seconds")


@dataclass(frozen=True, slots=True)
class SupervisedTally:
    """What the summary adds up: the loss of each step, learned tokens, examples shown."""

    losses: tuple[float, ...] = ()
    tokens: int = 0
    examples: int = 0


class SupervisedLog:
    """Args: steps: of the stage."""

    def __init__(self, directory: RunDirectory, progress: Progress, trackers: Sequence[Tracker], steps: int) -> None:
        self._directory, self._progress, self._trackers, self._steps = directory, progress, trackers, steps
        self.tally = SupervisedTally()
        """Of all processes of the run; set it where the run goes on."""

    def stepped(self, step: int, batch: TrainBatch, learner: Mapping[str, float]) -> None:
        """One training step is done."""
        before = self.tally
        self.tally = SupervisedTally(
            (*before.losses, learner["loss"]),
            before.tokens + batch.loss_tokens,
            before.examples + len(batch.sequences),
        )
        metrics = {f"learner/{name}": learner[name] for name in SHOWN}
        self._directory.metrics({"step": step, "time": time.time(), **metrics})
        for tracker in self._trackers:
            tracker.log(step, metrics)
        self._progress.part(step, self._steps, f"loss {learner['loss']:.3f}")

    def resumed(self, step: int) -> None:
        """The run goes on after this step."""
        self._directory.event({"time": time.time(), "event": "run_resumed", "step": step})

    def warned(self, message: str) -> None:
        self._directory.event({"time": time.time(), "event": "warning", "message": message})
        self._progress.warn(message)

    def close(self, *, status: Status, reason: str | None, wall_s: float, examples: int) -> None:
        """Write the summary.

        Args:
            examples: in the data.
        """
        losses = self.tally.losses
        self._directory.summary(
            {
                "status": status,
                "reason": reason,
                "steps": len(losses),
                "wall_s": round(wall_s, 3),
                "loss_first": fmean(losses[:ENDS]) if losses else None,
                "loss_last": fmean(losses[-ENDS:]) if losses else None,
                "tokens_trained": self.tally.tokens,
                "examples": examples,
                "epochs": round(self.tally.examples / examples, 3),
            }
        )
        for tracker in self._trackers:
            tracker.close()
        self._directory.close()
