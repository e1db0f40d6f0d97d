"""The learner group as the driver sees it: a few verbs over all ranks, each with a deadline.

Invariant: collective verbs reach every rank in the same order, because one driver calls them one after another.
A rank that fails fails the verb, and with it the run: the group has no partial state to go on from.
"""

from collections.abc import Awaitable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError, RayTaskError

from actors.engine import ChannelAddress
from learners.batch import TrainBatch
from learners.policy import PolicyError
from learners.weights import WeightTruth
from orchestrator.deadline import DeadlineMissed, all_within, within
from orchestrator.errors import RunError

T = TypeVar("T")


class LearnerGroup:
    """Args:
    ranks: started actors, by rank.
    step_timeout_s: deadline of one collective verb.
    """

    def __init__(self, ranks: Sequence[ActorHandle], *, step_timeout_s: float) -> None:
        self._ranks = ranks
        self._timeout_s = step_timeout_s

    async def step(self, batch: TrainBatch) -> dict[str, float]:
        """One training step; the metrics are the group's."""
        shared = ray.put(batch)
        results = await self._collective("training step", [rank.step.remote(shared) for rank in self._ranks])
        return results[0]

    async def publish(self, version: int, probe_ids: Sequence[int]) -> WeightTruth:
        """Take a snapshot of the weights as `version`, ready to be sent."""
        calls = [rank.publish.remote(version, probe_ids) for rank in self._ranks]
        truth = (await self._collective("weight snapshot", calls))[0]
        assert truth is not None, "rank 0 answers with the truth"
        return truth

    async def perturb(self, seed: int, scale: float) -> None:
        await self._collective("sync drill", [rank.perturb.remote(seed, scale) for rank in self._ranks])

    async def restore(self) -> None:
        await self._collective("sync drill", [rank.restore.remote() for rank in self._ranks])

    async def save(self, folder: Path) -> None:
        """Write the model as a Hugging Face checkpoint; what cannot be written whole is not there."""
        await self._collective("writing the model", [rank.save.remote(folder) for rank in self._ranks])

    async def open_sender(self, engine: str, backend: str, workers: int, timeout_s: float) -> ChannelAddress:
        call = self._io("open_sender", engine, backend, workers, timeout_s)
        return await within(timeout_s, call, f"weight channel of {engine}")

    async def connect_sender(self, engine: str, timeout_s: float) -> None:
        await within(timeout_s, self._io("connect_sender", engine), f"weight channel of {engine}")

    async def send(self, engine: str, timeout_s: float) -> None:
        await within(timeout_s, self._io("send", engine), f"weight transfer to {engine}")

    async def close(self, timeout_s: float = 10.0) -> None:
        """Close the channels and kill the ranks."""
        with suppress(RayError, DeadlineMissed):  # they are killed below either way
            await within(timeout_s, self._io("shutdown"), "shutdown of the learner")
        for rank in self._ranks:
            ray.kill(rank, no_restart=True)

    def _io(self, verb: str, *args: object) -> "ray.ObjectRef":
        return getattr(self._ranks[0], verb).options(concurrency_group="io").remote(*args)

    async def _collective(self, what: str, calls: Sequence[Awaitable[T]]) -> list[T]:
        try:
            return await all_within(self._timeout_s, calls, what)
        except RayTaskError as error:
            cause = error.cause
            if isinstance(cause, PolicyError):
                raise RunError(str(cause), "free some space or set run_dir to another disk") from error
            last = str(cause).strip().splitlines() or [""]
            reason = f"{what} failed: {type(cause).__name__}: {last[0]}"
            raise RunError(reason, "the learner's log lies in Ray's session folder") from error
        except RayError as error:
            raise RunError(f"{what} failed: the learner died", "its log lies in Ray's session folder") from error
