"""The rollout plane: keeps prompts flowing through engines and rewards into the buffer while the learner trains.

One task per group in flight: sample its answers on the fleet, score them, hand both to the dispatcher. A group that
finishes makes room for others; so does a version that engines attested. Invariants: every admitted group ends in
`Dispatcher.finish` or `Dispatcher.fail`; an error that is not the group's own (no worker left, a bug) ends
`next_batch`, and so the run, instead of starving it.
"""

import asyncio
import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from actors.engine import GenerationRequest, Sampling
from actors.trajectory import Trajectory
from orchestrator.deadline import DeadlineMissed
from orchestrator.dispatch import Dispatcher
from orchestrator.errors import PacelineError, RunError
from orchestrator.groups import GroupInFlight, ScoredGroup
from orchestrator.prompts import Prompt
from orchestrator.reward_client import RewardClient
from orchestrator.rollout_fleet import RolloutFleet, Undeliverable
from rewards.response import Response

Decode = Callable[[Sequence[int]], str]


class GroupListener(Protocol):
    """Is told of each group's way."""

    def group_dispatched(self, group: GroupInFlight) -> None: ...

    def group_finished(self, group: ScoredGroup, seconds: float) -> None: ...

    def group_failed(self, group: GroupInFlight, reason: str) -> None: ...


def request_seed(run_seed: int, index: int, sample: int) -> int:
    """A seed of 31 bits that depends on nothing but the run's seed and the answer's place in the run."""
    digest = hashlib.blake2b(f"{run_seed}/{index}/{sample}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") >> 1


class RolloutPlane:
    """Args:
    sampling: how answers are drawn; each request gets a seed of its own.
    decode: token ids to text, without special tokens.
    starve_timeout_s: deadline of `next_batch`: longer than an answer may take, so that reaching it means a fault.
    """

    def __init__(
        self,
        *,
        dispatcher: Dispatcher,
        fleet: RolloutFleet,
        rewards: RewardClient,
        group_size: int,
        sampling: Sampling,
        seed: int,
        decode: Decode,
        listener: GroupListener,
        starve_timeout_s: float,
    ) -> None:
        self._dispatcher, self._fleet, self._rewards = dispatcher, fleet, rewards
        self._group_size, self._sampling, self._seed = group_size, sampling, seed
        self._decode, self._listener, self._starve_timeout_s = decode, listener, starve_timeout_s
        self._tasks: set[asyncio.Task[None]] = set()
        self._progress = asyncio.Event()
        self._fault: BaseException | None = None

    async def next_batch(self, version: int) -> tuple[ScoredGroup, ...]:
        """The groups to train on at the learner's `version`, as soon as they are complete.

        Raises:
            RunError: no batch came together within the deadline, or no worker is left.
        """
        deadline = time.monotonic() + self._starve_timeout_s
        while True:
            self._progress.clear()
            self.admit()
            batch = self._dispatcher.take(version)
            if batch is not None:
                self.admit()
                return batch
            if self._fault is not None:
                raise self._fault
            try:
                await asyncio.wait_for(self._progress.wait(), deadline - time.monotonic())
            except TimeoutError:
                raise RunError(
                    f"the learner starved: no batch within {self._starve_timeout_s:g} s, "
                    f"{self._dispatcher.in_flight} groups in flight, {len(self._dispatcher.buffer)} buffered",
                    "raise rollout.answer_timeout_s or look at the workers' logs",
                ) from None

    def admit(self) -> None:
        """Start every group for which the staleness rule has room; call after a version was attested, too."""
        for group in self._dispatcher.admit(self._fleet.version):
            self._listener.group_dispatched(group)
            task = asyncio.create_task(self._run_group(group))
            self._tasks.add(task)
            task.add_done_callback(self._ended)

    def abandon(self, fault: BaseException) -> None:
        """The run cannot go on for a reason outside this plane: `next_batch` raises it."""
        self._fault = self._fault or fault
        self._progress.set()

    async def close(self) -> None:
        """Cancel what is in flight."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _run_group(self, group: GroupInFlight) -> None:
        start = time.perf_counter()
        try:
            trajectories = await self._sample(group)
            scores = await self._rewards.score(responses(group.prompt, trajectories, self._decode))
        except (Undeliverable, DeadlineMissed) as error:
            self._dispatcher.fail(group.index)
            self._listener.group_failed(group, str(error))
            return
        scored = self._dispatcher.finish(group.index, trajectories, scores)
        self._listener.group_finished(scored, time.perf_counter() - start)

    async def _sample(self, group: GroupInFlight) -> list[Trajectory]:
        requests = [
            GenerationRequest(
                f"{group.index}/{sample}",
                group.prompt_ids,
                replace(self._sampling, seed=request_seed(self._seed, group.index, sample)),
            )
            for sample in range(self._group_size)
        ]
        return await asyncio.gather(*[self._fleet.sample(request) for request in requests])

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        self._fault = self._fault or task.exception()
        if self._fault is None:
            try:
                self.admit()
            except PacelineError as error:  # a prompt that does not fit; a callback has nobody to raise it to
                self._fault = error
        self._progress.set()


def responses(prompt: Prompt, trajectories: Sequence[Trajectory], decode: Decode) -> list[Response]:
    """What the reward sees of these answers."""
    return [
        Response(
            sample_id=f"{prompt.prompt_id}/{number}",
            question=prompt.question,
            text=decode(trajectory.completion.token_ids),
            reference=prompt.reference,
            metadata=prompt.metadata,
            truncated=trajectory.completion.finish_reason == "length",
            response_tokens=len(trajectory.completion.token_ids),
        )
        for number, trajectory in enumerate(trajectories)
    ]
