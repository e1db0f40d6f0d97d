"""The tail report: what the longest answers cost a run, and what another policy would have saved.

Built from the lineage alone, so `paceline report RUN` can make it of a run that ended long ago or was killed. Pure.
Definitions: loss in `orchestrator.analysis.tail_loss`, replay in `replay`. An engine is idle when no answer is on
it, the learner when it waits for a batch; both as shares of the time from the first dispatch to the last gradient step,
without evaluations and checkpoints.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.analysis.lineage import Lineage, TrajectoryLife
from orchestrator.analysis.occupancy import load_of
from orchestrator.analysis.recording import Recording, recording_of
from orchestrator.analysis.replay import POLICIES, Replayed, ReplayPolicy, recorded_policy, replay
from orchestrator.analysis.speed_model import SpeedModel
from orchestrator.analysis.tail_loss import TailLoss, longest_answers, tail_losses
from orchestrator.run_events import Span

SHARES = (0.0, 0.01, 0.1)
LONGEST = 5
APART = ("evaluates", "saves")


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens of the answers, quantiles by nearest rank; `cut` of them count with what was sampled until then."""

    count: int
    cut: int
    p50: int
    p90: int
    p99: int
    max: int

    @property
    def max_over_median(self) -> float:
        return self.max / max(1, self.p50)


@dataclass(frozen=True, slots=True)
class IdleActor:
    actor: str
    fraction: float


@dataclass(frozen=True, slots=True)
class PolicyRow:
    """`saved`: share of the recorded wall time, negative where the policy would have been slower."""

    replayed: Replayed
    saved: float


@dataclass(frozen=True, slots=True)
class WhatIf:
    """The replays beside the run that they start from.

    Attributes:
        wall_s: measured, without evaluations and checkpoints.
        as_recorded: the replay of the run's own policy: how far it is from `wall_s` is the replay's error.
    """

    wall_s: float
    steps: int
    speed: SpeedModel
    as_recorded: PolicyRow
    rows: tuple[PolicyRow, ...]


@dataclass(frozen=True, slots=True)
class TailReport:
    """Empty tuples and None stand for what the run was too short to tell."""

    lengths: Lengths | None
    losses: tuple[TailLoss, ...]
    idle: tuple[IdleActor, ...]
    longest: tuple[TrajectoryLife, ...]
    what_if: WhatIf | None


def tail_report(lineage: Lineage, *, policies: Sequence[ReplayPolicy] = POLICIES) -> TailReport:
    """Read a run's tail.

    Raises:
        StuckReplay: a replay came to a standstill; a bug.
    """
    recording = recording_of(lineage)
    return TailReport(
        lengths=lengths_of(lineage.answers),
        losses=tail_losses(lineage, SHARES) if lineage.answers else (),
        idle=idle_of(lineage),
        longest=longest_answers(lineage, LONGEST),
        what_if=None if recording is None else what_if(recording, policies),
    )


def lengths_of(answers: Sequence[TrajectoryLife]) -> Lengths | None:
    tokens = sorted(answer.tokens for answer in answers)
    if not tokens:
        return None
    p50, p90, p99 = (tokens[math.ceil(q * len(tokens)) - 1] for q in (0.5, 0.9, 0.99))
    return Lengths(len(tokens), sum(answer.finish == "abort" for answer in answers), p50, p90, p99, tokens[-1])


def idle_of(lineage: Lineage) -> tuple[IdleActor, ...]:
    """Idle shares: every engine's, then the learner's; empty where no step was made."""
    training = lineage.training
    if training is None:
        return ()
    apart = [event.span for event in lineage.learner if event.doing in APART]
    whole = training.seconds - _covered(apart, training)
    if whole <= 0:
        return ()
    idle: list[IdleActor] = []
    for name in lineage.engines:
        own = [Span(leg.submitted_at, leg.finished_at) for leg in lineage.legs_on(name)]
        # What runs beside an evaluation counts neither as busy nor as idle.
        unused = training.seconds - _covered([*own, *apart], training)
        idle.append(IdleActor(name, unused / whole))
    waits = [event.span for event in lineage.learner if event.doing == "waits"]
    return (*idle, IdleActor("learner", _covered(waits, training) / whole))


def what_if(recording: Recording, policies: Sequence[ReplayPolicy]) -> WhatIf:
    def row(policy: ReplayPolicy) -> PolicyRow:
        replayed = replay(recording, policy)
        return PolicyRow(replayed, 1 - replayed.wall_s / recording.wall_s)

    return WhatIf(
        recording.wall_s,
        recording.steps,
        recording.speed,
        row(recorded_policy(recording)),
        tuple(row(policy) for policy in policies),
    )


def render_text(report: TailReport) -> list[str]:
    """The report in lines for a terminal, each under 100 characters."""
    lines: list[str] = []
    if (lengths := report.lengths) is not None:
        cut = f", {lengths.cut} of them cut" if lengths.cut else ""
        lines += [
            f"Answers: {lengths.count}{cut}. Tokens: half up to {lengths.p50}, 90% up to {lengths.p90}, "
            f"99% up to {lengths.p99},",
            f"  the longest {lengths.max}, {lengths.max_over_median:.1f} times the median.",
        ]
    if report.losses:
        lines.append("Idle capacity while only the longest answers of a batch were still running:")
        lines += [
            f"  {loss.label:<20} {loss.accelerator_s:>10.1f} accelerator-seconds, {loss.fraction:>6.1%}"
            for loss in report.losses
        ]
    if report.idle:
        lines.append("Idle: " + _idle_line(report.idle))
    if report.longest:
        lines.append("The longest answers:")
        lines += [_answer_line(answer) for answer in report.longest]
    if report.what_if is not None:
        lines += _what_if_lines(report.what_if)
    return lines or ["No answer was sampled: there is no tail to report."]


def _idle_line(idle: Sequence[IdleActor]) -> str:
    """Every actor by name, or the engines as a range where there are many."""
    engines, learner = idle[:-1], idle[-1]
    if len(engines) <= 4:
        parts = [f"{actor.actor} {actor.fraction:.0%}" for actor in engines]
    else:
        shares = [actor.fraction for actor in engines]
        most = max(engines, key=lambda actor: actor.fraction)
        mean = sum(shares) / len(shares)
        parts = [f"{len(engines)} engines {mean:.0%} on average, {most.actor} {most.fraction:.0%} at most"]
    return ", ".join([*parts, f"{learner.actor} {learner.fraction:.0%} waiting for a batch"])


def _answer_line(answer: TrajectoryLife) -> str:
    engines = ", then ".join(dict.fromkeys(leg.worker for leg in answer.legs)) or "no engine"
    end = f"step {answer.step}" if answer.step is not None else answer.end
    return (
        f"  {answer.name:<10} {answer.tokens:>7} tokens {answer.sampling_s:>8.1f} s  "
        f"{answer.prompt} on {engines} -> {end}"
    )


def _what_if_lines(what_if: WhatIf) -> list[str]:
    own, speed = what_if.as_recorded.replayed, what_if.speed
    head = f"{'':<30} {'seconds':>9} {'saved':>7} {'engines idle':>13} {'learner idle':>13}"
    return [
        f"The same answers under other policies ({what_if.steps} steps, replayed on a virtual clock):",
        f"  {head}",
        f"  {'this run, measured':<30} {what_if.wall_s:>9.1f}",
        *(_policy_line(row) for row in (what_if.as_recorded, *what_if.rows)),
        f"  The replay misses this run's own time by {_signed(own.wall_s / what_if.wall_s - 1, digits=1)}.",
        f"  A decoding step takes {_ms(speed.base_s)}, and {_ms(speed.per_answer_s)} more for each running answer "
        f"(off by {speed.error:.1%} on average).",
        "  Lengths are replayed, not learning: another policy would have trained another model.",
    ]


def _policy_line(row: PolicyRow) -> str:
    replayed = row.replayed
    name = f"{replayed.policy.name}, replayed" if replayed.policy.name == "as recorded" else replayed.policy.name
    return (
        f"  {name:<30} {replayed.wall_s:>9.1f} {_signed(row.saved):>7} {replayed.engine_idle:>13.0%} "
        f"{replayed.learner_idle:>13.0%}"
    )


def _signed(share: float, *, digits: int = 0) -> str:
    """A share with its sign, and no sign where it rounds to nothing."""
    rounded = round(share, digits + 2)
    return f"{rounded:+.{digits}%}" if rounded else f"{0:.{digits}%}"


def _ms(seconds: float) -> str:
    return f"{round(seconds * 1e3, 3):g} ms"


def _covered(spans: Sequence[Span], whole: Span) -> float:
    """Seconds of `whole` that the spans cover together."""
    clipped = (Span(max(span.start, whole.start), min(span.end, whole.end)) for span in spans)
    return sum(load.seconds for load in load_of(clipped) if load.answers)
