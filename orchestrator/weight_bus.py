"""The weight bus: brings each published version to every engine, and lets only attested engines serve.

One sync of one engine: pause (requests in progress keep their KV) -> receive -> resume -> checksums and probe logprobs
back -> judged against the learner's truth -> `serve`, or quarantine. Engines are synced side by side over channels of
their own, so that a slow one stalls no other.

Invariants: a version counts for an engine only after its verdict (`RolloutFleet.version` hears of it from here alone);
an engine whose sync fails in any way leaves the fleet; versions are published in order, one at a time.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ray.exceptions import RayError

from actors.rollout import Arrival
from actors.settings import Tolerance, WeightSyncSettings
from learners.weights import WeightTruth
from orchestrator.attestation import GapAlarm, ProbeGap, judge, probe_gap
from orchestrator.deadline import DeadlineMissed, within
from orchestrator.errors import RunError, last_line
from orchestrator.learner_group import LearnerGroup
from orchestrator.rollout_fleet import Member, RolloutFleet

DRILL_VERSION = -1
"""Stamp of the perturbed weights: no prompt is ever sampled under it."""
DRILL_SEED = 20_111


@dataclass(frozen=True, slots=True)
class SyncReport:
    """One version brought to one engine."""

    worker: str
    version: int
    seconds: float
    paused_s: float
    gap: ProbeGap
    failure: str | None


class SyncListener(Protocol):
    """Is told of each sync and of each warning."""

    def synced(self, report: SyncReport) -> None: ...

    def warned(self, message: str) -> None: ...


class WeightBus:
    """Args:
    backend: ``"gloo"`` or ``"nccl"``.
    engine_ranks: worker processes of one engine (its tensor-parallel size).
    probe_ids: the sequence on which engine and learner must agree.
    """

    def __init__(
        self,
        learners: LearnerGroup,
        fleet: RolloutFleet,
        settings: WeightSyncSettings,
        *,
        tolerance: Tolerance,
        backend: str,
        engine_ranks: int,
        probe_ids: Sequence[int],
        listener: SyncListener,
    ) -> None:
        self._learners, self._fleet, self._settings, self._tolerance = learners, fleet, settings, tolerance
        self._backend, self._engine_ranks, self._probe_ids = backend, engine_ranks, tuple(probe_ids)
        self._listener = listener
        self._alarm = GapAlarm(settings.alarm_factor)

    async def open(self) -> None:
        """Open a channel to every engine."""
        await asyncio.gather(*[self._open_channel(member) for member in self._fleet.members])

    async def drill(self) -> None:
        """Before the first prompt: send a visible perturbation, attest it, take it back, attest again.

        Raises:
            RunError: an engine did not follow, or the perturbation was too small to be seen.
        """
        plain = await self.snapshot(0)
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
            plain = await self.snapshot(0)
        await self.deliver(plain)

    async def snapshot(self, version: int) -> WeightTruth:
        """Freeze the learner's weights as `version`; the learner may train on while they are delivered."""
        return await self._learners.publish(version, self._probe_ids)

    async def deliver(self, truth: WeightTruth) -> None:
        """Bring the last snapshot to every engine, and let those that attest it serve.

        Raises:
            RunError: no engine is left that serves.
        """
        reports = await asyncio.gather(*[self._sync(member, truth) for member in self._fleet.members])
        for report in reports:
            self._listener.synced(report)
            if report.failure is not None:
                self._fleet.quarantine(report.worker, report.failure)
        if not self._fleet.members:
            reasons = "; ".join(f"{report.worker}: {report.failure}" for report in reports)
            raise RunError(f"no engine holds version {truth.manifest.version} of the weights ({reasons})", _FIX)
        if truth.manifest.version != DRILL_VERSION:
            warning = self._alarm.observe(max(r.gap.mean for r in reports if r.failure is None))
            if warning is not None:
                self._listener.warned(warning)

    async def _open_channel(self, member: Member) -> None:
        timeout_s = self._settings.timeout_s
        address = await self._learners.open_sender(member.name, self._backend, self._engine_ranks, timeout_s)
        engine_side = within(timeout_s, member.actor.open_channel.remote(address), f"weight channel of {member.name}")
        await asyncio.gather(self._learners.connect_sender(member.name, timeout_s), engine_side)

    async def _sync(self, member: Member, truth: WeightTruth) -> SyncReport:
        version, start = truth.manifest.version, time.perf_counter()
        timeout_s = self._settings.timeout_s
        sending = asyncio.ensure_future(self._learners.send(member.name, timeout_s))
        try:
            arrival: Arrival = await within(
                timeout_s, member.actor.update.remote(truth.manifest, self._probe_ids), f"update of {member.name}"
            )
            await sending
            verdict = judge(truth, arrival, self._tolerance)
            if verdict.attested and version != DRILL_VERSION:
                await within(timeout_s, member.actor.serve.remote(version), f"worker {member.name}")
                self._fleet.attested(member.name, version)
        except (RayError, DeadlineMissed) as error:
            nan = float("nan")
            reason = last_line(error)
            return SyncReport(member.name, version, time.perf_counter() - start, 0.0, ProbeGap(nan, nan), reason)
        finally:
            sending.cancel()
        seconds = time.perf_counter() - start
        return SyncReport(member.name, version, seconds, arrival.paused_s, verdict.gap, verdict.failure)


_FIX = "run with rollout.engine=torch to see whether the engine is at fault, or raise weight_sync.tolerance_*"
