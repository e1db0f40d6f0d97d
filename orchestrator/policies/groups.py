"""A group's two states: in flight (its answers are being sampled and scored) and scored (ready to train on)."""

from collections.abc import Sequence
from dataclasses import dataclass

from actors.trajectory import Trajectory
from orchestrator.data.prompts import Prompt
from rewards.response import Score


@dataclass(frozen=True, slots=True)
class GroupInFlight:
    """One dispatched prompt whose answers are on their way.

    Attributes:
        index: number of the dispatch, counted from 0; the order of the run.
        prompt_ids: the prompt's token ids.
        admitted_version: newest weight version that counted when it was dispatched: no token of the group is older.
        wanted: answers that complete the group.
        started: answers sampled for it, at least `wanted`; the first `wanted` to finish are kept.
        attempt: how often it was started afresh, its answers thrown away.
        kept: what was sampled of its answers before it was suspended, in sample order; empty if it never was.
        greedy: number of the answer that is decoded greedily, as a baseline for the others; None where none is.
    """

    index: int
    prompt: Prompt
    prompt_ids: tuple[int, ...]
    admitted_version: int
    wanted: int
    started: int
    attempt: int = 0
    kept: tuple[Trajectory, ...] = ()
    greedy: int | None = None

    @property
    def unfinished(self) -> int:
        """Answers still to be sampled to their end when it is started."""
        return self.started - sum(answer.completion.finish_reason != "abort" for answer in self.kept)


@dataclass(frozen=True, slots=True)
class ScoredGroup:
    """A dispatched prompt with all its answers and their scores, both in sample order.

    Attributes:
        filtered: it has no signal and is not trained.
        late: answers with a token older than the staleness bound when the group was taken for training.
        masked: answers that count in the baseline and get no gradient.
        greedy: number of the answer that was decoded greedily: a baseline, not trained on. None where there is none.
        values: of each answer, what it was worth at cuts through it: tokens before the cut, and the mean reward of
            going on from there. Empty where nothing was probed.
        foreign: numbers of the answers that somebody else wrote; they stand behind all others.
        token_rewards: of each answer, what its tokens were given beside its score; empty where none was. Empty where
            nothing reads it.
    """

    index: int
    prompt: Prompt
    prompt_ids: tuple[int, ...]
    admitted_version: int
    trajectories: Sequence[Trajectory]
    scores: Sequence[Score]
    filtered: bool = False
    late: frozenset[int] = frozenset()
    masked: frozenset[int] = frozenset()
    greedy: int | None = None
    values: Sequence[Sequence[tuple[int, float]]] = ()
    foreign: frozenset[int] = frozenset()
    token_rewards: Sequence[tuple[float, ...]] = ()

    @property
    def compared(self) -> tuple[int, ...]:
        """Numbers of the answers that are compared with each other and trained on: all but the greedy one."""
        return tuple(number for number in range(len(self.scores)) if number != self.greedy)

    @property
    def sampled(self) -> tuple[int, ...]:
        """Numbers of those that were sampled from the policy."""
        return tuple(number for number in self.compared if number not in self.foreign)

    @property
    def has_signal(self) -> bool:
        """Whether rewards differ at all, those of the greedy answer, of probes and of tokens among them: without a
        difference there is nothing to learn from."""
        probed = {value for cuts in self.values for _, value in cuts}
        own = [self.rewards_along(number) or (0.0,) for number in range(len(self.scores))]
        found = {score.total + reward for score, along in zip(self.scores, own, strict=True) for reward in along}
        return len(found | probed) > 1

    def rewards_along(self, number: int) -> tuple[float, ...]:
        """What the tokens of this answer were given; empty where none was."""
        return self.token_rewards[number] if self.token_rewards else ()

    @property
    def oldest_versions(self) -> tuple[int, ...]:
        """Version of the oldest token of each answer."""
        return tuple(t.completion.segments[0].version for t in self.trajectories)
