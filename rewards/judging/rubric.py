"""The `judge` term: a model gives a score by a rubric."""

from statistics import fmean, median
from typing import Literal

from rewards.judging.seeds import seed_of
from rewards.judging.votes import asked, check_votes, instructed
from rewards.models.asking import Models
from rewards.models.quoting import quoted
from rewards.models.verdicts import score_in
from rewards.registry import Example, refusing_options, term
from rewards.response import Response
from rewards.verdict import Verdict

QUALITY = (
    "Is every step of the reasoning correct and justified? Does it address what was asked, completely and without "
    "padding or repetition? Is it clear, and does the conclusion follow from it?"
)
"""Used where the recipe states no rubric: the quality of reasoning, as a part of a composite reward may judge it."""
WEIGHING = (
    "First write down what a perfect answer to this question must do, each point with its weight; then check the "
    "answer against each point. "
)


@term(
    "judge",
    example=Example(Response("example", "Why is 91 no prime?", "Because 7 * 13 = 91."), 7 / 9, replies=("Score: 8",)),
    confined=False,
)
async def judge(
    response: Response,
    *,
    models: Models,
    model: str = "judge",
    rubric: str = QUALITY,
    low: float = 1,
    high: float = 10,
    own_rubric: bool = False,
    reference: bool = False,
    votes: int = 1,
    combine: Literal["mean", "median"] = "mean",
    temperature: float | None = None,
    max_tokens: int = 512,
) -> Verdict:
    """(score - low) / (high - low), in [0, 1], the score being what a model gives by a rubric; the mean or median of
    several votes. The quality part of Gazal-R1's composite reward is such a term; with `own_rubric` the model first
    writes the rubric of the question by itself, as RM-R1 does (arXiv 2505.02387).

    Args:
        model: name in `reward.models`.
        rubric: what the model shall look at.
        low, high: ends of the model's scale.
        reference: show it the reference as well.
        votes: scores that are asked for; those that cannot be read are counted and left out.
        temperature: of them; None is 0 for one vote, else 0.7.
    """
    with refusing_options():
        check_votes(votes=votes, max_tokens=max_tokens)
        if not low < high:
            raise ValueError(f"low={low:g} must be below high={high:g}")
    task = (
        f"You grade an answer to a question by this rubric:\n{rubric}\n\n{WEIGHING if own_rubric else ''}"
        f"Reason briefly, then end with a line `Score: N`, a number from {low:g} (worst) to {high:g} (best)."
    )
    parts = [quoted("question", response.question), quoted("answer", response.text)]
    if reference and response.reference is not None:
        parts.insert(1, quoted("reference", response.reference))
    scores, troubles = await asked(
        models[model],
        instructed(task, *parts),
        lambda text: score_in(text, low, high),
        votes=votes,
        max_tokens=max_tokens,
        temperature=temperature,
        seed=seed_of(response.question, response.text),
    )
    return Verdict(fmean(scores) if combine == "mean" else median(scores), troubles=troubles)
