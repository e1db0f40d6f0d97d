"""The rollout plane: keeps prompts flowing through engines and rewards into the buffer while the learner trains.

One task per group in flight: sample its answers on the fleet, score them, hand both to the dispatcher. A group that
finishes makes room for others; so does a version that engines attested. Invariants: every admitted group ends in
`Dispatcher.finish` or `fail`, or goes back by `suspend` or a cut; an error that is not the group's own (no worker left,
a bug) ends `next_groups`, and so the run, instead of starving it; what takes too long is named by the watchdog and
acted on.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from actors.engine import Completion, GenerationRequest, Sampling
from actors.trajectory import Trajectory
from orchestrator.anchors import Anchors
from orchestrator.data.prompts import Prompt
from orchestrator.deadline import DeadlineMissed
from orchestrator.errors import PacelineError, RunError
from orchestrator.pending import Errand
from orchestrator.policies.dispatch import Dispatcher
from orchestrator.policies.groups import GroupInFlight, ScoredGroup
from orchestrator.policies.watchdog import Finding, InFlight, Watchdog
from orchestrator.probes import CutValues, Probe, ProbePlan, values_of
from orchestrator.reward_client import RewardClient, RewardLost
from orchestrator.rollout_fleet import RolloutFleet, Undeliverable
from orchestrator.scoring_pass import ScoringPass
from rewards.response import Response, Score, SpanReward

Decode = Callable[[Sequence[int]], str]
SamplingOf = Callable[[int, int], Sampling]
"""How the answer with this number of the group with this index is drawn."""
Asked = Callable[[Prompt, int], Prompt]
"""The prompt as it is put for the answer with this number."""
TokenRewards = Callable[[Sequence[int], Sequence[SpanReward]], tuple[float, ...]]
PromptOf = Callable[[GroupInFlight, int], tuple[int, ...]]
"""Its token ids."""
WATCH_EVERY_S = 1.0
CLOSE_S = 10.0


class GroupListener(Protocol):
    """Is told of each group's way."""

    def group_dispatched(self, group: GroupInFlight) -> None: ...

    def answer_sampled(self, group: GroupInFlight, sample: int, trajectory: Trajectory) -> None: ...

    def group_cut(self, group: GroupInFlight, answers: Sequence[Trajectory], action: str) -> None: ...

    def group_scored(self, group: ScoredGroup, began_at: float, ended_at: float) -> None: ...

    def group_dropped(self, group: ScoredGroup, reason: str) -> None: ...

    def group_failed(self, group: GroupInFlight, reason: str) -> None: ...

    def watchdog_found(self, finding: Finding) -> None: ...


@dataclass(slots=True)
class _Running:
    """A group's task. `since` is when its phase began, monotonic seconds."""

    group: GroupInFlight
    since: float
    scoring: bool = False
    thrown_away: bool = False


class RolloutPlane:
    """Args:
    sampling: how each answer is drawn.
    decode: token ids to text, without special tokens.
    limit_s: how long the learner may wait for groups, whatever the watchdog says.
    leftovers: the admission policy's word for what a cut does, for the record.
    asked, prompt_of: where the answers of a group are asked for differently.
    probes: what is asked for at cuts through an answer; None looks at whole answers alone.
    anchors: worked solutions that may join a group; None for none.
    likely: how likely engines find the reference in the place of each answer; None does not ask.
    token_rewards: from token ids and rewards of parts of their text to a reward of each token; None where nothing
        reads them.
    """

    def __init__(
        self,
        *,
        dispatcher: Dispatcher,
        fleet: RolloutFleet,
        rewards: RewardClient,
        sampling: SamplingOf,
        decode: Decode,
        listener: GroupListener,
        watchdog: Watchdog,
        limit_s: float,
        leftovers: str = "resume",
        asked: Asked = lambda prompt, _: prompt,
        prompt_of: PromptOf = lambda group, _: group.prompt_ids,
        probes: ProbePlan | None = None,
        anchors: Anchors | None = None,
        token_rewards: TokenRewards | None = None,
        likely: ScoringPass | None = None,
    ) -> None:
        self._dispatcher, self._fleet, self._rewards = dispatcher, fleet, rewards
        self._sampling, self._decode, self._listener, self._watchdog = sampling, decode, listener, watchdog
        self._limit_s, self._leftovers = limit_s, leftovers
        self._asked, self._prompt_of, self._probes, self._anchors = asked, prompt_of, probes, anchors
        self._token_rewards, self._likely = token_rewards, likely
        self._running: dict[asyncio.Task[None], _Running] = {}
        self._progress = asyncio.Event()
        self._fault: BaseException | None = None
        self._learner_waits_since: float | None = None
        self._watching: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Start the watchdog, on the running event loop."""
        self._watching = asyncio.create_task(self._watch(), name="watchdog")
        self._watching.add_done_callback(self._watch_ended)

    async def next_groups(self, version: int, *, least: int, most: int) -> tuple[ScoredGroup, ...]:
        """Groups to train on at the learner's `version`, as soon as `least` may leave.

        Raises:
            RunError: the watchdog gave up, no worker is left, or the limit has passed.
        """
        self._learner_waits_since = since = time.monotonic()
        try:
            while True:
                self._progress.clear()
                self.admit()
                taken = self._dispatcher.take(version, least=least, most=most)
                for group, reason in taken.dropped:
                    self._listener.group_dropped(group, reason)
                if taken.groups is not None:
                    self.admit()
                    return taken.groups
                if self._fault is not None:
                    raise self._fault
                if not taken.dropped:  # else there is room for others, which nobody else would start
                    await self._something_happens(since)
        finally:
            self._learner_waits_since = None

    async def _something_happens(self, since: float) -> None:
        """Wait; the watchdog names a culprit well before the limit, unless groups come and fail without an end."""
        try:
            await asyncio.wait_for(self._progress.wait(), max(0.0, since + self._limit_s - time.monotonic()))
        except TimeoutError:
            counts = self._dispatcher.ledger.counts()
            fix = "raise rollout.answer_timeout_s or look at the workers' logs"
            if counts["filtered"]:
                fix += (
                    "; all answers to a filtered prompt got one reward: algorithm.drop_zero_variance=false trains them"
                )
            raise RunError(
                f"the learner starved: no batch within {self._limit_s:g} s "
                f"(prompts: {', '.join(f'{count} {end}' for end, count in counts.items())})",
                fix,
            ) from None

    def cut(self) -> None:
        """The batch is complete: suspend, put back or drop what still runs, where the admission policy says so."""
        cut = self._dispatcher.cut()
        thrown_away = {group.index: group for group in cut.throw_away}
        for task, running in self._running.items():
            running.thrown_away |= thrown_away.pop(running.group.index, None) is not None
            if running.thrown_away and running.scoring:
                task.cancel()  # nobody needs the scores any more
        for group in thrown_away.values():  # These were finished already.
            self._listener.group_cut(group, (), self._leftovers)
        for group in (*cut.suspend, *cut.throw_away):
            self._fleet.recall([_request_id(group, sample) for sample in range(group.started)])

    def admit(self) -> None:
        """Start every group for which there is room."""
        if self._fault is not None:
            return
        try:
            groups = self._dispatcher.admit(self._fleet.version)
        except PacelineError as error:  # a prompt that does not fit
            self.abandon(error)
            return
        for group in groups:
            self._listener.group_dispatched(group)
            running = _Running(group, time.monotonic())
            task = asyncio.create_task(self._run_group(running))
            self._running[task] = running
            task.add_done_callback(self._ended)

    def abandon(self, fault: BaseException) -> None:
        """The run cannot go on for a reason outside this plane: `next_groups` raises it."""
        self._fault = self._fault or fault
        self._progress.set()

    async def close(self) -> None:
        """Cancel what is in flight."""
        tasks = [*self._running, *([] if self._watching is None else [self._watching])]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=CLOSE_S)

    async def _run_group(self, running: _Running) -> None:
        group = running.group
        try:
            answers = await self._sample(running)
            if running.thrown_away or any(answer.completion.finish_reason == "abort" for answer in answers):
                self._put_back(running, answers)
                return
            probed = await self._probe(group, answers)
            anchor = None if self._anchors is None else self._anchors.of(group.prompt, group.admitted_version)
            written = answers if anchor is None else [*answers, anchor]
            whole = await self._responses(group, [one.completion for one in written])
            running.scoring, running.since, began_at = True, time.monotonic(), time.time()
            scores = await self._rewards.score(whole, remember=True)
            if probed:
                cut = [self._response(group.prompt, p.sample, completion, p.begun) for p, completion in probed]
                scores += await self._rewards.score(cut)
        except (Undeliverable, DeadlineMissed, RewardLost) as error:
            if not running.thrown_away:
                self._dispatcher.fail(group.index)
                self._listener.group_failed(group, str(error))
            return
        if not running.thrown_away:
            own, ahead = scores[: len(written)], [score.total for score in scores[len(written) :]]
            values = values_of([probe for probe, _ in probed], ahead, len(answers)) if probed else ()
            scored = self._finish(group, written, own, values, anchored=anchor is not None)
            self._listener.group_scored(scored, began_at, time.time())

    def _finish(
        self,
        group: GroupInFlight,
        written: Sequence[Trajectory],
        scores: Sequence[Score],
        values: tuple[CutValues, ...],
        *,
        anchored: bool,
    ) -> ScoredGroup:
        """Args: anchored: the last of what was written is a worked solution, which may join the group or not."""
        foreign: frozenset[int] = frozenset()
        if anchored:
            assert self._anchors is not None, "they made the anchor"
            *own, last = [score.total for score in scores]
            if self._anchors.joins(last, [reward for number, reward in enumerate(own) if number != group.greedy]):
                foreign = frozenset({len(own)})
            else:
                written, scores = written[:-1], scores[:-1]
        along = self._along(written, scores)
        return self._dispatcher.finish(group.index, written, scores, values, foreign, along)

    def _along(self, written: Sequence[Trajectory], scores: Sequence[Score]) -> tuple[tuple[float, ...], ...]:
        """What the tokens of each answer were given beside its score."""
        if self._token_rewards is None:
            return ()
        return tuple(
            self._token_rewards(one.completion.token_ids, score.spans)
            for one, score in zip(written, scores, strict=True)
        )

    async def _probe(self, group: GroupInFlight, answers: Sequence[Trajectory]) -> list[tuple[Probe, Completion]]:
        """What came of going on from cuts through these answers, all of them at once; the greedy one is not cut."""
        if self._probes is None:
            return []
        sampled = [answer.completion for number, answer in enumerate(answers) if number != group.greedy]
        prompts = [self._prompt_of(group, number) for number in range(len(sampled))]
        probes = self._probes.probes(group.index, prompts, sampled, attempt=group.attempt)
        # Numbers behind those of the group's answers, and lengths that shall not be remembered.
        errands = [Errand(group.index, group.started + turn, "", group.admitted_version) for turn in range(len(probes))]
        asked = [self._fleet.sample(probe.request, errand) for probe, errand in zip(probes, errands, strict=True)]
        tasks = [asyncio.ensure_future(sampling) for sampling in asked]
        try:
            found = await asyncio.gather(*tasks)  # Bounded by the watchdog, like every answer.
        finally:
            for task in tasks:
                task.cancel()
        return [(probe, trajectory.completion) for probe, trajectory in zip(probes, found, strict=True)]

    async def _responses(self, group: GroupInFlight, written: Sequence[Completion]) -> list[Response]:
        """What the reward sees of whole answers."""
        responses = [self._response(group.prompt, number, one) for number, one in enumerate(written)]
        if self._likely is None:
            return responses
        prompts = [self._prompt_of(group, number) for number in range(len(written))]
        return await self._likely.measured(responses, prompts)

    def _response(self, prompt: Prompt, sample: int, completion: Completion, begun: tuple[int, ...] = ()) -> Response:
        """What the reward sees of an answer, or of a continuation of one: the whole text."""
        token_ids = begun + completion.token_ids
        asked = self._asked(prompt, sample)
        return response(f"{prompt.prompt_id}/{sample}", asked, token_ids, completion, self._decode)

    def _put_back(self, running: _Running, answers: Sequence[Trajectory]) -> None:
        group = running.group
        if not running.thrown_away:
            sampled = any(answer.completion.segments for answer in answers)
            self._dispatcher.suspend(group.index, answers if sampled else ())
        self._listener.group_cut(group, answers, self._leftovers)

    async def _sample(self, running: _Running) -> list[Trajectory]:
        """The group's answers in sample order: the first that finish, where more were started than are wanted."""
        group = running.group
        tasks = [asyncio.ensure_future(self._answer(running, sample)) for sample in range(group.started)]
        try:
            if group.started > group.wanted:
                await self._first(tasks, group)
            answers = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
        finished = [answer for answer in answers if answer.completion.finish_reason != "abort"]
        if len(finished) < group.wanted:
            return list(answers)
        for sample, answer in enumerate(answers):
            if answer.completion.finish_reason == "abort":  # cut for good
                self._listener.answer_sampled(group, sample, answer)
        return finished[: group.wanted]

    async def _first(self, tasks: Sequence["asyncio.Future[Trajectory]"], group: GroupInFlight) -> None:
        """Until the wanted answers have finished; the others are recalled."""
        open_tasks = set(tasks)
        while open_tasks and len(tasks) - len(open_tasks) < group.wanted:
            # Bounded by the watchdog, like every answer.
            _, open_tasks = await asyncio.wait(open_tasks, return_when=asyncio.FIRST_COMPLETED)
        self._fleet.recall([_request_id(group, sample) for sample in range(group.started)])

    async def _answer(self, running: _Running, sample: int) -> Trajectory:
        group = running.group
        kept = group.kept[sample] if group.kept else None
        if kept is not None and kept.completion.finish_reason != "abort":
            return kept
        sampling = self._sampling(group.index, sample)
        prefix = () if kept is None else kept.completion.segments
        prompt_ids = self._prompt_of(group, sample)
        request = GenerationRequest(_request_id(group, sample), prompt_ids, sampling, prefix)
        errand = Errand(group.index, sample, group.prompt.prompt_id, group.admitted_version)
        trajectory = await self._fleet.sample(request, errand)
        if not running.thrown_away:
            self._dispatcher.answered(group.index)
            self.admit()
        if kept is not None:
            trajectory = replace(trajectory, legs=kept.legs + trajectory.legs)
        if trajectory.completion.finish_reason != "abort":
            self._listener.answer_sampled(group, sample, trajectory)
        return trajectory

    def _ended(self, task: "asyncio.Task[None]") -> None:
        running = self._running.pop(task)
        self._fleet.forget(running.group.index)
        if task.cancelled():
            return
        self._fault = self._fault or task.exception()
        self.admit()
        self._progress.set()

    def _watch_ended(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and (bug := task.exception()) is not None:
            self.abandon(bug)

    # --- watching ------------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(WATCH_EVERY_S)
            items = [*self._fleet.in_flight(), *self._being_scored()]
            for finding in self._watchdog.judge(items, time.monotonic(), learner_waits_since=self._learner_waits_since):
                self._listener.watchdog_found(finding)
                self._act(finding)

    def _being_scored(self) -> list[InFlight]:
        return [
            InFlight(running.group.index, running.group.prompt.prompt_id, None, "reward", "scoring", running.since, 0)
            for running in self._running.values()
            if running.scoring
        ]

    def _act(self, finding: Finding) -> None:
        item = finding.item
        if finding.action == "stop" or item is None:
            self.abandon(RunError(finding.text, "raise rollout.answer_timeout_s or look at the workers' logs"))
        elif item.phase == "scoring":
            self._rewards.restart(finding.text)
        elif finding.action == "retry" and item.sample is not None:
            self._fleet.retry(item.group, item.sample)
        else:
            self._fleet.lose(item.actor, finding.text, replaced=finding.action == "restart")


def _request_id(group: GroupInFlight, sample: int) -> str:
    attempt = f"+{group.attempt}" if group.attempt else ""
    return f"{group.index}{attempt}/{sample}"


def response(
    sample_id: str, prompt: Prompt, token_ids: tuple[int, ...], completion: Completion, decode: Decode
) -> Response:
    """What the reward sees of these tokens, the last of which are the completion's."""
    return Response(
        sample_id=sample_id,
        question=prompt.question,
        text=decode(token_ids),
        reference=prompt.reference,
        metadata=prompt.metadata,
        truncated=completion.finish_reason == "length",
        response_tokens=len(token_ids),
        prompt_id=prompt.prompt_id,
        token_ids=token_ids,
    )
