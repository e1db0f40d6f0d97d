"""The `fapo_flawed` term: right answers that were come by wrongly."""

import asyncio

from rewards.group import Group
from rewards.judging.seeds import seed_of
from rewards.judging.votes import asked, check_votes, instructed, majority
from rewards.models.asking import ModelFailed, Models
from rewards.models.quoting import quoted
from rewards.models.verdicts import yes_in
from rewards.registry import Example, group_term, refusing_options
from rewards.response import Response
from rewards.verdict import Verdict

TASK = (
    "You check the reasoning of a solution whose final answer is known to be right. It is flawed if a step is wrong, a "
    "result is guessed or taken from nowhere, or errors cancel each other. Go through the steps, then end with a line "
    "`Verdict: yes` if the reasoning is flawed, or `Verdict: no`."
)
_ANSWERS = tuple(
    Response(f"e/{number}", "16/64?", text) for number, text in enumerate(("cancel the 6: 1/4", "1/4", "6"))
)
_FOUND = ({"math": 1.0}, {"math": 1.0}, {"math": 0.0})


@group_term(
    "fapo_flawed",
    example=Example(Group(_ANSWERS, _FOUND), (-1.0, 0.0, 0.0), replies=("No such rule.\nVerdict: yes", "Verdict: no")),
    fallback=0.0,
)
async def fapo_flawed(
    group: Group,
    *,
    models: Models,
    model: str = "judge",
    penalty: float = 1.0,
    votes: int = 1,
    temperature: float | None = None,
    max_tokens: int = 1024,
    of: str | None = None,
    correct_at: float = 1.0,
) -> list[Verdict | ModelFailed]:
    """-penalty for a right answer whose reasoning a model finds flawed, else 0: FAPO, whose lambda is
    the penalty, beside outcomes of +1 and -1 (or a correctness term of weight 2). A group's normalisation then makes it
    pay while right answers are rare, and cost when they are not. No model is asked about wrong answers.

    Args:
        model: name in `reward.models`.
        votes: verdicts for each answer; more than half must find a flaw.
        of: the term, as logged, that says what is right; None takes the recipe's first.
        correct_at: what counts as right.
    """
    with refusing_options():
        check_votes(votes=votes, max_tokens=max_tokens)

    async def one(response: Response, right: bool) -> Verdict | ModelFailed:
        if not right:
            return Verdict(0.0)
        try:
            found, troubles = await asked(
                models[model],
                instructed(TASK, quoted("question", response.question), quoted("solution", response.text)),
                yes_in,
                votes=votes,
                max_tokens=max_tokens,
                temperature=temperature,
                seed=seed_of(response.question, response.text),
            )
        except ModelFailed as failure:
            return failure
        return Verdict(-penalty * majority(found), troubles=troubles)

    pairs = zip(group.responses, group.correct(of, correct_at), strict=True)
    return list(await asyncio.gather(*[one(response, right) for response, right in pairs]))
