r"""The `general_reasoner` term: a model compares the final answer with the reference, in any field of knowledge."""

from typing import Literal

from rewards.extraction import by_marker, stated_answer
from rewards.judging.seeds import seed_of
from rewards.judging.votes import asked, check_votes, instructed, majority
from rewards.models.asking import Models
from rewards.models.quoting import quoted
from rewards.models.verdicts import yes_in
from rewards.registry import Example, refusing_options, term
from rewards.response import Response
from rewards.verdict import Verdict

LONGEST_ANSWER = 2000
"""Characters of a final answer; a longer one is none."""
TASK = (
    "You compare a student's final answer with the reference answer to a question. They agree if they mean the same: "
    "another notation, unit, order or wording is no difference, another value or claim is one. Reason briefly, then "
    "end with a line `Verdict: yes` if they agree, or `Verdict: no`."
)
_EXAMPLE = Response("example", "What does water consist of?", r"\boxed{hydrogen and oxygen}", "oxygen and hydrogen gas")


@term(
    "general_reasoner",
    example=Example(_EXAMPLE, 1 - 0.05 * 1, replies=("The same two elements.\nVerdict: yes",)),
    confined=False,
)
async def general_reasoner(
    response: Response,
    *,
    models: Models,
    model: str = "judge",
    marker: str | None = None,
    no_answer: float = -0.5,
    penalty: float = 0.05,
    penalty_cap: int = 10,
    unit: Literal["words", "characters"] = "words",
    votes: int = 1,
    temperature: float | None = None,
    max_tokens: int = 512,
) -> Verdict:
    """1 - penalty min(penalty_cap, |len(reference) - len(answer)|) where a model finds that the final answer agrees
    with the reference, 0 where it does not, `no_answer` where there is none: General-Reasoner (arXiv 2505.14652), whose
    unit of length is not settled.

    The model sees question, reference and final answer, and none of the reasoning; equal answers are asked about once.

    Args:
        model: name in `reward.models`.
        marker: what marks the final answer (see `by_marker`); None takes the last box, ``####`` or "answer:".
        votes: verdicts that are asked for; more than half must say yes.
        temperature: of them; None is 0 for one verdict, else 0.7.

    Raises: ValueError where the response has no reference.
    """
    with refusing_options():
        check_votes(votes=votes, max_tokens=max_tokens)
    if response.reference is None:
        raise ValueError("the prompt has no reference; set data.answer_column")
    answer = stated_answer(response.text) if marker is None else by_marker(response.text, marker)
    if not answer or len(answer) > LONGEST_ANSWER:
        return Verdict(no_answer)
    reference = response.reference
    shown = instructed(
        TASK, quoted("question", response.question), quoted("reference", reference), quoted("answer", answer)
    )
    found, troubles = await asked(
        models[model],
        shown,
        yes_in,
        votes=votes,
        max_tokens=max_tokens,
        temperature=temperature,
        seed=seed_of(response.question, reference, answer),
    )
    if not majority(found):
        return Verdict(0.0, troubles=troubles)
    apart = abs(_length(reference, unit) - _length(answer, unit))
    return Verdict(1.0 - penalty * min(penalty_cap, apart), troubles=troubles)


def _length(text: str, unit: Literal["words", "characters"]) -> int:
    return len(text.split()) if unit == "words" else len(text)
