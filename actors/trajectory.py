"""A trajectory: all that happened for one sample, as the rollout plane hands it up."""

from dataclasses import dataclass, field

from actors.engine import Completion, Speculated


@dataclass(frozen=True, slots=True)
class Leg:
    """An uninterrupted stay of an answer on one engine. Times are seconds since the epoch.

    Attributes:
        worker: name of the rollout worker.
        submitted_at, finished_at: when the worker took the request and when its last token came, or its abort.
        tokens: sampled during this leg.
        speculated: what drafting did for it during this leg.
    """

    worker: str
    submitted_at: float
    finished_at: float
    tokens: int
    speculated: Speculated = field(default_factory=Speculated)


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One sampled answer with where and when it was sampled.

    Attributes:
        completion: tokens, logprobs and versions.
        legs: at least one, but for a worked solution, which nobody sampled; more than one where the answer was
            interrupted and continued, perhaps elsewhere.
    """

    completion: Completion
    legs: tuple[Leg, ...]

    @property
    def worker(self) -> str:
        """The worker that finished it."""
        return self.legs[-1].worker

    @property
    def submitted_at(self) -> float:
        return self.legs[0].submitted_at

    @property
    def finished_at(self) -> float:
        return self.legs[-1].finished_at
