"""What the rewards of a step's answers say, as entries of its metrics and samples. Pure functions."""

from collections import Counter
from collections.abc import Callable, Sequence
from statistics import fmean

from learners.batch import TrainBatch, TrainSequence
from orchestrator.policies.groups import ScoredGroup
from rewards.response import Score


def term_names(scores: Sequence[Score]) -> list[str]:
    """Of all values that are logged."""
    return sorted({name for score in scores for name in score.terms})


def paid_tokens(sequences: Sequence[TrainSequence]) -> dict[str, float]:
    """Share of the tokens with a reward of their own, and how far these move an answer's tokens apart: the mean over
    the answers that have some of (largest - smallest); nothing where no token has one."""
    paid = [sequence for sequence in sequences if sequence.token_rewards]
    if not paid:
        return {}
    tokens = sum(len(sequence.response_ids) for sequence in sequences)
    return {
        "token_rewards/share": sum(reward != 0 for one in paid for reward in one.token_rewards) / tokens,
        "token_rewards/spread": fmean(max(one.token_rewards) - min(one.token_rewards) for one in paid),
    }


def along(sequence: TrainSequence | None) -> dict[str, object]:
    """What the tokens of an answer were given, and the advantages made of it unless a critic makes them."""
    if sequence is None:
        return {}
    return {"token_rewards": sequence.token_rewards, "advantages": [round(a, 4) for a in sequence.advantages]}


def failures(scores: Sequence[Score]) -> dict[str, float]:
    """How many answers got the fallback, by what happened and the term that was at work; and where a model could not
    tell a term what it has a value of its own for."""
    failed = [score.failure for score in scores if score.failure is not None]
    counts = Counter(f"reward_failed/{failure.kind}/{failure.term or 'unknown'}" for failure in failed)
    troubles = Counter(f"reward_fallback/{one.kind}/{one.term}" for score in scores for one in score.troubles)
    if troubles:
        counts["reward_fallback"] = sum(bool(score.troubles) for score in scores)
    counts += troubles
    return {"reward_failed": float(len(failed)), **{name: float(count) for name, count in sorted(counts.items())}}


def sample_rows(
    groups: Sequence[ScoredGroup], batch: TrainBatch, decode: Callable[[Sequence[int]], str]
) -> list[dict[str, object]]:
    """A step's answers, a row each, for samples/."""
    paid = {sequence.sequence_id: sequence for sequence in batch.sequences if sequence.token_rewards}
    return [
        {
            "sample": f"{group.index}/{number}",
            "question": group.prompt.question,
            "text": decode(trajectory.completion.token_ids),
            "reference": group.prompt.reference,
            "reward": score.total,
            "terms": dict(score.terms),
            "error": score.error,
            "finish": trajectory.completion.finish_reason,
            **along(paid.get(f"{group.index}/{number}")),
        }
        for group in groups
        for number, (trajectory, score) in enumerate(zip(group.trajectories, group.scores, strict=True))
    ]
