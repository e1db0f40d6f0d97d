"""The `fare` term: one evaluator that rates answers, or compares those of a group with each other."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from rewards.group import Group
from rewards.judging.seeds import seed_of
from rewards.judging.votes import check_votes, instructed
from rewards.models.asking import Model, ModelFailed, ModelFailureKind, Models
from rewards.models.quoting import quoted
from rewards.models.verdicts import letter_in, score_in
from rewards.registry import Example, group_term, refusing_options
from rewards.response import Response
from rewards.verdict import Verdict

RATING = (
    "You rate an answer to a question for correctness and quality. Reason briefly, then end with a line `Score: N`, a "
    "number from 1 (wrong or useless) to 5 (right and complete)."
)
PAIRWISE = (
    "You compare two answers to a question. Their order means nothing, and neither does their length. Reason briefly, "
    "then end with a line `Verdict: A`, `Verdict: B`, or `Verdict: C` if neither is better."
)
LOW, HIGH = 1, 5
_LETTERS = "ABC"
_BOTH = (Response("e/0", "2 + 2?", "4"), Response("e/1", "2 + 2?", "5"))


@dataclass(frozen=True, slots=True)
class _Match:
    """What came of comparing two answers, by number: the share of `one`, and None where nobody knows."""

    one: int
    other: int
    share: float | None
    trouble: ModelFailureKind | None = None


@group_term(
    "fare",
    example=Example(
        Group(_BOTH, ({}, {})), (1.0, 0.0), {"mode": "pairwise"}, replies=("Verdict: A", "4 it is.\nVerdict: B")
    ),
)
async def fare(
    group: Group,
    *,
    models: Models,
    model: str = "judge",
    mode: Literal["rating", "pairwise"] = "rating",
    reference: bool = False,
    opponents: int = 0,
    max_tokens: int = 512,
) -> list[Verdict | ModelFailed]:
    """`rating`: what the model gives each answer, from 1 to 5, as a share of the way. `pairwise`: the mean over an
    answer's opponents of 1 for a win, 0.5 for a draw and 0 for a loss; each pair is shown in both orders, and who wins
    in one of them alone has drawn. In the manner of FARE's evaluators, with or without the reference.

    Args:
        model: name in `reward.models`.
        opponents: in a `pairwise` group each answer meets so many that follow it in sample order; 0 is everybody.
    """
    with refusing_options():
        check_votes(max_tokens=max_tokens)
        if opponents < 0:
            raise ValueError(f"opponents={opponents} must be at least 0")
    judge = _Evaluator(models[model], reference, max_tokens)
    if mode == "rating":
        return list(await asyncio.gather(*[judge.rating(response) for response in group.responses]))
    pairs = _pairs(len(group.responses), opponents)
    matches = await asyncio.gather(*[judge.match(group.responses, *pair) for pair in pairs])
    return [_standing(number, matches) for number in range(len(group.responses))]


@dataclass(frozen=True, slots=True)
class _Evaluator:
    model: Model
    reference: bool
    max_tokens: int

    async def rating(self, response: Response) -> Verdict | ModelFailed:
        try:
            return Verdict(score_in(await self._said(RATING, response, quoted("answer", response.text)), LOW, HIGH))
        except ModelFailed as failure:
            return failure

    async def match(self, answers: Sequence[Response], one: int, other: int) -> _Match:
        first, second = answers[one], answers[other]
        if first.text == second.text:
            return _Match(one, other, 0.5)
        try:
            points = await self._prefers(first, second), 1 - await self._prefers(second, first)
        except ModelFailed as trouble:
            return _Match(one, other, None, trouble.kind)
        return _Match(one, other, points[0] if points[0] == points[1] else 0.5)

    async def _prefers(self, first: Response, second: Response) -> float:
        """1 where the model prefers the first, 0 the second, 0.5 neither."""
        parts = (quoted("answer A", first.text), quoted("answer B", second.text))
        letter = letter_in(await self._said(PAIRWISE, first, *parts), _LETTERS)
        return {"A": 1.0, "B": 0.0, "C": 0.5}[letter]

    async def _said(self, task: str, response: Response, *parts: str) -> str:
        shown = [quoted("question", response.question)]
        if self.reference and response.reference is not None:
            shown.append(quoted("reference", response.reference))
        (said, *_) = await self.model.generate(
            instructed(task, *shown, *parts), max_tokens=self.max_tokens, seed=seed_of(response.question, *parts)
        )
        return said


def _pairs(answers: int, opponents: int) -> list[tuple[int, int]]:
    """Who meets whom, each pair once: everybody, or the next ones around the circle."""
    furthest = min(opponents or answers, answers - 1)
    met = {tuple(sorted((one, (one + step) % answers))) for one in range(answers) for step in range(1, furthest + 1)}
    return sorted((low, high) for low, high in met)


def _standing(number: int, matches: Sequence[_Match]) -> Verdict | ModelFailed:
    own = [match for match in matches if number in (match.one, match.other)]
    known = [(match, match.share) for match in own if match.share is not None]
    troubles = tuple(match.trouble for match in own if match.trouble is not None)
    if own and not known:
        return ModelFailed(troubles[0], "no match of this answer was judged")
    shares = [share if match.one == number else 1 - share for match, share in known]
    return Verdict(fmean(shares) if shares else 0.5, troubles=troubles)
