"""Follows a plan: does each step apply, and does the goal hold in the end?

The semantics of VAL (Howey, Long and Fox, ICTAI 2004) for plans without time: a step applies where every precondition
holds; what it deletes goes before what it adds comes. Plans are untrusted: they are bounded, and only compared.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rewards.planning.pddl import EQUAL, Action, Atom, Domain, Literal, Problem

LONGEST = 100_000
"""Characters of a plan."""
MOST_STEPS = 5_000
_STEP = re.compile(r"\(([^()]*)\)")

Step = tuple[str, ...]
"""An action's name and its arguments."""


@dataclass(frozen=True, slots=True)
class Followed:
    """Attributes:
    applied: steps that could be taken, from the first.
    fault: why the next could not; None where all were.
    goals: share of the goal's facts that hold then, 0 to 1.
    """

    applied: int
    fault: str | None
    goals: float

    @property
    def valid(self) -> bool:
        """The plan can be carried out, and reaches the goal."""
        return self.fault is None and self.goals == 1.0


def steps_of(text: str) -> list[Step] | None:
    """Everything in parentheses is a step, whatever stands around it; None for a text that is too long to be a plan."""
    if len(text) > LONGEST:
        return None
    steps = [tuple(inside.lower().split()) for inside in _STEP.findall(text)]
    return steps if len(steps) <= MOST_STEPS else None


def follow(problem: Problem, steps: Sequence[Step]) -> Followed:
    state, fault = set(problem.start), None
    applied = 0
    for step in steps:
        fault = _refusal(problem, state, step)
        if fault is not None:
            break
        action = problem.domain.actions[step[0]]
        ground = [_ground(literal, action, step) for literal in action.effect]
        state -= {literal.atom for literal in ground if not literal.holds}
        state |= {literal.atom for literal in ground if literal.holds}
        applied += 1
    met = sum(_holds(literal, state) for literal in problem.goal)
    return Followed(applied, fault, met / len(problem.goal) if problem.goal else 1.0)


def _refusal(problem: Problem, state: set[Atom], step: Step) -> str | None:
    """Why this step cannot be taken; None where it can."""
    shown = f"({' '.join(step)})"
    action = problem.domain.actions.get(step[0]) if step else None
    if action is None:
        return f"{shown} is no action"
    if len(step) != len(action.parameters) + 1:
        return f"{shown} has {len(step) - 1} arguments, {action.name} takes {len(action.parameters)}"
    for argument, wanted in zip(step[1:], action.parameters.values(), strict=True):
        if argument not in problem.objects:
            return f"{shown}: there is no {argument}"
        if not _is_one(problem.domain, problem.objects[argument], wanted):
            return f"{shown}: {argument} is no {' or '.join(sorted(wanted))}"
    for literal in action.precondition:
        ground = _ground(literal, action, step)
        if not _holds(ground, state):
            return f"{shown}: ({' '.join(ground.atom)}) {'does not hold' if ground.holds else 'holds'}"
    return None


def _is_one(domain: Domain, kinds: frozenset[str], wanted: frozenset[str]) -> bool:
    """Whether something of one of these types is one of those wanted, itself or by a type above."""
    above = {kind: domain.above.get(kind, frozenset({kind})) for kind in kinds}
    return all(above[kind] & wanted for kind in kinds)


def _ground(literal: Literal, action: Action, step: Step) -> Literal:
    """With the step's arguments in the place of the action's parameters."""
    value: Mapping[str, str] = dict(zip(action.parameters, step[1:], strict=True))
    return Literal((literal.atom[0], *(value.get(name, name) for name in literal.atom[1:])), literal.holds)


def _holds(literal: Literal, state: set[Atom]) -> bool:
    name, *arguments = literal.atom
    true = arguments[0] == arguments[1] if name == EQUAL else literal.atom in state
    return true == literal.holds
