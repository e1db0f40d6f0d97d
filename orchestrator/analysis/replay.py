"""Replay: what would this run have taken under another policy? The recorded lengths, again, on a virtual clock.

A discrete-event simulation that drives the real `Dispatcher` with the real staleness rule, admission and late rule;
only engines (`replay_engine`), rewards and learner are numbers taken from the recording. What is not
modelled: prompt processing, the order in which waiting answers start, consolidation, memory pressure, faults, and that
another policy would have trained another model that answers at other lengths.

Pure and deterministic. Invariant: a replay ends, or raises `StuckReplay`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from pydantic import JsonValue

from actors.engine import Completion, Segment
from actors.settings import OverSamplingSettings
from actors.trajectory import Leg, Trajectory
from orchestrator.analysis.recording import RecordedGroup, Recording
from orchestrator.analysis.replay_engine import ReplayAnswer, ReplayEngine, VirtualClock, least_loaded
from orchestrator.data.prompts import Prompt
from orchestrator.errors import PacelineError
from orchestrator.policies.dispatch import Dispatcher
from orchestrator.policies.groups import GroupInFlight, ScoredGroup
from orchestrator.policies.late import LatePolicy, LateRule
from orchestrator.policies.make import make_admission
from orchestrator.policies.staleness import StalenessRule
from rewards.response import Score

OVER_SAMPLING = 1.25
"""Prompts started per prompt wanted in the replayed rounds, as APRIL and RollPacker recommend in this order of size."""

EVENTS_PER_ANSWER = 200
"""Beyond this a replay goes in circles: an answer starts and ends, and is taken off a few times at most."""


class StuckReplay(PacelineError):
    """Nothing more can happen in a replay, and its steps are not done."""


@dataclass(frozen=True, slots=True)
class ReplayPolicy:
    """How a run is led. `partial`: weights are updated in the middle of answers; `stream`: the learner computes on
    groups as they come; `rounds` None starts prompts continuously."""

    name: str
    max_staleness: int
    partial: bool = True
    stream: bool = False
    rounds: OverSamplingSettings | None = None
    late: LatePolicy = "wait"
    hard_staleness: int = 8


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a policy would have taken. Idle times are shares of the wall time: of engines without an answer, on average
    over engines, and of the learner waiting for a batch."""

    policy: ReplayPolicy
    wall_s: float
    engine_idle: float
    learner_idle: float


CONTINUOUS_POLICIES = (
    ReplayPolicy("synchronous", 0),
    ReplayPolicy("synchronous, learner streams", 0, stream=True),
    ReplayPolicy("one step off", 1, partial=False),
    ReplayPolicy("asynchronous, staleness 1", 1),
    ReplayPolicy("asynchronous, staleness 2", 2),
    ReplayPolicy("asynchronous, staleness 4", 4),
)
ROUND_POLICIES = (
    ReplayPolicy("over-sampling, resumed", 1, rounds=OverSamplingSettings(prompts=OVER_SAMPLING, leftovers="resume")),
    ReplayPolicy(
        "over-sampling, long rounds", 0, rounds=OverSamplingSettings(prompts=OVER_SAMPLING, leftovers="long_round")
    ),
)
POLICIES = (*CONTINUOUS_POLICIES, *ROUND_POLICIES)


def recorded_policy(recording: Recording) -> ReplayPolicy:
    """The policy under which the recording was made: its replay shows what the model is worth."""
    run = recording.run
    return ReplayPolicy(
        "as recorded",
        run.max_staleness,
        partial=run.partial,
        stream=run.stream,
        rounds=_rounds(run.over_sampling),
        late=run.late,
        hard_staleness=run.hard_staleness,
    )


def replay(recording: Recording, policy: ReplayPolicy) -> Replayed:
    """Lead the recorded run again under this policy.

    Raises:
        StuckReplay: a bug of the policy or of this module.
    """
    return _Replay(recording, policy).run()


class _RecordedPrompts:
    """Prompt i stands for the i-th recorded group."""

    def __init__(self) -> None:
        self._drawn = 0

    def next(self) -> Prompt:
        self._drawn += 1
        return Prompt(str(self._drawn - 1), self._drawn - 1, "", None, {})

    def eval_prompts(self) -> list[Prompt]:
        return []

    def preview(self) -> list[Prompt]:
        return []

    def state(self) -> dict[str, JsonValue]:
        return {"drawn": self._drawn}

    def restore(self, state: Mapping[str, JsonValue]) -> None:
        raise NotImplementedError("a replay is not resumed")


class _Replay:
    """One replay: the driver, as callbacks on the virtual clock."""

    def __init__(self, recording: Recording, policy: ReplayPolicy) -> None:
        self._recording, self._policy = recording, policy
        run = recording.run
        self._batch = run.batch
        rule = StalenessRule(run.batch, policy.max_staleness)
        places = len(run.workers) * run.max_running
        self._dispatcher = Dispatcher(
            source=_RecordedPrompts(),
            encode=lambda prompt: (prompt.index,),
            rule=rule,
            admission=make_admission(policy.rounds, rule, places=places, group_size=run.group_size),
            late=LateRule(policy.late, policy.max_staleness, policy.hard_staleness),
            group_size=run.group_size,
            drop_zero_variance=True,
            wanted=recording.steps * run.batch,
        )
        self._clock = VirtualClock()
        self._engines = [
            ReplayEngine(self._clock, recording.speed, run.max_running, self._answered) for _ in run.workers
        ]
        self._answers: dict[int, list[ReplayAnswer]] = {}
        self._unfinished: dict[int, int] = {}
        self._attempts: dict[int, int] = {}
        self._version = 0
        self._missing = self._batch
        self._taken: list[ScoredGroup] = []
        self._learner_waits = True
        self._waits_since = 0.0
        self._waited_s = 0.0
        self._delivering = 0
        self._publish_when_delivered = False

    def run(self) -> Replayed:
        self._clock.after(0.0, self._move)
        answers = self._recording.steps * self._batch * self._recording.run.group_size
        if not self._clock.run(
            lambda: self._version == self._recording.steps, most=EVENTS_PER_ANSWER * (answers + 100)
        ):
            raise StuckReplay(f"the replay of '{self._policy.name}' stands still after {self._version} steps")
        wall = self._clock.now
        busy = sum(engine.busy_s for engine in self._engines)
        idle = 1 - busy / (wall * len(self._engines)) if wall else 0.0
        return Replayed(self._policy, wall, idle, self._waited_s / wall if wall else 0.0)

    def _move(self) -> None:
        """Start what the dispatcher admits, and give the learner what it can have."""
        self._admit()
        if self._learner_waits:
            self._take()

    # --- groups -------------------------------------------------------------------------------------------------

    def _admit(self) -> None:
        for group in self._dispatcher.admit(min(engine.version for engine in self._engines)):
            self._start(group)

    def _start(self, group: GroupInFlight) -> None:
        if not group.kept:
            lengths = self._recorded(group.index).lengths
            self._answers[group.index] = [
                ReplayAnswer(group.index, sample, lengths[sample % len(lengths)]) for sample in range(group.started)
            ]
        running = [a for a in self._answers[group.index] if a.done < a.length or not group.kept]
        self._unfinished[group.index] = len(running)
        self._attempts[group.index] = self._attempts.get(group.index, 0) + 1
        for answer in running:
            least_loaded(self._engines).submit(answer)

    def _answered(self, answer: ReplayAnswer) -> None:
        self._unfinished[answer.group] -= 1
        self._dispatcher.answered(answer.group)
        self._admit()
        if self._unfinished[answer.group] == 0:
            attempt = self._attempts[answer.group]
            score_s = self._recorded(answer.group).score_s
            self._clock.after(score_s, partial(self._scored, answer.group, attempt))

    def _scored(self, index: int, attempt: int) -> None:
        if self._attempts[index] != attempt:
            return  # It was thrown away meanwhile.
        scores = (Score(1.0, {}), Score(0.0, {})) if self._recorded(index).signal else ()
        self._dispatcher.finish(index, _trajectories(self._answers[index]), scores)
        self._move()

    def _recorded(self, index: int) -> RecordedGroup:
        """A replay that filters or cuts more than the run did begins again with the first group."""
        return self._recording.groups[index % len(self._recording.groups)]

    def _cut(self) -> None:
        """The batch is complete: do with the other groups as the dispatcher says."""
        cut = self._dispatcher.cut()
        for group in cut.throw_away:
            self._attempts[group.index] += 1
            self._abort(group.index)
        for group in cut.suspend:
            if self._unfinished[group.index]:  # One that is being scored is as good as finished.
                self._abort(group.index)
                begun = any(answer.version is not None for answer in self._answers[group.index])
                kept = _trajectories(self._answers[group.index]) if begun else ()
                self._dispatcher.suspend(group.index, kept)

    def _abort(self, index: int) -> None:
        for engine in self._engines:
            engine.abort(index)

    # --- the learner --------------------------------------------------------------------------------------------

    def _take(self) -> None:
        least = 1 if self._policy.stream else self._missing
        groups = self._dispatcher.take(self._version, least=least, most=self._missing).groups
        if groups is None:
            return
        self._waited_s += self._clock.now - self._waits_since
        self._learner_waits = False
        self._missing -= len(groups)
        self._taken += groups
        if self._missing == 0:
            self._cut()
        self._admit()
        self._clock.after(self._recording.step_s * len(groups) / self._batch, self._computed)

    def _computed(self) -> None:
        if self._missing:
            self._wait()
            return
        self._dispatcher.trained(self._taken)
        self._taken, self._missing = [], self._batch
        if self._version + 1 == self._recording.steps:
            self._version += 1
        elif self._delivering:
            self._publish_when_delivered = True
        else:
            self._publish()

    def _publish(self) -> None:
        self._clock.after(self._recording.publish_s, self._published)

    def _published(self) -> None:
        self._version += 1
        self._delivering = len(self._engines)
        for engine in self._engines:
            if self._policy.partial:
                self._update(engine, self._version)
            else:
                engine.drain(partial(self._update, engine, self._version))
        self._wait()

    def _wait(self) -> None:
        self._learner_waits, self._waits_since = True, self._clock.now
        self._take()

    # --- weights ------------------------------------------------------------------------------------------------

    def _update(self, engine: ReplayEngine, version: int) -> None:
        """The weights arrive beside generation; the engine pauses for the end of the transfer alone."""
        pause_s = min(self._recording.pause_s, self._recording.sync_s)
        self._clock.after(self._recording.sync_s - pause_s, engine.pause)
        self._clock.after(self._recording.sync_s, partial(self._updated, engine, version))

    def _updated(self, engine: ReplayEngine, version: int) -> None:
        engine.resume(version)
        engine.release()
        self._delivering -= 1
        if self._delivering == 0 and self._publish_when_delivered:
            self._publish_when_delivered = False
            self._publish()
        self._move()


def _rounds(settings: Mapping[str, JsonValue] | None) -> OverSamplingSettings | None:
    """The recorded rounds; each group is replayed with the answers that it kept."""
    if settings is None:
        return None
    return OverSamplingSettings.model_validate({**settings, "answers": 1.0})


def _trajectories(answers: Sequence[ReplayAnswer]) -> tuple[Trajectory, ...]:
    """As the dispatcher knows them: it reads the version of the oldest token, and nothing of the tokens."""
    return tuple(
        Trajectory(
            Completion(f"{answer.group}/{answer.sample}", (Segment(answer.version or 0, (0,), (0.0,)),), "stop"),
            (Leg("replay", 0.0, 0.0, answer.done),),
        )
        for answer in answers
    )
