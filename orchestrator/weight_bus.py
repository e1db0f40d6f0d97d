"""The weight bus: brings each published version to every engine, and lets only attested engines serve.

One sync of one engine: pause -> receive -> resume -> checksums and probe logprobs back -> judged against the learner's
truth -> `serve`, or quarantine. Each engine is synced by a courier of its own over a channel of its own, always with
the newest version there is: a slow engine stalls neither the learner nor another engine, and skips versions.

The drafter's weights are a second stream with versions of its own, behind the target's on the same channel. What is
sampled does not depend on them, so checksums alone attest them.

Invariants: a version counts for an engine only after its verdict (`RolloutFleet` hears of it from here alone); an
engine whose sync fails in any way leaves the fleet; the learner keeps a snapshot for as long as a courier carries it.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from ray.exceptions import RayError

from actors.drafter_trainer import DrafterTruth
from actors.engine import WeightStream
from actors.rollout import Arrival, DrafterArrival
from actors.settings import RolloutSettings, Tolerance, WeightSyncSettings
from learners.weights import WeightTruth
from orchestrator.attestation import ProbeGap, judge, probe_gap
from orchestrator.deadline import DeadlineMissed, all_within, within
from orchestrator.errors import RunError, last_line
from orchestrator.gap_watch import GapWatch
from orchestrator.learner_group import LearnerGroup
from orchestrator.rollout_fleet import RolloutFleet
from orchestrator.worker_link import WorkerLink

DRILL_VERSION = -1
"""Stamp of the perturbed weights: no prompt is ever sampled under it."""
DRILL_SEED = 20_111
POLL_S = 0.01


@dataclass(frozen=True, slots=True)
class SyncReport:
    """One version brought to one engine. Times are seconds since the epoch.

    Attributes:
        paused: when sampling stood still; None where the engine did not say.
        gap: on the probe, where engine and learner got so far.
    """

    worker: str
    version: int
    began_at: float
    ended_at: float
    paused: tuple[float, float] | None
    gap: ProbeGap | None
    failure: str | None
    stream: WeightStream = "target"

    @property
    def seconds(self) -> float:
        return self.ended_at - self.began_at


class SyncListener(Protocol):
    """Is told of each sync and of each warning."""

    def synced(self, report: SyncReport) -> None: ...

    def warned(self, message: str) -> None: ...


class WeightBus:
    """Args:
    rollout: says what becomes of answers in progress (`kv_policy`, `partial`).
    tensor_parallel: processes of one engine that receive weights.
    backend: ``"gloo"`` or ``"nccl"``.
    probe_ids: the sequence on which engine and learner must agree.
    broken: is told of an error that is no engine's fault; the run cannot go on.
    """

    def __init__(
        self,
        learners: LearnerGroup,
        fleet: RolloutFleet,
        settings: WeightSyncSettings,
        rollout: RolloutSettings,
        *,
        tensor_parallel: int,
        tolerance: Tolerance,
        backend: str,
        probe_ids: Sequence[int],
        listener: SyncListener,
        broken: Callable[[BaseException], None],
    ) -> None:
        self._learners, self._fleet, self._settings, self._rollout = learners, fleet, settings, rollout
        self._workers = tensor_parallel
        self._tolerance, self._backend, self._probe_ids = tolerance, backend, tuple(probe_ids)
        self._listener, self._broken = listener, broken
        self._watch = GapWatch(settings.gap_alarm, "the probe", limit=tolerance.mean, warned=listener.warned)
        self._drilled = False
        self._newest: WeightTruth | None = None
        self._carried: Counter[int] = Counter()
        """Versions that couriers carry now."""
        self._held: dict[WorkerLink, int] = {}
        self._newest_drafter: DrafterTruth | None = None
        self._held_drafter: dict[WorkerLink, int] = {}
        self._couriers: dict[WorkerLink, asyncio.Task[None]] = {}

    @property
    def newest(self) -> int | None:
        """The newest published version of the target."""
        return None if self._newest is None else self._newest.manifest.version

    async def open(self) -> None:
        """Open a channel to every engine."""
        links = [member.link for member in self._fleet.members]
        await all_within(2 * self._settings.timeout_s, [self._open_channel(link) for link in links], "weight channels")

    async def drill(self, version: int = 0) -> None:
        """Before the first prompt: send a visible perturbation, attest it, take it back, attest again.

        Args:
            version: of the learner's weights: the steps that it has made.

        Raises:
            RunError: an engine did not follow, or the perturbation was too small to be seen.
        """
        plain = await self.snapshot(version)
        if self._settings.drill:
            await self._learners.perturb(DRILL_SEED, self._settings.drill_scale)
            shaken = await self.snapshot(DRILL_VERSION)
            moved = probe_gap(shaken.probe_logprobs, plain.probe_logprobs)
            if moved.mean <= 2 * self._tolerance.mean:
                raise RunError(
                    f"the sync drill moved the probe by only {moved.mean:.3g} nats, too little to prove a sync",
                    "raise weight_sync.drill_scale",
                )
            await self.deliver(shaken)
            await self._learners.restore()
            plain = await self.snapshot(version)
        await self.deliver(plain)
        self._drilled = True

    async def snapshot(self, version: int) -> WeightTruth:
        """Freeze the learner's weights as `version`; the learner may train on while they are carried."""
        newest = () if self._newest is None else (self._newest.manifest.version,)
        return await self._learners.publish(version, self._probe_ids, keep=(*self._carried, *newest))

    def publish(self, truth: WeightTruth) -> None:
        """From now on this is the newest version; couriers bring it to every engine beside whatever else goes on."""
        self._newest = truth
        self._dispatch_couriers()

    async def publish_drafter(self, truth: DrafterTruth) -> None:
        """From now on engines draft with these weights, an earlier version again perhaps. What does not arrive costs
        its engine, like any weights; what arrives changes how fast answers come, and nothing else."""
        await self._learners.hold_drafter(truth)
        self._newest_drafter = truth
        self._dispatch_couriers()

    def _dispatch_couriers(self) -> None:
        for link in [member.link for member in self._fleet.members if member.link not in self._couriers]:
            courier = asyncio.create_task(self._bring_newest(link), name=f"weights to {link.name}")
            self._couriers[link] = courier
            courier.add_done_callback(partial(self._courier_is_back, link))

    async def settle(self) -> None:
        """Until every engine serves the newest version or has left the fleet, replacements included.

        Raises:
            RunError: no engine is left that serves.
            DeadlineMissed: naming the engines that were waited for.
        """
        patience = self._rollout.start_timeout_s + 2 * self._settings.timeout_s
        if not self._rollout.partial:
            patience += self._rollout.answer_timeout_s
        late = ", ".join(link.name for link in self._couriers) or "a replacement"
        await within(patience, self._settled(), f"the weight sync of {late}")
        if not self._fleet.members and self._newest is not None:
            raise RunError(
                f"no engine holds version {self._newest.manifest.version} of the weights ({self._fleet.absences})", _FIX
            )

    async def _settled(self) -> None:
        while self._couriers or self._fleet.recruiting:
            if self._couriers:
                await asyncio.wait(self._couriers.values(), timeout=self._settings.timeout_s)
            else:
                await asyncio.sleep(POLL_S)

    async def deliver(self, truth: WeightTruth) -> None:
        """Publish and settle. Raises: RunError, as `settle`."""
        self.publish(truth)
        await self.settle()

    async def enlist(self, link: WorkerLink) -> int:
        """Open a channel to a new worker and bring it the newest version, which is returned.

        Raises:
            RunError: it did not attest.
        """
        await self._open_channel(link)
        while (report := await self._bring_one(link)) is not None:
            if report.failure is not None:
                raise RunError(f"{link.name} did not take the {report.stream}'s weights: {report.failure}", _FIX)
        return self._held.get(link, 0)

    async def close(self) -> None:
        """Stop all couriers."""
        for task in tuple(self._couriers.values()):
            task.cancel()

    async def _open_channel(self, link: WorkerLink) -> None:
        timeout_s, workers = self._settings.timeout_s, self._workers
        address = await self._learners.open_sender(link.name, self._backend, workers, timeout_s)
        engine_side = within(timeout_s, link.actor.open_channel.remote(address), f"weight channel of {link.name}")
        connected = self._learners.connect_sender(link.name, timeout_s)
        await all_within(timeout_s, [connected, engine_side], f"weight channel of {link.name}")

    async def _bring_newest(self, link: WorkerLink) -> None:
        """A courier's work: until this engine serves the newest weights there are, the drafter's included."""
        while (report := await self._bring_one(link)) is not None:
            if report.failure is not None:
                self._held.pop(link, None)
                # What does not even follow the drill would not follow as a replacement either.
                self._fleet.quarantine(link, report.failure, replaced=self._drilled)
                return
            if report.stream == "target" and report.version != DRILL_VERSION:
                self._fleet.attested(link, report.version, report.seconds)

    async def _bring_one(self, link: WorkerLink) -> SyncReport | None:
        """Bring this engine what it lacks, the target's weights before the drafter's; None where it lacks nothing."""
        if self._newest is not None and self._held.get(link) != self._newest.manifest.version:
            return await self._sync(link, self._newest)
        drafter = self._lacks_drafter(link)
        return None if drafter is None else await self._sync_drafter(link, drafter)

    def _lacks_drafter(self, link: WorkerLink) -> DrafterTruth | None:
        newest = self._newest_drafter
        held = self._held_drafter.get(link, 0)  # 0 is what every engine starts with
        return None if newest is None or newest.manifest.version == held else newest

    async def _sync_drafter(self, link: WorkerLink, truth: DrafterTruth) -> SyncReport:
        timeout_s, version, began_at = self._settings.timeout_s, truth.manifest.version, time.time()
        arrival: DrafterArrival | None = None
        failure: str | None = None
        sending = asyncio.ensure_future(self._learners.send(link.name, version, timeout_s, "drafter"))
        try:
            update = link.actor.update_drafter.remote(truth.manifest)
            arrived: DrafterArrival = await within(timeout_s, update, f"drafter update of {link.name}")
            await within(timeout_s, sending, f"weight transfer to {link.name}")
            arrival = arrived
            if arrived.checksums != truth.checksums:
                failure = f"version {version} of the drafter arrived damaged"
        except (RayError, DeadlineMissed) as error:
            failure = last_line(error)
        finally:
            sending.cancel()
        if failure is None:
            self._held_drafter[link] = version
        paused = None if arrival is None else (arrival.paused_at, arrival.paused_at + arrival.paused_s)
        report = SyncReport(link.name, version, began_at, time.time(), paused, None, failure, "drafter")
        self._listener.synced(report)
        return report

    def _courier_is_back(self, link: WorkerLink, courier: "asyncio.Task[None]") -> None:
        del self._couriers[link]
        if not courier.cancelled() and (bug := courier.exception()) is not None:
            self._broken(bug)

    async def _sync(self, link: WorkerLink, truth: WeightTruth) -> SyncReport:
        version, began_at = truth.manifest.version, time.time()
        self._carried[version] += 1
        arrival: Arrival | None = None
        gap: ProbeGap | None = None
        failure: str | None = None
        try:
            if not self._rollout.partial:
                await self._finish_answers(link)
            arrival = await self._transfer(link, truth)
            verdict = judge(truth, arrival, self._tolerance)
            gap, failure = verdict.gap, verdict.failure
            if verdict.attested and version != DRILL_VERSION:
                await within(self._settings.timeout_s, link.actor.serve.remote(version), f"worker {link.name}")
        except (RayError, DeadlineMissed) as error:
            failure = last_line(error)
        finally:
            self._carried[version] -= 1
            self._carried += Counter()  # forget what nobody carries
            self._fleet.drain(link, False)
        if failure is None:
            self._held[link] = version
        paused = None if arrival is None else (arrival.paused_at, arrival.paused_at + arrival.paused_s)
        report = SyncReport(link.name, version, began_at, time.time(), paused, gap, failure)
        self._heard(report)
        return report

    async def _transfer(self, link: WorkerLink, truth: WeightTruth) -> Arrival:
        timeout_s, version = self._settings.timeout_s, truth.manifest.version
        sending = asyncio.ensure_future(self._learners.send(link.name, version, timeout_s))
        update = link.actor.update.remote(truth.manifest, self._probe_ids, self._rollout.kv_policy)
        try:
            arrival = await within(timeout_s, update, f"update of {link.name}")
            await within(timeout_s, sending, f"weight transfer to {link.name}")
            return arrival
        finally:
            sending.cancel()

    async def _finish_answers(self, link: WorkerLink) -> None:
        """Let the engine end what it runs, and give it nothing new meanwhile (`rollout.partial: false`)."""
        self._fleet.drain(link, True)

        async def empty() -> None:
            while not self._fleet.is_empty(link):
                await asyncio.sleep(POLL_S)

        await within(self._rollout.answer_timeout_s, empty(), f"the answers of {link.name}")

    def _heard(self, report: SyncReport) -> None:
        self._listener.synced(report)
        if report.failure is None and report.gap is not None and report.version != DRILL_VERSION:
            self._watch.observe(report.gap.mean)


_FIX = "run with rollout.engine=torch to see whether the engine is at fault, or raise weight_sync.tolerance_*"
