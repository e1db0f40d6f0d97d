"""The reward actor as the driver sees it: one verb with a deadline."""

from collections.abc import Sequence

import ray
from ray.actor import ActorHandle

from orchestrator.deadline import within
from rewards.response import Response, Score


class RewardClient:
    """Args:
    deadline_s: of one response; a call's deadline grows with the responses that may stand in line before it.
    """

    def __init__(self, actor: ActorHandle, *, deadline_s: float) -> None:
        self._actor = actor
        self._deadline_s = deadline_s
        self._waiting = 0

    @property
    def waiting(self) -> int:
        """Responses handed over and not scored yet."""
        return self._waiting

    async def score(self, responses: Sequence[Response]) -> list[Score]:
        """A score for each response, in order."""
        self._waiting += len(responses)
        try:
            # Each response is bounded by its own deadline in the pool: the sum bounds the queue.
            patience = 30.0 + self._deadline_s * self._waiting
            return await within(patience, self._actor.score.remote(responses), "reward worker")
        finally:
            self._waiting -= len(responses)

    async def close(self) -> None:
        ray.kill(self._actor, no_restart=True)
