"""What the choice among a group's answers goes by: reward, whether it is right, and length. Pure.

Right means what an evaluation counts as correct: the first reward term reaches `eval.correct_at`.
"""

from dataclasses import dataclass

from orchestrator.policies.groups import ScoredGroup


@dataclass(frozen=True, slots=True)
class Grade:
    """Of one answer."""

    reward: float
    right: bool
    tokens: int


@dataclass(frozen=True, slots=True)
class Grader:
    """Attributes:
    term: name of the reward term that says whether an answer is right.
    correct_at: value from which it is.
    """

    term: str
    correct_at: float

    def __call__(self, group: ScoredGroup) -> tuple[Grade, ...]:
        """Of each answer, in sample order."""
        return tuple(
            Grade(score.total, score.terms.get(self.term, 0.0) >= self.correct_at, len(answer.completion.token_ids))
            for answer, score in zip(group.trajectories, group.scores, strict=True)
        )
