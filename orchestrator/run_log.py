"""The run log: hears of everything that happens in a run and writes it down, once, in the run directory's files.

Events go to events.jsonl as they happen, metrics to metrics.jsonl and the trackers once per step, answers to samples/.
Components report to it through the small listener protocols that they declare; it reports to nobody but the screen.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean

from actors.speculation.step_record import StepRecord
from actors.trajectory import Leg, Trajectory
from learners.batch import TrainBatch
from orchestrator.activity import Lap, LearnerDoes
from orchestrator.config import Recipe
from orchestrator.drafting.meter import DraftCounts, SpeculationMeter, by_phase
from orchestrator.drafting.school import Session
from orchestrator.evaluate import EvalResult
from orchestrator.group_plan import plan_of
from orchestrator.monitoring.scene import Scene, lines
from orchestrator.monitoring.tracker import Tracker
from orchestrator.placement import rollout_name
from orchestrator.policies.groups import GroupInFlight, ScoredGroup
from orchestrator.policies.length_bias import LengthBias
from orchestrator.policies.watchdog import Finding
from orchestrator.progress import Progress, StepLine
from orchestrator.reward_rows import failures, paid_tokens, sample_rows, term_names
from orchestrator.run_directory import RunDirectory
from orchestrator.summary import Status, Tally
from orchestrator.token_rewards import reads_token_rewards
from orchestrator.weight_bus import SyncReport
from rewards.response import Failure

Decode = Callable[[Sequence[int]], str]


@dataclass(frozen=True, slots=True)
class LogState:
    """What a run log adds up over the run: for a checkpoint."""

    tally: Tally
    length_bias: LengthBias
    drafted: DraftCounts


@dataclass(slots=True)
class _Lengths:
    """Lengths of a group's answers in its present attempt, tokens, and whether they were cut."""

    attempt: int
    answers: list[tuple[int, bool]] = field(default_factory=list)


class RunLog:
    """Args:
    resumed: the step after which the run goes on; None where it begins.
    clock: seconds since the epoch, for events.
    """

    def __init__(
        self,
        directory: RunDirectory,
        progress: Progress,
        trackers: Sequence[Tracker],
        recipe: Recipe,
        *,
        decode: Decode,
        resumed: int | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._directory, self._progress, self._trackers = directory, progress, trackers
        self._decode, self._clock = decode, clock
        self._samples_every, self._steps = recipe.tracking.samples_every, recipe.trainer.steps
        self._masks = recipe.algorithm.masks
        self._slow_s = recipe.reward.slow_s
        advantage = recipe.algorithm.advantage
        self._unread = None if reads_token_rewards(advantage) else advantage
        """The advantage, as long as it would have to be said that it reads no rewards of parts of an answer."""
        self._length_bias = LengthBias()
        self._lengths: dict[int, _Lengths] = {}
        """Of each group that has not ended."""
        self._trains: list[tuple[float, float]] = []
        """When the learner trained since its last step, seconds since the epoch."""
        self.tally = Tally()
        self.meter = SpeculationMeter()
        if resumed is None:
            self._event("run_started", **_facts(recipe))
        else:
            self._event("run_resumed", step=resumed, **_facts(recipe))

    def state(self) -> LogState:
        """What `restore` needs; to be read at once, for it goes on changing."""
        return LogState(self.tally, self._length_bias, self.meter.counts)

    def restore(self, state: LogState) -> None:
        """Add to what the run had added up when it broke."""
        self.tally, self._length_bias = state.tally, state.length_bias
        self.meter.counts = state.drafted

    # --- groups -------------------------------------------------------------------------------------------------

    def group_dispatched(self, group: GroupInFlight) -> None:
        if not group.kept:
            self._lengths[group.index] = _Lengths(group.attempt)
        if group.attempt or group.kept:
            self._event("resumed", group=group.index, version=group.admitted_version)
        else:
            self._event("dispatched", group=group.index, prompt=group.prompt.prompt_id, version=group.admitted_version)

    def answer_sampled(self, group: GroupInFlight, sample: int, trajectory: Trajectory) -> None:
        answer = trajectory.completion
        lengths = self._lengths.get(group.index)
        # A greedy answer is never trained on: its length would be a bias that nobody has.
        if lengths is not None and lengths.attempt == group.attempt and sample != group.greedy:
            lengths.answers.append((len(answer.token_ids), answer.finish_reason == "abort"))
        self._event(
            "sampled",
            group=group.index,
            sample=sample,
            legs=[_leg_row(leg) for leg in trajectory.legs],
            segments=[[segment.version, len(segment.token_ids)] for segment in answer.segments],
            finish=answer.finish_reason,
        )

    def group_cut(self, group: GroupInFlight, answers: Sequence[Trajectory], action: str) -> None:
        """Its answers are to be resumed, or they are lost: sampled afresh in a long round, or dropped."""
        tokens = [len(answer.completion.token_ids) for answer in answers]
        self._event("suspended", group=group.index, action=action, tokens=tokens)
        if action == "resume":
            return
        for sample, answer in enumerate(answers):
            if answer.completion.finish_reason == "abort" and answer.legs:
                self.answer_sampled(group, sample, answer)
        if action == "drop":
            self._ended(group.index)
            self._event("dropped", group=group.index, reason="left over when its round was cut")

    def group_scored(self, group: ScoredGroup, began_at: float, ended_at: float) -> None:
        self._event(
            "scored",
            group=group.index,
            **{"from": began_at, "to": ended_at},
            rewards=[score.total for score in group.scores],
            seconds=[round(score.seconds, 4) for score in group.scores],
            end="filtered" if group.filtered else "buffered",
        )
        if group.filtered:
            self._ended(group.index)
        if self._unread is not None and any(score.spans for score in group.scores):
            self.warned(f"a term rewards parts of answers, which algorithm.advantage={self._unread} does not read")
            self._unread = None
        for number, score in enumerate(group.scores):
            if score.error is not None:
                failure = score.failure or Failure("raised")
                kind = {"kind": failure.kind, "term": failure.term}
                self._event("reward_error", sample=f"{group.index}/{number}", error=score.error, **kind)
            for trouble in score.troubles:
                kind = {"kind": trouble.kind, "term": trouble.term}
                self._event("reward_fallback", sample=f"{group.index}/{number}", **kind)
            if score.seconds > self._slow_s:
                self._event("reward_slow", sample=f"{group.index}/{number}", seconds=score.seconds)

    def group_dropped(self, group: ScoredGroup, reason: str) -> None:
        self._ended(group.index)
        self._event("dropped", group=group.index, reason=reason)

    def group_failed(self, group: GroupInFlight, reason: str) -> None:
        self._ended(group.index)
        self._event("failed", group=group.index, reason=reason)
        self._progress.warn(f"group {group.index} failed: {reason}")

    def _ended(self, index: int) -> None:
        """The group's answers count as submitted now, and not before: till then they may be thrown away and asked for
        again."""
        lengths = self._lengths.pop(index, None)
        for length, cut in lengths.answers if lengths else ():
            self._length_bias.submitted(length, cut=cut)

    # --- workers and weights ------------------------------------------------------------------------------------

    def worker_lost(self, worker: str, reason: str) -> None:
        self.tally.faults_survived += 1
        self._event("worker_lost", worker=worker, reason=reason)
        self._progress.warn(f"{worker} was lost and will be replaced: {reason}")

    def model_serves(self, worker: str) -> None:
        self._event("model_serves", worker=worker)
        self._progress.say(f"{worker} was replaced and serves")

    def worker_joined(self, worker: str, version: int) -> None:
        self._event("worker_joined", worker=worker, version=version)
        self._progress.say(f"{worker} was replaced and serves version {version}")

    def answer_moved(self, request_id: str, worker: str) -> None:
        self._event("moved", answer=request_id, worker=worker)

    def prompt_quarantined(self, prompt: str, reason: str) -> None:
        self._event("quarantined", prompt=prompt, reason=reason)
        self._progress.warn(f"{prompt} is no longer scored: {reason}")

    def watchdog_found(self, finding: Finding) -> None:
        item = finding.item
        self._event(
            "watchdog",
            group=item.group if item else None,
            prompt=item.prompt if item else None,
            actor=item.actor if item else None,
            phase=item.phase if item else None,
            age_s=round(finding.age_s, 3),
            action=finding.action,
        )
        self._progress.warn(finding.text)

    def synced(self, report: SyncReport) -> None:
        if report.stream == "target":
            self.tally.syncs += 1
            self.tally.attested += report.failure is None
            self.tally.sync_seconds.append(report.seconds)
        self._event(
            "sync",
            worker=report.worker,
            version=report.version,
            stream=report.stream,
            **{"from": report.began_at, "to": report.ended_at},
            paused=report.paused,
            gap_mean=report.gap.mean if report.gap else None,
            gap_max=report.gap.max if report.gap else None,
            failure=report.failure,
        )

    def warned(self, message: str) -> None:
        self._event("warning", message=message)
        self._progress.warn(message)

    def speculated(self, worker: str, records: Sequence[StepRecord]) -> None:
        """What an engine's steps since its last report brought, by batch size and draft length."""
        self.meter.observe(records)
        phases = sorted(by_phase(records).items())
        rows = [[*key, c.steps, c.drafts, c.accepted, c.emitted, round(c.seconds, 6)] for key, c in phases]
        self._event("speculated", worker=worker, phases=rows)

    def speculation_failed(self, worker: str, reason: str) -> None:
        self._event("speculation_failed", worker=worker, reason=reason)
        self._progress.warn(f"{worker} goes on without speculation: {reason}")

    def drafter_studied(self, session: Session) -> None:
        self.tally.drafter_seconds += session.seconds
        verdict = session.verdict
        if session.published is not None:
            self.tally.drafter_versions += 1
            self._progress.say(f"drafter version {session.published}, trained on {session.place}: {session.why_there}")
        self._event(
            "drafter_studied",
            **{"from": session.began_at, "to": session.ended_at},
            place=session.place,
            why_there=session.why_there,
            why=session.why,
            steps=session.steps,
            seconds=session.seconds,
            loss=session.last.get("loss"),
            acceptance=session.last.get("acceptance"),
            verdict=verdict.reason if verdict else None,
            published=session.published,
        )

    def drafter_taken_back(self, version: int, to: int, reason: str) -> None:
        self._event("drafter_taken_back", version=version, to=to, reason=reason)
        self._progress.warn(reason)

    def learner_did(self, doing: LearnerDoes, began_at: float, ended_at: float) -> None:
        if doing == "trains":
            self._trains.append((began_at, ended_at))
        self._event("learner", doing=doing, **{"from": began_at, "to": ended_at})

    def looked(self, scene: Scene) -> None:
        """For the screen and the trackers alone: the files get what happens."""
        self._progress.actors(lines(scene))
        for tracker in self._trackers:
            tracker.looked(scene)

    # --- steps and evaluations ----------------------------------------------------------------------------------

    def trained(
        self,
        step: int,
        groups: Sequence[ScoredGroup],
        batch: TrainBatch,
        learner: dict[str, float],
        lap: Lap,
    ) -> None:
        """One training step is done; `lap` is the time from the last step's end to this one's."""
        scores = [group.scores[number] for group in groups for number in group.sampled]
        reward = fmean(score.total for score in scores)
        trained = [sequence for sequence in batch.sequences if sequence.loss_tokens]
        staleness = [batch.version - v for sequence in trained for v in sequence.versions]
        lengths = [len(sequence.response_ids) for sequence in batch.sequences]
        for group in groups:
            self._ended(group.index)
        for sequence in (own for own in trained if not own.off_policy):
            self._length_bias.trained(len(sequence.response_ids))
        metrics = {
            "reward": reward,
            **{f"reward/{name}": fmean(s.terms.get(name, 0.0) for s in scores) for name in term_names(scores)},
            **failures(scores),
            **paid_tokens(trained),
            "response_tokens/mean": fmean(lengths),
            "response_tokens/max": float(max(lengths)),
            "truncated": fmean(t.completion.finish_reason == "length" for group in groups for t in group.trajectories),
            "staleness/mean": fmean(staleness),
            "staleness/max": float(max(staleness)),
            "late/answers": fmean(n in group.late for group in groups for n in range(len(group.scores))),
            "late/masked": fmean(n in group.masked for group in groups for n in range(len(group.scores))),
            **self._length_bias.row(),
            **self.meter.row(),
            "seconds": lap.seconds,
            "waited_s": lap.waited_s,
            "tokens_per_s": lap.tokens_per_s,
            "samples_per_s": len(lengths) / lap.seconds,
            **{f"learner/{name}": value for name, value in learner.items()},
        }
        for mask in self._masks:
            kept = learner.get(f"mask/{mask.name}", 1.0)
            if kept < mask.alarm_below:
                self.warned(f"step {step}: mask {mask.name} left {kept:.1%} of the tokens' weight")
        self.tally.rewards.append(reward)
        self.tally.samples += len(lengths)
        self.tally.tokens_trained += len(staleness)
        self.tally.staleness_sum += sum(staleness)
        self.tally.staleness_max = max(self.tally.staleness_max, *staleness)
        trains, self._trains = self._trains, []
        self._event(
            "trained",
            step=step,
            version=batch.version,
            **{"from": trains[0][0], "to": trains[-1][1]},
            parts=trains,
            groups=[
                {
                    "group": group.index,
                    "staleness": [batch.version - oldest for oldest in group.oldest_versions],
                    "late": sorted(group.late),
                }
                for group in groups
            ],
        )
        self._directory.metrics({"step": step, "time": self._clock(), **metrics})
        for tracker in self._trackers:
            tracker.log(step, metrics)
        if step % self._samples_every == 0 or step in (1, self._steps):
            self._directory.samples(f"step-{step:06d}", sample_rows(groups, batch, self._decode))
        self._progress.step(
            StepLine(
                step,
                self._steps,
                reward,
                metrics["response_tokens/mean"],
                lap.tokens_per_s,
                metrics["samples_per_s"],
                metrics["staleness/mean"],
                lap.seconds,
            )
        )

    def evaluated(self, step: int, name: str, result: EvalResult) -> None:
        self.tally.evals.setdefault(name, []).append(result.accuracy)
        self._event("evaluated", step=step, name=name, accuracy=result.accuracy, tokens=result.response_tokens)
        self._directory.samples(f"eval-{name}-{step:06d}", result.samples)
        for tracker in self._trackers:
            tracker.log(step, {f"eval/{name}": result.accuracy})
        self._progress.say(
            f"held-out accuracy at step {step}: {result.accuracy:.3f} ({result.response_tokens:.0f} tokens an answer)",
            style="bold",
        )

    def run_ended(self, status: Status, idle: Mapping[str, float]) -> None:
        self._event("run_ended", status=status, idle=dict(idle))

    def close(self) -> None:
        for tracker in self._trackers:
            tracker.close()
        self._directory.close()

    def _event(self, event: str, **facts: object) -> None:
        row = {"time": self._clock(), "event": event, **facts}
        self._directory.event(row)
        for tracker in self._trackers:
            tracker.happened(row)


def _facts(recipe: Recipe) -> dict[str, object]:
    """What a reader of the events must know of the recipe."""
    rollout, trainer, places = recipe.rollout, recipe.trainer, recipe.topology.rollout
    return {
        "batch": trainer.prompts_per_step,
        "group_size": plan_of(recipe).answers,
        "max_staleness": rollout.max_staleness,
        "steps": trainer.steps,
        "workers": [rollout_name(number) for number in range(places.workers)],
        "max_running": rollout.max_running,
        "kv_policy": rollout.kv_policy,
        "late": rollout.late,
        "hard_staleness": rollout.hard_staleness,
        "over_sampling": rollout.over_sampling.model_dump() if rollout.over_sampling else None,
        "learner_ranks": recipe.topology.learner.ranks,
        "partial": rollout.partial,
        "stream": trainer.stream,
        "tensor_parallel": places.tensor_parallel,
    }


def _leg_row(leg: Leg) -> list[object]:
    row: list[object] = [leg.worker, leg.submitted_at, leg.finished_at, leg.tokens]
    return [*row, asdict(leg.speculated)] if leg.speculated.drafted else row
