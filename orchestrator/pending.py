"""An answer that was asked for and has not come back yet."""

import asyncio
from dataclasses import dataclass

from actors.engine import Completion, GenerationRequest
from actors.trajectory import Leg, Trajectory
from orchestrator.policies.consolidation import RunningAnswer
from orchestrator.policies.request_queue import Ticket


@dataclass(frozen=True, slots=True)
class Errand:
    """What the fleet must know of an answer beside its request.

    Attributes:
        group: answers of one group share it, and so the KV of their prompt.
        sample: number of the answer in its group; 0 is the group's probe.
        prompt_id: under which lengths are remembered; empty where they shall not be.
        min_version: no token may be older.
    """

    group: int
    sample: int
    prompt_id: str
    min_version: int


@dataclass(slots=True)
class Pending:
    """Attributes:
    answer: what the asker awaits.
    since: when it began to wait, or to run where it is, monotonic seconds.
    legs: behind it; the request's prefix holds the tokens.
    submission: its id on the worker that runs it, empty while it waits.
    recalled: it shall come back as it is.
    """

    request: GenerationRequest
    errand: Errand
    answer: "asyncio.Future[Trajectory]"
    since: float
    legs: tuple[Leg, ...] = ()
    attempts: int = 1
    submission: str = ""
    recalled: bool = False

    @property
    def sampled(self) -> int:
        """Tokens of the legs behind it."""
        return sum(len(segment.token_ids) for segment in self.request.prefix)

    def ticket(self, predicted: float | None, *, continued: bool) -> Ticket:
        """Its place in the queue."""
        errand = self.errand
        return Ticket(
            self.request.request_id,
            errand.group,
            errand.sample,
            errand.min_version,
            self.sampled,
            predicted,
            continued,
        )

    def as_it_is(self) -> Trajectory:
        """What the legs behind it sampled, where no engine has it."""
        return Trajectory(Completion(self.request.request_id, self.request.prefix, "abort"), self.legs)

    def as_running(self, sampled: float) -> RunningAnswer:
        """What a move would cost and spare.

        Args:
            sampled: tokens of the answer so far, those of this leg as estimated: they are still on the engine.
        """
        room = max(1.0, self.request.sampling.max_tokens - sampled)
        return RunningAnswer(self.request.request_id, round(len(self.request.prompt_ids) + sampled), room)
