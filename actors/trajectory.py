"""A trajectory: all that happened for one sample, as the rollout actor hands it up."""

from dataclasses import dataclass

from actors.engine import Completion


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One sampled answer with where and when it was sampled. Times are seconds since the epoch.

    Attributes:
        completion: tokens, logprobs and versions.
        worker: name of the rollout worker.
        submitted_at, finished_at: when the worker took the request and when its last token came.
    """

    completion: Completion
    worker: str
    submitted_at: float
    finished_at: float
