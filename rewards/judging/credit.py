"""The `capo_credit` term: critiques name wrong steps, and their tokens get less than the answer does."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Literal

from rewards.judging.seeds import seed_of
from rewards.judging.votes import asked, check_votes, instructed
from rewards.models.asking import Models
from rewards.models.quoting import quoted
from rewards.models.verdicts import steps_in
from rewards.registry import Example, refusing_options, term
from rewards.response import Response, SpanReward
from rewards.verdict import Verdict

MOST_STEPS = 200
"""Steps that a critique is shown; those of a longer answer after them are one more."""
TASK = (
    "You check a solution step by step. It is quoted as numbered steps. A step is wrong if what it states is false or "
    "does not follow; a step that only builds on a wrong one is not. End with a line `Wrong steps: 2, 3` with their "
    "numbers, or `Wrong steps: none`."
)
_STEP = re.compile(r"\S(?:[^\n]|\n(?![^\S\n]*\n))*")
"""A paragraph: from its first character to the next blank line."""
_EXAMPLE = Response("example", "2 * 3 + 1?", "2 * 3 = 5\n\n5 + 1 = 6")


@term("capo_credit", example=Example(_EXAMPLE, 0.0, replies=("Wrong steps: 1",) * 4), confined=False, fallback=0.0)
async def capo_credit(
    response: Response,
    *,
    models: Models,
    model: str = "judge",
    critiques: int = 4,
    vote: Literal["majority", "intersection"] = "majority",
    process: float = 1.0,
    temperature: float | None = None,
    max_tokens: int = 1024,
) -> Verdict:
    """0 for the answer, and -process for each token of its wrong steps: beside a correctness term of weight 2 the token
    rewards of CAPO (arXiv 2508.02298), W_outcome 1[right] - W_process 1[token in a wrong step]. Steps are paragraphs;
    several critiques name the wrong ones, and those count that more than half of them name, or all.

    Without a usable critique there is no penalty, and that is counted.

    Args:
        model: name in `reward.models`.
        critiques: asked for at a time.
        vote: which steps are wrong: those of more than half of the critiques, or those that all of them name.
        process: W_process, below W_outcome.
        temperature: of the critiques; None is 0 for one, else 0.7.
    """
    with refusing_options():
        check_votes(critiques=critiques, max_tokens=max_tokens)
    steps = steps_of(response.text)
    if not steps:
        return Verdict(0.0)
    numbered = "\n\n".join(f"[{number}] {response.text[a:b]}" for number, (a, b) in enumerate(steps, start=1))
    found, troubles = await asked(
        models[model],
        instructed(TASK, quoted("question", response.question), quoted("solution", numbered)),
        lambda text: steps_in(text, len(steps)),
        votes=critiques,
        max_tokens=max_tokens,
        temperature=temperature,
        seed=seed_of(response.question, response.text),
    )
    wrong = voted(found, vote)
    spans = tuple(SpanReward(*steps[number - 1], -process) for number in sorted(wrong))
    return Verdict(0.0, spans=spans, troubles=troubles)


def steps_of(text: str) -> list[tuple[int, int]]:
    """First character and end of each paragraph, without the white space around it."""
    found = [(match.start(), match.start() + len(match.group().rstrip())) for match in _STEP.finditer(text)]
    if len(found) <= MOST_STEPS:
        return found
    return [*found[:MOST_STEPS], (found[MOST_STEPS][0], found[-1][1])]


def voted(critiques: Sequence[frozenset[int]], vote: Literal["majority", "intersection"]) -> frozenset[int]:
    """The steps that count as wrong. One critique is its own vote."""
    named = Counter(step for critique in critiques for step in critique)
    needed = len(critiques) if vote == "intersection" else len(critiques) // 2 + 1
    return frozenset(step for step, times in named.items() if times >= needed)
