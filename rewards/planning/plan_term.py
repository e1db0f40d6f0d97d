"""The `pddl_plan` term: is the answer a plan that can be carried out and reaches the goal?"""

import functools

from rewards.extraction import by_marker
from rewards.planning.pddl import Problem, read_domain, read_problem
from rewards.planning.plan import follow, steps_of
from rewards.registry import Example, RefusedOptionError, term
from rewards.response import Json, Response

_DOMAIN = """(define (domain shop) (:requirements :strips :typing)
  (:types place) (:predicates (at ?p - place) (road ?from ?to - place))
  (:action go :parameters (?from ?to - place)
    :precondition (and (at ?from) (road ?from ?to)) :effect (and (at ?to) (not (at ?from)))))"""
_PROBLEM = """(define (problem p) (:domain shop) (:objects home street shop - place)
  (:init (at home) (road home street) (road street shop)) (:goal (at shop)))"""
_TASK: dict[str, Json] = {"domain": _DOMAIN, "problem": _PROBLEM}


@term("pddl_plan", example=Example(Response("e", "", "(go home street)\n(go street shop)", metadata=_TASK), 1.0))
def pddl_plan_reward(
    response: Response,
    *,
    marker: str = "<plan></plan>",
    partial: float = 0.0,
    domain: str = "domain",
    problem: str = "problem",
) -> float:
    """1.0 for a plan whose steps all apply and whose last state holds the goal, as VAL judges (Howey, Long and Fox,
    ICTAI 2004); `partial` times the share of the goal's facts that hold for one that can be carried out and does not
    reach it; else 0.0. Steps are `(action argument ...)`, inside `marker` where the answer has it.

    Raises: ValueError where the columns `domain` and `problem` hold no PDDL that is supported (STRIPS, types, negative
    preconditions, equality), and where `partial` is not below 1.
    """
    if not 0.0 <= partial < 1.0:
        raise RefusedOptionError(f"partial={partial:g} must be 0 or more and below 1, what a valid plan gets")
    texts = [response.metadata.get(column) for column in (domain, problem)]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(f"the data have no PDDL in the columns {domain} and {problem}")
    asked = _read(*map(str, texts))
    marked = by_marker(response.text, marker)
    steps = steps_of(response.text if marked is None else marked)
    if not steps:
        return 0.0
    followed = follow(asked, steps)
    if followed.valid:
        return 1.0
    return partial * followed.goals if followed.fault is None else 0.0


@functools.lru_cache(maxsize=64)
def _read(domain: str, problem: str) -> Problem:
    """A group's answers share a problem, and a data set's problems often a domain."""
    return read_problem(problem, read_domain(domain))
