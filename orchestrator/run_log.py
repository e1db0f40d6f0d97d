"""The run log: hears of everything that happens in a run and writes it down, once, in the run directory's files.

Events go to events.jsonl as they happen, metrics to metrics.jsonl and the trackers once per step, answers to samples/.
Components report to it through the small listener protocols that they declare; it reports to nobody but the screen.
"""

import time
from collections.abc import Callable, Sequence
from statistics import fmean

from learners.batch import TrainBatch
from orchestrator.activity import Lap
from orchestrator.evaluate import EvalResult
from orchestrator.groups import GroupInFlight, ScoredGroup
from orchestrator.progress import Progress, StepLine
from orchestrator.run_directory import RunDirectory
from orchestrator.summary import Tally
from orchestrator.trackers import Tracker
from orchestrator.weight_bus import SyncReport
from rewards.response import Score

Decode = Callable[[Sequence[int]], str]


class RunLog:
    """Args:
    clock: seconds since the epoch, for events.
    """

    def __init__(
        self,
        directory: RunDirectory,
        progress: Progress,
        trackers: Sequence[Tracker],
        *,
        decode: Decode,
        samples_every: int,
        steps: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._directory, self._progress, self._trackers = directory, progress, trackers
        self._decode, self._samples_every, self._steps, self._clock = decode, samples_every, steps, clock
        self.tally = Tally()

    # --- groups -------------------------------------------------------------------------------------------------

    def group_dispatched(self, group: GroupInFlight) -> None:
        self._event("dispatched", group=group.index, prompt=group.prompt.prompt_id, version=group.admitted_version)

    def group_finished(self, group: ScoredGroup, seconds: float) -> None:
        answers = [
            {
                "worker": t.worker,
                "tokens": len(t.completion.token_ids),
                "segments": [[s.version, len(s.token_ids)] for s in t.completion.segments],
                "finish": t.completion.finish_reason,
                "seconds": round(t.finished_at - t.submitted_at, 4),
                "reward": score.total,
            }
            for t, score in zip(group.trajectories, group.scores, strict=True)
        ]
        self._event("finished", group=group.index, seconds=round(seconds, 4), answers=answers)
        for number, score in enumerate(group.scores):
            if score.error is not None:
                self._event("reward_error", sample=f"{group.index}/{number}", error=score.error)

    def group_failed(self, group: GroupInFlight, reason: str) -> None:
        self._event("failed", group=group.index, reason=reason)
        self._progress.warn(f"group {group.index} failed: {reason}")

    # --- workers and weights ------------------------------------------------------------------------------------

    def worker_lost(self, worker: str, reason: str) -> None:
        self.tally.faults_survived += 1
        self._event("worker_lost", worker=worker, reason=reason)
        self._progress.warn(f"{worker} is in quarantine: {reason}")

    def synced(self, report: SyncReport) -> None:
        self.tally.syncs += 1
        self.tally.attested += report.failure is None
        self.tally.sync_seconds.append(report.seconds)
        self._event(
            "sync",
            worker=report.worker,
            version=report.version,
            seconds=round(report.seconds, 4),
            paused_s=round(report.paused_s, 4),
            gap_mean=report.gap.mean,
            gap_max=report.gap.max,
            failure=report.failure,
        )

    def warned(self, message: str) -> None:
        self._event("warning", message=message)
        self._progress.warn(message)

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
        scores = [score for group in groups for score in group.scores]
        reward = fmean(score.total for score in scores)
        staleness = [batch.version - v for sequence in batch.sequences for v in sequence.versions]
        lengths = [len(sequence.response_ids) for sequence in batch.sequences]
        metrics = {
            "reward": reward,
            **{f"reward/{name}": fmean(s.terms.get(name, 0.0) for s in scores) for name in _term_names(scores)},
            "response_tokens/mean": fmean(lengths),
            "response_tokens/max": float(max(lengths)),
            "truncated": fmean(t.completion.finish_reason == "length" for group in groups for t in group.trajectories),
            "staleness/mean": fmean(staleness),
            "staleness/max": float(max(staleness)),
            "seconds": lap.seconds,
            "waited_s": lap.waited_s,
            "tokens_per_s": lap.tokens_per_s,
            "samples_per_s": len(lengths) / lap.seconds,
            **{f"learner/{name}": value for name, value in learner.items()},
        }
        self.tally.rewards.append(reward)
        self.tally.samples += len(lengths)
        self.tally.tokens_trained += len(staleness)
        self.tally.staleness_sum += sum(staleness)
        self.tally.staleness_max = max(self.tally.staleness_max, *staleness)
        self._event("trained", step=step, groups=[group.index for group in groups])
        self._directory.metrics({"step": step, "time": self._clock(), **metrics})
        for tracker in self._trackers:
            tracker.log(step, metrics)
        if step % self._samples_every == 0 or step in (1, self._steps):
            self._directory.samples(f"step-{step:06d}", self._sample_rows(groups))
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

    def close(self) -> None:
        for tracker in self._trackers:
            tracker.close()
        self._directory.close()

    def _sample_rows(self, groups: Sequence[ScoredGroup]) -> list[dict[str, object]]:
        return [
            {
                "sample": f"{group.index}/{number}",
                "question": group.prompt.question,
                "text": self._decode(trajectory.completion.token_ids),
                "reference": group.prompt.reference,
                "reward": score.total,
                "terms": dict(score.terms),
                "error": score.error,
                "finish": trajectory.completion.finish_reason,
            }
            for group in groups
            for number, (trajectory, score) in enumerate(zip(group.trajectories, group.scores, strict=True))
        ]

    def _event(self, event: str, **facts: object) -> None:
        self._directory.event({"time": self._clock(), "event": event, **facts})


def _term_names(scores: Sequence[Score]) -> list[str]:
    return sorted({name for score in scores for name in score.terms})
