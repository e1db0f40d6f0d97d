"""The fleet of rollout workers: decides which waiting answer starts next and where, and gives back its trajectory.

Requests wait here, not in the engines, so that the order of the tail, the pressure on each engine's KV cache and the
version an answer needs decide anew whenever a place is free. The decisions themselves are pure state machines, each in
a module of its own: `request_queue` (order), `routing` (place), `concurrency` (how many at a time), `version_quorum`
(which version counts), `consolidation` (gathering the tail).

Invariants:
- `sample` returns exactly one trajectory or raises `Undeliverable` or `RunError`; an answer that loses its worker is
  sampled anew on another, at most `MAX_ATTEMPTS` times; one that an engine interrupts goes on, on any engine, from the
  tokens that it has;
- an aborted answer comes back from `sample` only where `recall` asked for it;
- no token is older than the version its request was admitted at, no worker out of the fleet delivers anything;
- a worker that is lost is replaced if the recruiter can; while it does, its answers wait.
"""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Protocol

from actors.engine import GenerationRequest
from actors.rollout import Collected
from actors.settings import RolloutSettings
from actors.trajectory import Trajectory
from orchestrator.deadline import all_within
from orchestrator.errors import PacelineError, RunError
from orchestrator.pending import Errand, Pending
from orchestrator.policies.consolidation import EngineLoadView, plan
from orchestrator.policies.length_predictor import LengthPredictor
from orchestrator.policies.request_queue import RequestQueue
from orchestrator.policies.routing import Router
from orchestrator.policies.watchdog import InFlight, Phase
from orchestrator.roster import Member, Roster
from orchestrator.worker_link import WORKER_FAILURES, WorkerLink

MAX_ATTEMPTS = 3
REMEMBERED_PROMPTS = 100_000
TEND_EVERY_S = 0.5
RATE_GAIN = 0.05
"""Weight of an answer's speed in the fleet's."""
TAIL_QUIET_S = 0.5
TAIL_SHARE = 0.25
"""A tail: nothing new started for `TAIL_QUIET_S`, and this share at most of the answers before is left."""
TAIL_FILL = 0.5
"""Answers of a tail are gathered on an engine up to this share of its places: beyond, they would slow each other."""


class Undeliverable(PacelineError):
    """A request failed on every worker that tried it."""


class FleetListener(Protocol):
    """Is told of each worker that leaves or joins the fleet, and of answers that change place."""

    def worker_lost(self, worker: str, reason: str) -> None: ...

    def worker_joined(self, worker: str, version: int) -> None: ...

    def answer_moved(self, request_id: str, worker: str) -> None: ...


class RolloutFleet:
    """Args:
    links: started workers.
    clock: monotonic seconds.
    """

    def __init__(
        self,
        links: list[WorkerLink],
        settings: RolloutSettings,
        *,
        listener: FleetListener,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings, self._listener, self._clock = settings, listener, clock
        self._roster = Roster(settings)
        self._queue = RequestQueue(settings.tail_order)
        self._router = Router()
        self._predictor = LengthPredictor(REMEMBERED_PROMPTS)
        self._pending: dict[str, Pending] = {}
        """By request id."""
        self._submissions = itertools.count()
        self._recruit: Callable[[str], Awaitable[tuple[WorkerLink, int]]] | None = None
        self._ready: Callable[[], None] = lambda: None
        self._failed: Callable[[BaseException], None] = lambda fault: None
        self._fault: PacelineError | None = None
        self._tasks: set[asyncio.Task[object]] = set()
        self._seen_version = 0
        self._fresh_at, self._peak = clock(), 0
        """When an answer was last started afresh, and the most that ran at once since."""
        self._moved: set[str] = set()
        self._dispatching = False
        self._tokens_per_s = 0.0
        self.tokens = 0
        """Response tokens delivered since the fleet began."""
        for link in links:
            self._roster.join(link, 0, clock())

    # --- what the fleet is ---------------------------------------------------------------------------------------

    @property
    def members(self) -> tuple[Member, ...]:
        """The workers that serve."""
        return tuple(self._roster)

    @property
    def version(self) -> int:
        """The newest weight version that counts for admission."""
        return self._roster.version(self._clock())

    @property
    def absences(self) -> str:
        """The workers that were lost and are not back, each with the reason."""
        return self._roster.absences

    @property
    def recruiting(self) -> bool:
        """Whether a replacement is on its way."""
        return self._roster.recruiting

    @property
    def waiting(self) -> int:
        """Answers that no engine has yet."""
        return len(self._queue)

    @property
    def tokens_per_s(self) -> float:
        """At which an engine samples one answer, lately; 0 before any came."""
        return self._tokens_per_s

    def remaining(self) -> dict[str, list[float]]:
        """Tokens that the answers on each engine are still expected to sample, by its name."""
        return {
            member.link.name: [self._left(pending) for pending in member.running.values()] for member in self._roster
        }

    def _left(self, pending: Pending) -> float:
        errand, most = pending.errand, float(pending.request.sampling.max_tokens)
        predicted, sampled = self._predictor.predict(errand.prompt_id, errand.group), self._sampled(pending)
        expected = most if predicted is None or predicted <= sampled else predicted  # it has outgrown its prediction
        return max(1.0, min(expected, most) - sampled)

    def _sampled(self, pending: Pending) -> float:
        """Tokens of an answer that runs; the driver hears of this leg's only when it ends."""
        here = (self._clock() - pending.since) * self._tokens_per_s
        return min(pending.sampled + here, pending.request.sampling.max_tokens - 1.0)

    def in_flight(self) -> Iterator[InFlight]:
        """Every answer that waits or runs, for the watchdog."""
        places = {submission: member.link.name for member in self._roster for submission in member.running}
        for pending in self._pending.values():
            errand, actor = pending.errand, places.get(pending.submission, "")
            phase: Phase = "sampling" if actor else "queued"
            yield InFlight(
                errand.group, errand.prompt_id, errand.sample, actor, phase, pending.since, pending.attempts - 1
            )

    # --- its life ------------------------------------------------------------------------------------------------

    def begin(
        self,
        *,
        recruit: Callable[[str], Awaitable[tuple[WorkerLink, int]]],
        ready: Callable[[], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        """Start collecting; call on the event loop that will await `sample`.

        Args:
            recruit: brings a new worker of this name, and the version that it serves; raises RunError if it cannot.
            ready: called when more groups may start: a newer version counts.
            failed: called when the fleet cannot go on.
        """
        self._recruit, self._ready, self._failed = recruit, ready, failed
        for member in self._roster:
            member.link.begin(self._collected, self.quarantine)
        self._spawn(self._tend())

    async def close(self, timeout_s: float = 20.0) -> None:
        """Stop, and shut all workers down; what does not stop in time is killed."""
        members = self.members
        for member in members:
            member.link.stop()
        for task in self._tasks:
            task.cancel()
        for pending in self._pending.values():
            pending.answer.cancel()
        calls = [member.link.actor.shutdown.remote() for member in members]
        with suppress(*WORKER_FAILURES):  # they are killed below either way
            await all_within(timeout_s, calls, "shutdown of the rollout workers")
        for member in members:
            member.link.kill()

    # --- answers -------------------------------------------------------------------------------------------------

    async def sample(self, request: GenerationRequest, errand: Errand) -> Trajectory:
        """One answer to this request, from whichever worker delivers it; after a `recall` what there is of it.

        Raises:
            Undeliverable: every attempt failed.
            RunError: the fleet cannot go on.
        """
        if self._fault is not None:
            raise self._fault
        answer: asyncio.Future[Trajectory] = asyncio.get_running_loop().create_future()
        pending = Pending(request, errand, answer, self._clock())
        self._pending[request.request_id] = pending
        self._enqueue(pending, continued=bool(request.prefix))
        try:
            return await answer
        finally:
            del self._pending[request.request_id]
            self._moved.discard(request.request_id)
            if not answer.done() or answer.cancelled():
                self._withdraw(pending)

    def recall(self, request_ids: list[str]) -> None:
        """These answers shall come back from `sample` now, as they are."""
        for request_id in request_ids:
            pending = self._pending.get(request_id)
            if pending is not None and not pending.answer.done():
                pending.recalled = True
                self._withdraw(pending)

    def retry(self, group: int, sample: int) -> None:
        """Take this answer off its worker and go on with it elsewhere."""
        for member in self._roster:
            for pending in member.running.values():
                if (pending.errand.group, pending.errand.sample) == (group, sample):
                    pending.attempts += 1
                    member.link.abort(pending.submission)

    def forget(self, group: int) -> None:
        """The group has ended: nothing of it needs to be remembered."""
        self._router.forget(group)
        self._predictor.forget(group)

    # --- workers -------------------------------------------------------------------------------------------------

    def attested(self, link: WorkerLink, version: int, seconds: float) -> None:
        """This worker serves this version from now on; its sync took so long."""
        if (member := self._roster.get(link)) is not None:
            self._roster.attested(member, version, seconds, self._clock())
            self._version_may_have_risen()
            self._dispatch_soon()

    def drain(self, link: WorkerLink, draining: bool) -> None:
        """Whether this worker shall take no new answers for now."""
        if (member := self._roster.get(link)) is not None:
            member.draining = draining
            self._dispatch_soon()

    def is_empty(self, link: WorkerLink) -> bool:
        """Whether this worker runs no answer (or left the fleet)."""
        member = self._roster.get(link)
        return member is None or not member.running

    def quarantine(self, link: WorkerLink, reason: str, *, replaced: bool = True) -> None:
        """Take a worker out: kill its actor, sample its answers elsewhere, and have it replaced."""
        if (member := self._roster.get(link)) is None:
            return
        self._roster.leave(member, reason)
        self._router.forget_engine(link.name)
        self._listener.worker_lost(link.name, reason)
        link.kill()
        for pending in member.running.values():
            self._retry(pending, reason)
        if replaced:
            self._roster.expect()
            self._spawn(self._bring(link.name))
        else:
            self._fail_if_deserted()
        self._version_may_have_risen()

    def lose(self, name: str, reason: str, *, replaced: bool) -> None:
        """The same, by name."""
        if (member := self._roster.named(name)) is not None:
            self.quarantine(member.link, reason, replaced=replaced)

    async def enlarge(self, name: str) -> bool:
        """Bring one more worker, of this name. Returns: whether it came."""
        self._roster.expect()
        return await self._bring(name)

    async def _bring(self, name: str) -> bool:
        assert self._recruit is not None, "begin() comes first"
        try:
            link, version = await self._recruit(name)
        except PacelineError as error:
            self._roster.arrived(name, str(error))
            self._fail_if_deserted()
            return False
        self._roster.arrived(name)
        self._roster.join(link, version, self._clock())
        self._listener.worker_joined(name, version)
        link.begin(self._collected, self.quarantine)
        self._version_may_have_risen()
        self._dispatch_soon()
        return True

    def _fail_if_deserted(self) -> None:
        """All who wait hear of it."""
        if not self._roster.deserted:
            return
        fix = "see the reasons, then start the run again"
        self._fault = RunError(f"no rollout worker is left ({self.absences})", fix)
        for pending in self._pending.values():
            if not pending.answer.done():
                pending.answer.set_exception(self._fault)
        self._failed(self._fault)

    # --- dispatch ------------------------------------------------------------------------------------------------

    def _enqueue(self, pending: Pending, *, continued: bool) -> None:
        errand = pending.errand
        pending.submission, pending.since = "", self._clock()
        self._queue.put(pending.ticket(self._predictor.predict(errand.prompt_id, errand.group), continued=continued))
        if not continued:  # The tail is over.
            self._fresh_at, self._peak = self._clock(), 0
            for member in self._roster:
                member.spared = False
        self._dispatch_soon()

    def _dispatch_soon(self) -> None:
        """Once in this turn of the event loop, after all that happens in it."""
        if not self._dispatching:
            self._dispatching = True
            asyncio.get_running_loop().call_soon(self._dispatch)

    def _dispatch(self) -> None:
        self._dispatching = False
        members = {member.link.name: member for member in self._roster}
        views = {name: member.view for name, member in members.items()}
        while True:
            # An answer that needs newer weights than any free engine has keeps no other from starting.
            newest = max((v.version for v in views.values() if v.running < v.limit and not v.draining), default=None)
            ticket = None if newest is None else self._queue.peek(newest)
            name = None if ticket is None else self._router.choose(ticket, list(views.values()))
            if ticket is None or name is None:
                break
            self._queue.pop(newest)
            self._start(self._pending[ticket.request_id], members[name])
            views[name] = members[name].view
        self._peak = max(self._peak, sum(view.running for view in views.values()))

    def _start(self, pending: Pending, member: Member) -> None:
        pending.submission = f"{pending.request.request_id}#{next(self._submissions)}"
        pending.since = self._clock()
        member.running[pending.submission] = pending
        member.link.submit(replace(pending.request, request_id=pending.submission))

    def _withdraw(self, pending: Pending) -> None:
        """Nobody waits for this answer any more, or it is wanted as it is."""
        if pending.submission:
            for member in self._roster:
                if pending.submission in member.running:
                    member.link.abort(pending.submission)
        elif self._queue.remove(pending.request.request_id) is not None and not pending.answer.done():
            pending.answer.set_result(pending.as_it_is())

    def _retry(self, pending: Pending, reason: str) -> None:
        """Its worker is gone, and with it the tokens of this leg."""
        if pending.answer.done():
            return
        if pending.recalled:
            pending.answer.set_result(pending.as_it_is())
        elif pending.attempts >= MAX_ATTEMPTS:
            pending.answer.set_exception(Undeliverable(f"{pending.request.request_id}: {reason}"))
        else:
            pending.attempts += 1
            self._enqueue(pending, continued=True)

    # --- what comes back -----------------------------------------------------------------------------------------

    def _collected(self, link: WorkerLink, collected: Collected) -> None:
        member = self._roster.get(link)
        if member is None:
            return
        load = collected.load
        waiting = len(self._queue) + load.waiting
        member.concurrency.observe(len(member.running), waiting, load.kv_use, self._clock())
        for trajectory in collected.trajectories:
            pending = member.running.pop(trajectory.completion.request_id, None)
            if pending is not None:
                self._deliver(pending, trajectory)
        if collected.trajectories:
            self._dispatch_soon()

    def _deliver(self, pending: Pending, trajectory: Trajectory) -> None:
        leg = trajectory.legs[-1]
        self.tokens += leg.tokens
        if leg.finished_at > leg.submitted_at and leg.tokens:
            rate = leg.tokens / (leg.finished_at - leg.submitted_at)
            self._tokens_per_s += RATE_GAIN * (rate - self._tokens_per_s) if self._tokens_per_s else rate
        if pending.answer.done():
            return
        request = pending.request
        completion = replace(trajectory.completion, request_id=request.request_id)
        pending.legs += trajectory.legs
        if completion.finish_reason != "abort" or pending.recalled:
            if completion.finish_reason != "abort" and pending.errand.prompt_id:
                errand = pending.errand
                self._predictor.finished(errand.prompt_id, errand.group, len(completion.token_ids))
                self._queue.repredict(errand.group, self._predictor.predict(errand.prompt_id, errand.group))
            pending.answer.set_result(Trajectory(completion, pending.legs))
            return
        # Interrupted by the engine or moved: it goes on from the tokens that it has.
        if pending.attempts > MAX_ATTEMPTS:
            pending.answer.set_exception(Undeliverable(f"{request.request_id}: given up after {MAX_ATTEMPTS} attempts"))
            return
        pending.request = replace(request, prefix=completion.segments)
        self._enqueue(pending, continued=True)

    # --- in between ----------------------------------------------------------------------------------------------

    async def _tend(self) -> None:
        """What depends on the passing of time alone."""
        while True:
            await asyncio.sleep(TEND_EVERY_S)
            self._version_may_have_risen()
            if self._settings.consolidate and len(self._roster) > 1:
                self._consolidate()

    def _version_may_have_risen(self) -> None:
        version = self.version
        if version > self._seen_version:
            self._seen_version = version
            self._ready()

    def _consolidate(self) -> None:
        """Gather the tail: when nothing new started for a while and few answers are left."""
        running = sum(len(member.running) for member in self._roster)
        if self._clock() - self._fresh_at < TAIL_QUIET_S or running > TAIL_SHARE * self._peak:
            return
        members = {member.link.name: member for member in self._roster}
        engines = [
            EngineLoadView(
                name, [p.as_running(self._sampled(p)) for p in m.running.values()], m.concurrency.limit, m.version
            )
            for name, m in members.items()
        ]
        for move in plan(engines, waiting=len(self._queue), fill=TAIL_FILL, moved=self._moved):
            source, pending = members[move.source], self._pending[move.request_id]
            source.spared = True
            self._moved.add(move.request_id)
            pending.errand = replace(pending.errand, min_version=source.version)
            source.link.abort(pending.submission)
            self._listener.answer_moved(move.request_id, move.source)

    def _spawn(self, work: Coroutine[None, None, object]) -> None:
        task: asyncio.Task[object] = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._task_ended)

    def _task_ended(self, task: "asyncio.Task[object]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (bug := task.exception()) is not None:
            self._failed(bug)
