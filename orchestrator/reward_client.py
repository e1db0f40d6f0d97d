"""The reward actor as the driver sees it: one verb with a deadline."""

from collections.abc import Sequence

import ray
from ray.actor import ActorHandle

from orchestrator.deadline import within
from rewards.response import Response, Score
from rewards.settings import RewardSettings

RESTART_S = 10.0
"""A child that was killed and its libraries loaded again, on a busy machine."""


class RewardClient:
    """Args:
    settings: bound each response; a call's deadline grows with the responses that may stand in line before it.
    """

    def __init__(self, actor: ActorHandle, settings: RewardSettings) -> None:
        self._actor = actor
        self._settings = settings
        self._waiting = 0

    @property
    def waiting(self) -> int:
        """Responses handed over and not scored yet."""
        return self._waiting

    async def score(self, responses: Sequence[Response]) -> list[Score]:
        """A score for each response, in order."""
        self._waiting += len(responses)
        try:
            # The worst case: every response in line runs into its deadline and costs its child a restart.
            each = self._settings.deadline_s + RESTART_S
            patience = self._settings.start_timeout_s + each * self._waiting
            return await within(patience, self._actor.score.remote(responses), "reward worker")
        finally:
            self._waiting -= len(responses)

    async def close(self) -> None:
        ray.kill(self._actor, no_restart=True)
