"""The reward worker: the actor in which finished answers are scored.

A plain class, so that tests and other programs use it as it is; the orchestrator wraps it with
``ray.remote(num_cpus=...)(RewardWorker)``. It holds a pool of child processes and no other state: an answer scored
twice, because an actor died, gets the same verdict.
"""

from collections.abc import Mapping, Sequence

from rewards.child_pool import ChildPool
from rewards.models.address import Addresses
from rewards.response import Response, Score
from rewards.settings import RewardSettings


class RewardWorker:
    """Scores responses under the limits of `settings`. May be called concurrently (`max_concurrency` above 1)."""

    def __init__(self, settings: RewardSettings, addresses: Addresses | None = None) -> None:
        """
        Args:
            addresses: of the models that terms ask, as far as they are known.
        """
        self._pool = ChildPool(settings, addresses)

    def warm_up(self) -> None:
        """Wait until every child can score. Raises: RewardSetupError, one line, where the terms cannot work."""
        self._pool.warm_up()

    def score(
        self,
        responses: Sequence[Response],
        history: Mapping[str, float] | None = None,
        shared: Mapping[str, float] | None = None,
        ticket: str = "",
    ) -> list[Score]:
        """One score for each answer to a prompt, in order; a response whose scoring failed carries the reason.

        Args:
            history, shared: what is remembered of the prompt and of the run.
            ticket: a name under which `cancel` may call it off.
        """
        return self._pool.score_group(responses, history, shared, ticket)

    def cancel(self, ticket: str) -> None:
        """Nobody waits for that call's scores any more."""
        self._pool.cancel(ticket)

    def readdress(self, addresses: Addresses) -> None:
        """The models of these names are to be found there from now on."""
        self._pool.readdress(addresses)

    def heartbeat(self) -> None:
        """Answers while the process lives, however long the scoring takes (a thread of its own)."""

    def close(self) -> None:
        """Kill the children. They also die with this actor's process."""
        self._pool.close()
