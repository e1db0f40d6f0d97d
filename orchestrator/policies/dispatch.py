"""The dispatcher: which prompts start, and what becomes of each group that comes back.

A state machine without Ray, threads or clock: the rollout plane feeds it events and does what it says. It owns the
prompt source's cursor, the ledger and the buffer, so that the three cannot disagree. When groups start and whether
they are cut is its `Admission` policy's matter, what becomes of late answers its `LateRule`'s.

Invariants: every drawn prompt is in exactly one of in flight, set aside, buffered, to be asked again, or ended in the
ledger; groups are numbered in the order in which they are drawn; a prompt that was cut keeps its number and is started
again before the run ends, unless the policy is to drop it.

What a break of the run leaves unfinished is asked again, in order and before anything new: a prompt's answers are lost
by it, the prompt is not, and none is trained on twice.
"""

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from pydantic import JsonValue

from actors.trajectory import Trajectory
from orchestrator.data.prompts import Prompt, PromptSource
from orchestrator.errors import RunError
from orchestrator.policies.admission import Account, Admission
from orchestrator.policies.buffer import GroupBuffer
from orchestrator.policies.group_filters import Step, passed
from orchestrator.policies.groups import GroupInFlight, ScoredGroup
from orchestrator.policies.late import LateRule
from orchestrator.policies.ledger import End, Ledger
from orchestrator.policies.spread_memory import SpreadMemory
from orchestrator.policies.staleness import StalenessRule
from rewards.response import Score


@dataclass(frozen=True, slots=True)
class Taken:
    """Groups for the learner (None while they are not complete), and those that were too late, with the reason."""

    groups: tuple[ScoredGroup, ...] | None
    dropped: tuple[tuple[ScoredGroup, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Cut:
    """What a complete batch does to the others: these are to be suspended, those to be thrown away."""

    suspend: tuple[GroupInFlight, ...] = ()
    throw_away: tuple[GroupInFlight, ...] = ()


@dataclass(frozen=True, slots=True)
class DispatchState:
    """What a dispatcher needs to go on in another process.

    Attributes:
        drawn: prompts so far.
        source: the prompt source's state behind the last of them.
        pending: by group, the source's state before its prompt was drawn: the prompt is drawn from there again.
        spread: of the rewards of groups.
    """

    drawn: int
    source: dict[str, JsonValue]
    ends: dict[End, int]
    pending: dict[int, dict[str, JsonValue]]
    spread: SpreadMemory = field(default_factory=SpreadMemory)


class Dispatcher:
    """Admits prompts and keeps their account.

    Args:
        encode: turns a prompt into its token ids.
        group_size: answers wanted of each prompt.
        drop_zero_variance: end groups without signal as `filtered` and admit others in their place.
        usable: whether a batch can be built with a group; one that cannot is filtered likewise.
        wanted: groups that the run will train on; no more are admitted than can still be.
        filters: what becomes of a group before that; those that it leaves out end as `filtered` too.
        greedy: the last answer of each group is decoded greedily.
        most_filtered: groups that may be filtered one after another; None: any number.
    """

    def __init__(
        self,
        *,
        source: PromptSource,
        encode: Callable[[Prompt], tuple[int, ...]],
        rule: StalenessRule,
        admission: Admission,
        late: LateRule,
        group_size: int,
        drop_zero_variance: bool,
        wanted: int,
        filters: Sequence[Step] = (),
        greedy: bool = False,
        most_filtered: int | None = None,
        usable: Callable[[ScoredGroup], bool] = lambda _: True,
    ) -> None:
        self._source, self._encode = source, encode
        self._rule, self._admission, self._late = rule, admission, late
        self._group_size, self._drop_zero_variance, self._wanted = group_size, drop_zero_variance, wanted
        self._filters, self._greedy, self._most_filtered = filters, greedy, most_filtered
        self._filtered_in_a_row = 0
        self._usable = usable
        self._in_flight: dict[int, GroupInFlight] = {}
        self._versions: Counter[int] = Counter()
        """Groups in flight by admitted version."""
        self._unfinished: dict[int, int] = {}
        """Answers still to be sampled to their end, by group in flight."""
        self._unfinished_total = 0
        self._aside: deque[GroupInFlight] = deque()
        self._accepted = 0
        self._drawn = 0
        self._drawn_from: dict[int, dict[str, JsonValue]] = {}
        """Where the source stood before it gave the prompt of each pending group."""
        self._asked_again: deque[tuple[int, Prompt]] = deque()
        self._spread = SpreadMemory()
        self.buffer = GroupBuffer(rule)
        self.ledger = Ledger()

    @property
    def in_flight(self) -> int:
        return len(self._in_flight)

    @property
    def aside(self) -> int:
        """Groups that were cut and wait for their next round."""
        return len(self._aside)

    def admit(self, version: int) -> list[GroupInFlight]:
        """The groups that start now, while `version` is the newest that counts; some may have been cut before."""
        account = Account(
            version, self._accepted, len(self._in_flight), self._unfinished_total, len(self._aside), self._wanted
        )
        plan = self._admission.plan(account)
        started = self._admission.answers(self._group_size) if plan.over_sampled else self._group_size
        return [
            *[self._start_again(version, started) for _ in range(plan.again)],
            *[self._draw(version, started) for _ in range(plan.fresh)],
        ]

    def answered(self, index: int) -> None:
        """An answer of a group in flight has left its engine for good."""
        self._unfinished[index] -= 1
        self._unfinished_total -= 1

    def finish(
        self,
        index: int,
        trajectories: Sequence[Trajectory],
        scores: Sequence[Score],
        values: Sequence[Sequence[tuple[int, float]]] = (),
        foreign: frozenset[int] = frozenset(),
        token_rewards: Sequence[tuple[float, ...]] = (),
    ) -> ScoredGroup:
        """A group has all its answers and scores: to the buffer, or out of it as filtered.

        Raises:
            RunError: nothing but filtered groups came for too long.
        """
        group = self._leave(index)
        scored = ScoredGroup(
            index,
            group.prompt,
            group.prompt_ids,
            group.admitted_version,
            tuple(trajectories),
            tuple(scores),
            greedy=group.greedy,
            values=values,
            foreign=foreign,
            token_rewards=token_rewards,
        )
        self._spread = self._spread.note(tuple(scores[number].total for number in scored.sampled))
        kept = passed(scored, self._filters, self._spread.usual)
        if kept is None or (self._drop_zero_variance and not kept.has_signal) or not self._usable(kept):
            self._end(index, End.FILTERED)
            self._expect_some_to_pass(scored)
            return replace(scored, filtered=True)
        self._filtered_in_a_row = 0
        self.buffer.put(kept)
        self._accepted += 1
        return kept

    def _expect_some_to_pass(self, filtered: ScoredGroup) -> None:
        self._filtered_in_a_row += 1
        if self._most_filtered is None or self._filtered_in_a_row <= self._most_filtered:
            return
        what = f"{self._filtered_in_a_row} groups in a row were filtered, so no batch becomes full"
        error = next((score.error for score in filtered.scores if score.error is not None), None)
        if error is not None:
            raise RunError(f"{what}; rewards fail, the last with: {error}", "mend the reward, or its options")
        fix = "look at the rewards, choose prompts of another difficulty, or raise algorithm.refill_limit"
        raise RunError(what, fix)

    def fail(self, index: int) -> None:
        """A group could not be sampled or scored; another prompt takes its place."""
        self._leave(index)
        self._end(index, End.FAILED)

    def take(self, version: int, *, least: int | None = None, most: int | None = None) -> Taken:
        """Groups for the batch of `version`; they count as pending until they are trained.

        Args:
            least, most: how many; None is a whole batch. A batch may be taken in parts: `most` is what it lacks.
        """
        most = self._rule.batch if most is None else most
        least = most if least is None else least
        dropped: list[tuple[ScoredGroup, str]] = []
        while True:
            groups = self.buffer.take(version=version, least=least, most=most, others=self._waited_for())
            if groups is None:
                return Taken(None, tuple(dropped))
            fit, unfit = self._judge(groups, version)
            dropped += unfit
            if not unfit:
                return Taken(tuple(fit), tuple(dropped))
            for group in groups:
                if group.index not in {late.index for late, _ in unfit}:
                    self.buffer.put(group)

    def cut(self) -> Cut:
        """The batch is complete: what becomes of the groups that are not in it."""
        leftovers = self._admission.leftovers
        if leftovers is None:
            return Cut()
        if leftovers == "resume":
            return Cut(suspend=tuple(self._in_flight.values()))
        running = tuple(self._in_flight.values())
        for group in running:
            self._leave(group.index)
        finished = self.buffer.clear() if self._rule.max_staleness == 0 else ()
        self._accepted -= len(finished)
        again = [*running, *[self._begun_again(group) for group in finished]]
        for group in again:
            if leftovers == "drop":
                self._end(group.index, End.DROPPED)
            else:
                self._aside.append(replace(group, attempt=group.attempt + 1, kept=()))
        return Cut(throw_away=tuple(again))

    def suspend(self, index: int, kept: Sequence[Trajectory]) -> None:
        """A group's running answers were aborted; it goes on from `kept` when it is started again."""
        self._aside.append(replace(self._leave(index), kept=tuple(kept)))

    def trained(self, groups: Sequence[ScoredGroup]) -> None:
        """The learner has made its step on these groups."""
        self._spread = self._spread.turn()
        for group in groups:
            self._end(group.index, End.TRAINED)

    def state(self) -> DispatchState:
        """All that must outlive a break: what is pending will be asked again."""
        return DispatchState(
            self._drawn,
            self._source.state(),
            self.ledger.ends(),
            dict(sorted(self._drawn_from.items())),
            self._spread,
        )

    def restore(self, state: DispatchState) -> None:
        """Go on where `state` was taken; before anything is admitted.

        Raises:
            SettingError: the source's state belongs to other data.
        """
        for index, before in state.pending.items():
            self._source.restore(before)
            self._asked_again.append((index, self._source.next()))
        self._source.restore(state.source)
        self._drawn, self._drawn_from = state.drawn, dict(state.pending)
        self._accepted = state.ends.get(End.TRAINED, 0)
        self.ledger = Ledger(state.ends, state.pending)
        self._spread = state.spread

    def _draw(self, version: int, started: int) -> GroupInFlight:
        greedy = self._group_size - 1 if self._greedy else None
        if self._asked_again:
            index, prompt = self._asked_again.popleft()
            again = GroupInFlight(
                index, prompt, self._encode(prompt), version, self._group_size, started, attempt=1, greedy=greedy
            )
            return self._enter(again)
        before = self._source.state()
        prompt = self._source.next()
        group = GroupInFlight(
            self._drawn, prompt, self._encode(prompt), version, self._group_size, started, greedy=greedy
        )
        self._drawn += 1
        self._drawn_from[group.index] = before
        self.ledger.dispatch(group.index)
        return self._enter(group)

    def _end(self, index: int, how: End) -> None:
        self.ledger.end(index, how)
        del self._drawn_from[index]

    def _start_again(self, version: int, started: int) -> GroupInFlight:
        group = self._aside.popleft()
        if not group.kept:
            group = replace(group, admitted_version=version, started=started)
        return self._enter(group)

    def _enter(self, group: GroupInFlight) -> GroupInFlight:
        self._in_flight[group.index] = group
        self._versions[group.admitted_version] += 1
        self._unfinished[group.index] = group.unfinished
        self._unfinished_total += group.unfinished
        return group

    def _leave(self, index: int) -> GroupInFlight:
        group = self._in_flight.pop(index)
        self._unfinished_total -= self._unfinished.pop(index)
        self._versions[group.admitted_version] -= 1
        if not self._versions[group.admitted_version]:
            del self._versions[group.admitted_version]
        return group

    def _waited_for(self) -> Counter[int] | None:
        """Groups whose turn must come in time, by admitted version; None where none is waited for."""
        leftovers = self._admission.leftovers
        if self._late.policy != "wait" or (leftovers is not None and self._rule.max_staleness == 0):
            return None
        if leftovers in ("long_round", "drop"):
            return Counter()  # What runs is cut, and never trained on the tokens it has now.
        return self._versions + Counter(group.admitted_version for group in self._aside)

    def _judge(
        self, groups: Sequence[ScoredGroup], version: int
    ) -> tuple[list[ScoredGroup], list[tuple[ScoredGroup, str]]]:
        fit: list[ScoredGroup] = []
        unfit: list[tuple[ScoredGroup, str]] = []
        for group in groups:
            verdict = self._late.judge(group.oldest_versions, version=version)
            masked, dropped = group.masked | verdict.masked, verdict.dropped
            if dropped is None and masked.issuperset(group.compared):
                dropped = "each of its answers is late or masked by a filter"
            if dropped is None:
                fit.append(replace(group, late=verdict.late, masked=masked))
            else:
                unfit.append((group, dropped))
                self._end(group.index, End.DROPPED)
                self._accepted -= 1
        return fit, unfit

    def _begun_again(self, group: ScoredGroup) -> GroupInFlight:
        size = self._group_size
        return GroupInFlight(
            group.index, group.prompt, group.prompt_ids, group.admitted_version, size, size, greedy=group.greedy
        )
