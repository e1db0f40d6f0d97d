"""From scored groups to what the learner trains on, by the recipe's kind.

All ways have one interface, so that the driver does not know which it has. Invariants of those here: every answer of a
group is in the batch, once, those that are not trained on with no loss, so that the log sees what was sampled; a group
for which `usable` is false never reaches a batch (the dispatcher guarantees it); the choice is seeded by the group's
number.
"""

from collections.abc import Sequence
from statistics import fmean
from typing import Protocol

from learners.advantages import NORMS, AdvantageNorm
from learners.batch import TrainBatch, TrainSequence
from learners.preferences import PREFERENCES
from orchestrator.batch_builder import BatchBuilder
from orchestrator.config import Recipe
from orchestrator.policies.grades import Grader
from orchestrator.policies.groups import ScoredGroup
from orchestrator.policies.keep import KeepSettings, kept
from orchestrator.policies.pairs import PairSettings, paired_answers


class Batches(Protocol):
    """Builds training batches from groups.

    Attributes:
        norm: of the advantages; a checkpoint holds what it remembers.
    """

    norm: AdvantageNorm

    def usable(self, group: ScoredGroup) -> bool:
        """Whether there is anything to train on in it; a group that is not is filtered, another prompt dispatched."""

    def build(self, groups: Sequence[ScoredGroup], version: int) -> TrainBatch:
        """Args: version: the learner's now."""


class KeptBatches:
    """Likelihood of the answers that are kept: advantage 1, and no loss on the others."""

    def __init__(self, settings: KeepSettings, grader: Grader, seed: int) -> None:
        self._settings, self._grader, self._seed = settings, grader, seed
        self.norm = NORMS["none"]()

    def usable(self, group: ScoredGroup) -> bool:
        return bool(self._kept(group))

    def build(self, groups: Sequence[ScoredGroup], version: int) -> TrainBatch:
        sequences: list[TrainSequence] = []
        for group in groups:
            chosen = self._kept(group)
            sequences += [answer(group, number, 1.0, trained=number in chosen) for number in range(len(group.scores))]
        return TrainBatch(version, tuple(sequences))

    def _kept(self, group: ScoredGroup) -> tuple[int, ...]:
        return kept(self._grader(group), self._settings, f"{self._seed}/keep/{group.index}")


class PairedBatches:
    """Pairs, each a group of its own: the chosen answer with advantage 1, the rejected one with -1."""

    def __init__(self, settings: PairSettings, grader: Grader, seed: int) -> None:
        self._settings, self._grader, self._seed = settings, grader, seed
        self.norm = NORMS["none"]()

    def usable(self, group: ScoredGroup) -> bool:
        return bool(self._pairs(group))

    def build(self, groups: Sequence[ScoredGroup], version: int) -> TrainBatch:
        sequences: list[TrainSequence] = []
        for group in groups:
            pairs = self._pairs(group)
            for number, (chosen, rejected) in enumerate(pairs):
                pair = f"{group.index}/pair{number}"
                sequences.append(answer(group, chosen, 1.0, group_id=pair))
                sequences.append(answer(group, rejected, -1.0, group_id=pair))
            compared = {number for pair in pairs for number in pair}
            others = [number for number in range(len(group.scores)) if number not in compared]
            sequences += [answer(group, number, 0.0, trained=False) for number in others]
        return TrainBatch(version, tuple(sequences))

    def _pairs(self, group: ScoredGroup) -> tuple[tuple[int, int], ...]:
        return paired_answers(self._grader(group), self._settings, f"{self._seed}/pairs/{group.index}")


class LabelledBatches:
    """All answers of a group together: advantage 1 where right, -1 where wrong."""

    def __init__(self, grader: Grader) -> None:
        self._grader = grader
        self.norm = NORMS["none"]()

    def usable(self, group: ScoredGroup) -> bool:
        return True

    def build(self, groups: Sequence[ScoredGroup], version: int) -> TrainBatch:
        return TrainBatch(
            version,
            tuple(
                answer(group, number, 1.0 if grade.right else -1.0, group_id=str(group.index))
                for group in groups
                for number, grade in enumerate(self._grader(group))
            ),
        )


def make_batches(recipe: Recipe, compared: BatchBuilder) -> Batches:
    """What the recipe's kind builds its batches with; reinforcement learning and distillation with `compared`."""
    grader = Grader(recipe.reward.terms[0].logged_as, recipe.eval.correct_at)
    if recipe.keep is not None:
        return KeptBatches(recipe.keep, grader, recipe.seed)
    if recipe.pairs is None or recipe.algorithm.preference is None:
        return compared
    if PREFERENCES[recipe.algorithm.preference.name].of == "groups":
        return LabelledBatches(grader)
    return PairedBatches(recipe.pairs, grader, recipe.seed)


def answer(
    group: ScoredGroup, number: int, advantage: float, *, trained: bool = True, group_id: str = ""
) -> TrainSequence:
    """One answer of a group as a sequence to train on."""
    completion = group.trajectories[number].completion
    length = len(completion.token_ids)
    return TrainSequence(
        sequence_id=f"{group.index}/{number}",
        prompt_ids=group.prompt_ids,
        response_ids=completion.token_ids,
        behaviour_logprobs=completion.logprobs,
        versions=completion.versions,
        advantages=(advantage,) * length,
        loss_mask=(trained,) * length,
        reward=group.scores[number].total,
        group_reward=fmean(score.total for score in group.scores),
        group_id=group_id,
    )
