"""The `saturn` term and its generator: Boolean satisfiability with knobs (SATURN, arXiv 2505.16368).

A clause is a list of literals: 3 means that variable 3 is true, -3 that it is false. An assignment is written in the
same way, one literal for each variable.
"""

import math
import random
import re
from collections.abc import Sequence

from rewards.extraction import by_marker
from rewards.puzzles.facts import facts_of
from rewards.registry import Example, RefusedOptionError, term
from rewards.response import Json, Response

Clauses = Sequence[Sequence[int]]
_LITERAL = re.compile(r"-?\d+")
_INSTANCE: dict[str, Json] = {"clauses": [[1, 2], [-1, 3]], "variables": 3}


@term("saturn", example=Example(Response("e", "", "<answer>1 -2 3</answer>", metadata=_INSTANCE), 1.0))
def sat_reward(response: Response, *, marker: str = "<answer></answer>") -> float:
    """1.0 where the answer assigns each variable once and makes every clause true, 0.0 otherwise: any such assignment.

    The answer is one literal for each variable, as ``1 -2 3``.

    Raises: ValueError where the data lack ``clauses`` or ``variables``.
    """
    facts = facts_of(response)
    clauses, variables = clauses_of(facts.get("clauses")), facts.get("variables")
    if type(variables) is not int:
        raise ValueError("the data have no column 'variables' with their number")
    marked = by_marker(response.text, marker)
    return float(satisfies(response.text if marked is None else marked, clauses, variables))


def satisfies(answer: str, clauses: Clauses, variables: int) -> bool:
    """Whether the text is an assignment of all variables, and a satisfying one."""
    words = answer.replace(",", " ").split()
    if len(words) != variables or not all(_LITERAL.fullmatch(word) and len(word) < 10 for word in words):
        return False
    literals = {int(word) for word in words}
    if {abs(literal) for literal in literals} != set(range(1, variables + 1)):
        return False
    return all(any(literal in literals for literal in clause) for clause in clauses)


def difficulty(width: int, variables: int, clauses: int) -> float:
    """D = log2 k + 2 log2 l - n + k / n for l clauses of n literals over k variables (SATURN's estimate)."""
    return math.log2(variables) + 2 * math.log2(clauses) - width + variables / width


def random_instance(draw: random.Random, width: int, variables: int, clauses: int) -> tuple[list[list[int]], list[int]]:
    """Clauses of `width` different variables each, and an assignment that satisfies all of them.

    The assignment is drawn first, and each clause is drawn evenly from those that it makes true.
    """
    if not 1 <= width <= variables or clauses < 1:
        raise RefusedOptionError(f"width={width} must be in [1, variables={variables}], and clauses={clauses} above 0")
    planted = [number if draw.random() < 0.5 else -number for number in range(1, variables + 1)]
    made: list[list[int]] = []
    while len(made) < clauses:
        chosen = sorted(draw.sample(range(1, variables + 1), width))
        clause = [number if draw.random() < 0.5 else -number for number in chosen]
        if any(literal in planted for literal in clause):
            made.append(clause)
    return made, planted


def clauses_of(found: Json) -> list[list[int]]:
    if isinstance(found, list) and all(isinstance(clause, list) for clause in found):
        return [[int(str(literal)) for literal in clause] for clause in found if isinstance(clause, list)]
    raise ValueError("the data have no column 'clauses' with lists of literals")
