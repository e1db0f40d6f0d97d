"""A group's two states: in flight (its answers are being sampled and scored) and scored (ready to train on)."""

from collections.abc import Sequence
from dataclasses import dataclass

from actors.trajectory import Trajectory
from orchestrator.prompts import Prompt
from rewards.response import Score


@dataclass(frozen=True, slots=True)
class GroupInFlight:
    """One dispatched prompt whose answers are on their way.

    Attributes:
        index: number of the dispatch, counted from 0; the order of the run.
        prompt_ids: the prompt's token ids.
        admitted_version: newest weight version that every serving engine had when it was dispatched: no token of the
            group is older.
    """

    index: int
    prompt: Prompt
    prompt_ids: tuple[int, ...]
    admitted_version: int


@dataclass(frozen=True, slots=True)
class ScoredGroup:
    """A dispatched prompt with all its answers and their scores, both in sample order."""

    index: int
    prompt: Prompt
    prompt_ids: tuple[int, ...]
    admitted_version: int
    trajectories: Sequence[Trajectory]
    scores: Sequence[Score]

    @property
    def has_signal(self) -> bool:
        """Whether the answers' rewards differ at all: without a difference there is nothing to learn from."""
        return len({score.total for score in self.scores}) > 1
