"""The drafter's life beside the run: windows in, sessions of training on leases, publications through the gate.

A task of its own on the driver's event loop; the learner and the engines never wait for it. Invariants:
- a micro-step begins only while the lease on its accelerator lasts, or, where nothing idles, when training has taken
  less than its share of the time; so an accelerator is given back within one micro-step;
- a drafter serves only after the publish gate let it pass, and is taken back at most once per version;
- whatever fails here ends speculation's learning, not the run: the engines go on with the drafter that they have.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from ray import ObjectRef
from ray.exceptions import RayError

from actors.drafter_trainer import DrafterTruth
from actors.learner import WindowParcel
from actors.speculation.step_record import StepRecord
from orchestrator.deadline import DeadlineMissed
from orchestrator.drafting.arbiter import Arbiter, Lease
from orchestrator.drafting.publish_gate import GateVerdict, Window, judge
from orchestrator.drafting.rollback import Rollback
from orchestrator.drafting.settings import SpeculationSection
from orchestrator.drafting.study import Study
from orchestrator.drafting.trainer_handle import DrafterTrainerHandle
from orchestrator.errors import last_line

JOB = "drafter"
TICK_S = 0.5
MIB = 2**20


@dataclass(frozen=True, slots=True)
class Session:
    """One session of training. Times are seconds since the epoch.

    Attributes:
        place: the accelerator that was lent, or ``learner`` where nothing idled.
        why_there: the arbiter's words.
        why: what called for it.
        steps: micro-steps that were made.
        seconds: of micro-steps and judging, without the waits between them.
        last: metrics of the last micro-step.
        verdict: the publish gate's; None where there was nothing to judge by.
        published: version that serves from now on; None where none was published.
    """

    place: str
    why_there: str
    why: str
    began_at: float
    ended_at: float
    steps: int
    seconds: float
    last: Mapping[str, float]
    verdict: GateVerdict | None
    published: int | None


class SchoolListener(Protocol):
    """Is told of each session, and of what went wrong."""

    def drafter_studied(self, session: Session) -> None: ...

    def drafter_taken_back(self, version: int, to: int, reason: str) -> None: ...

    def warned(self, message: str) -> None: ...


class DrafterStream(Protocol):
    """Brings drafter weights to the engines."""

    async def publish_drafter(self, truth: DrafterTruth) -> None: ...


@dataclass(slots=True)
class _Effort:
    """A session in progress."""

    began: float
    """Monotonic seconds."""
    began_at: float = field(default_factory=time.time)
    steps: int = 0
    seconds: float = 0.0
    last: Mapping[str, float] = field(default_factory=dict)


class DrafterSchool:
    """Args:
    idle: predicted idle seconds of each accelerator that no engine uses now.
    tables: a reference to the embedding and head of the newest target, which the drafter shares.
    clock: monotonic seconds.
    """

    def __init__(
        self,
        trainer: DrafterTrainerHandle,
        section: SpeculationSection,
        stream: DrafterStream,
        *,
        study: Study,
        arbiter: Arbiter,
        idle: Callable[[], Mapping[str, float]],
        tables: Callable[[], Awaitable[ObjectRef]],
        listener: SchoolListener,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._trainer, self._section, self._settings = trainer, section, section.retrain
        self._stream, self._study, self._arbiter = stream, study, arbiter
        self._idle, self._tables, self._listener, self._clock = idle, tables, listener, clock
        self._rollback = Rollback(0)
        self._versions = 0
        self._truths: dict[int, DrafterTruth] = {}
        self._under_way = 0
        """Bytes of windows that the trainer has not read yet."""
        self._task: asyncio.Task[None] | None = None
        self._errands: set[asyncio.Task[None]] = set()
        self.dropped_mib = 0.0
        """Windows that found the way to the trainer full."""

    @property
    def version(self) -> int:
        """Of the drafter that serves."""
        return self._rollback.version

    def begin(self) -> None:
        """Open, on the running event loop."""
        self._task = asyncio.create_task(self._live(), name="drafter school")

    async def close(self) -> None:
        for task in (self._task, *self._errands):
            if task is not None:
                task.cancel()

    # --- what it hears -------------------------------------------------------------------------------------------

    def stepped(self, parcels: list[WindowParcel]) -> None:
        """The learner has made a step, and this is what it left to learn from."""
        for parcel in parcels:
            if self._under_way + parcel.nbytes > self._settings.parcels_mib * MIB:
                self.dropped_mib += parcel.nbytes / MIB
            else:
                self._under_way += parcel.nbytes
                self._spawn(self._offer(parcel))
        self._spawn(self._trainer.end_step())

    def observe(self, record: StepRecord) -> None:
        """A step of an engine."""
        first = record.by_position[0] if record.by_position else 0
        drafts = record.running if record.drafted else 0
        self._study.observe(drafts, first)
        if record.k and record.drafted:
            stratum = (record.running.bit_length(), record.k)
            self._rollback.observe(self.version, stratum, record.drafted, record.accepted)

    # --- what it does --------------------------------------------------------------------------------------------

    async def _live(self) -> None:
        try:
            self._truths[0] = await self._trainer.publish(0)
            while True:
                await asyncio.sleep(TICK_S)
                await self._take_back_if_worse()
                wanted = self._study.judge(self._clock())
                if wanted.train:
                    await self._session(wanted.reason)
        except (RayError, DeadlineMissed) as error:
            self._listener.warned(f"the drafter learns no more, and goes on as it is: {last_line(error)}")

    async def _session(self, why: str) -> None:
        verdict = self._arbiter.request(JOB, self._idle(), self._clock())
        if verdict.action == "wait":
            return
        self._study.began(self._clock())
        effort, lease = _Effort(self._clock()), verdict.lease
        await self._trainer.refresh(await self._tables())
        if lease is not None:
            self._arbiter.switched(self._clock() - effort.began)
        while effort.steps < self._settings.session_steps:
            lease = None if lease is None else self._renewed(lease)
            if lease is None and verdict.lease is not None:
                break  # the accelerator is wanted back
            seconds = await self._micro_step(effort)
            if seconds is None:
                break  # there is nothing to learn from yet
            if lease is None:
                await asyncio.sleep(seconds * (1 / self._settings.beside_share - 1))
        if lease is not None:
            self._arbiter.release(lease)
        gate, published = (None, None) if not effort.steps else await self._publish_if_better(effort)
        if effort.steps:
            self._study.ended(published=published is not None)
            place = verdict.lease.accelerator if verdict.lease else "learner"
            self._listener.drafter_studied(
                Session(
                    place,
                    verdict.reason,
                    why,
                    effort.began_at,
                    time.time(),
                    effort.steps,
                    effort.seconds,
                    effort.last,
                    gate,
                    published,
                )
            )

    def _renewed(self, lease: Lease) -> Lease | None:
        """The lease goes on, unless an engine has work for its accelerator again."""
        if lease.accelerator not in self._idle():
            self._arbiter.reclaim(lease.accelerator, self._clock())
            self._arbiter.release(lease)
            self._arbiter.returned(lease.accelerator)
            return None
        return self._arbiter.renew(lease, self._clock())

    async def _micro_step(self, effort: _Effort) -> float | None:
        began = self._clock()
        metrics = await self._trainer.micro_step(self._settings.token_budget)
        if not metrics:
            return None
        seconds = self._clock() - began
        effort.steps, effort.seconds, effort.last = effort.steps + 1, effort.seconds + seconds, metrics
        return seconds

    async def _publish_if_better(self, effort: _Effort) -> tuple[GateVerdict | None, int | None]:
        began = self._clock()
        judged = await self._trainer.judge(self._section.draft_positions)
        effort.seconds += self._clock() - began
        if judged is None:
            return None, None
        sampled = self._section.draft_sampling == "probabilistic"
        candidate, serving = (s.sampled if sampled else s.greedy for s in (judged.candidate, judged.serving))
        gate = judge([Window(one, other) for one, other in zip(candidate.by_window, serving.by_window, strict=True)])
        if not gate.publish:
            return gate, None
        self._versions += 1
        truth = await self._trainer.publish(self._versions)
        self._truths = {v: t for v, t in self._truths.items() if v == self.version} | {self._versions: truth}
        self._rollback.published(self._versions)
        await self._stream.publish_drafter(truth)
        return gate, self._versions

    async def _take_back_if_worse(self) -> None:
        back = self._rollback.judge()
        if back is None:
            return
        truth = self._truths[back.to]
        await self._trainer.take_back(truth)
        await self._stream.publish_drafter(truth)
        self._listener.drafter_taken_back(back.version, back.to, back.reason)

    async def _offer(self, parcel: WindowParcel) -> None:
        try:
            await self._trainer.offer(parcel)
        finally:
            self._under_way -= parcel.nbytes

    def _spawn(self, errand: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(errand)
        self._errands.add(task)
        task.add_done_callback(self._errand_ended)

    def _errand_ended(self, task: "asyncio.Task[None]") -> None:
        self._errands.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._listener.warned(f"the drafter's trainer took nothing in: {last_line(error)}")
