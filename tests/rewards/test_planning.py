"""The `pddl_plan` term: over a corpus with known verdicts, against a search of its own, and on what cannot be read.

corpus/plans.jsonl holds answers to the two problems in corpus/pddl/, each with the verdict that a person gives.
"""

import json
import random
from collections import deque
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards.planning.lists import DEEPEST, LONGEST, PddlError, read
from rewards.planning.pddl import Problem, read_domain, read_problem
from rewards.planning.plan import MOST_STEPS, Step, follow, steps_of
from rewards.planning.plan_term import pddl_plan_reward
from rewards.registry import RefusedOptionError
from rewards.response import Json, Response

CORPUS = Path(__file__).parent / "corpus"
ROWS = [json.loads(line) for line in (CORPUS / "plans.jsonl").read_text().splitlines()]


def texts(world: str) -> tuple[str, str]:
    domain, problem = (CORPUS / "pddl" / f"{world}-{part}.pddl" for part in ("domain", "problem"))
    return domain.read_text(), problem.read_text()


def problem_of(world: str) -> Problem:
    domain, problem = texts(world)
    return read_problem(problem, read_domain(domain))


def answered(text: str, world: str = "tower", **changed: str) -> Response:
    domain, problem = texts(world)
    metadata: dict[str, Json] = {"domain": domain, "problem": problem, **changed}
    return Response("s", "q", text, metadata=metadata)


@pytest.mark.parametrize("row", ROWS, ids=[f"{row['world']}: {row['kind']}" for row in ROWS])
def test_the_corpus(row: dict[str, str]) -> None:
    assert pddl_plan_reward(answered(row["response"], row["world"])) == float(row["right"])


def test_why_a_step_cannot_be_taken_is_said() -> None:
    tower, parcels = problem_of("tower"), problem_of("parcels")

    def fault(problem: Problem, plan: str) -> str | None:
        steps = steps_of(plan)
        assert steps is not None
        return follow(problem, steps).fault

    assert fault(tower, "(lift red)") == "(lift red): (free red) does not hold"
    assert fault(tower, "(lift green)") == "(lift green): (on-ground green) does not hold"
    assert fault(tower, "(lift red blue)") == "(lift red blue) has 2 arguments, lift takes 1"
    assert fault(tower, "(cheer)") == "(cheer) is no action"
    assert fault(tower, "()") == "() is no action"
    assert fault(tower, "(lift pink)") == "(lift pink): there is no pink"
    assert fault(parcels, "(load truck truck depot)") == "(load truck truck depot): truck is no parcel"
    thrown = "(load vase truck depot)(throw vase truck depot)"
    assert fault(parcels, thrown) == "(throw vase truck depot): (fragile vase) holds"
    assert fault(parcels, "(drive truck depot depot)") == "(drive truck depot depot): (= depot depot) holds"


def test_part_of_the_goal_pays_only_where_it_is_asked_for_and_the_plan_can_be_carried_out() -> None:
    half = answered("(take green red)(place green blue)")
    assert pddl_plan_reward(half) == 0.0
    assert pddl_plan_reward(half, partial=0.5) == 0.25
    assert pddl_plan_reward(answered("(take green red)(place green blue)(cheer)"), partial=0.5) == 0.0
    assert pddl_plan_reward(answered(""), partial=0.5) == 0.0, "doing nothing is no plan"
    with pytest.raises(RefusedOptionError, match="partial=1"):
        pddl_plan_reward(half, partial=1.0)


def applicable(problem: Problem, state: frozenset[tuple[str, ...]]) -> list[tuple[Step, frozenset[tuple[str, ...]]]]:
    """Every step that may be taken, with what follows: written from the definition, without `follow`."""

    def fit(wanted: frozenset[str]) -> list[str]:
        above = problem.domain.above
        return [name for name, has in problem.objects.items() if all(above.get(kind, {kind}) & wanted for kind in has)]

    found = []
    for action in problem.domain.actions.values():
        for chosen in product(*map(fit, action.parameters.values())):
            value = dict(zip(action.parameters, chosen, strict=True))
            needs = [(tuple(value.get(word, word) for word in one.atom), one.holds) for one in action.precondition]
            met = all(((atom[1] == atom[2]) if atom[0] == "=" else atom in state) == holds for atom, holds in needs)
            if met:
                does = [(tuple(value.get(word, word) for word in one.atom), one.holds) for one in action.effect]
                gone, come = {a for a, holds in does if not holds}, {a for a, holds in does if holds}
                found.append(((action.name, *chosen), frozenset((state - gone) | come)))
    return found


def shortest(problem: Problem) -> list[Step]:
    """By breadth first search."""
    seen, queue = {problem.start}, deque([(problem.start, ())])
    while queue:
        state, path = queue.popleft()
        if all((goal.atom in state) == goal.holds for goal in problem.goal):
            return list(path)
        for step, after in applicable(problem, state):
            if after not in seen:
                seen.add(after)
                queue.append((after, (*path, step)))
    raise AssertionError("no plan")


@pytest.mark.parametrize(("world", "length"), [("tower", 4), ("parcels", 4)])
def test_a_search_finds_plans_that_are_right_and_without_any_step_they_are_wrong(world: str, length: int) -> None:
    problem = problem_of(world)
    plan = shortest(problem)
    assert len(plan) == length
    assert follow(problem, plan).valid
    for left_out in range(len(plan)):
        assert not follow(problem, [step for place, step in enumerate(plan) if place != left_out]).valid


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10_000), st.integers(1, 15), st.sampled_from(["tower", "parcels"]))
def test_a_random_walk_can_be_carried_out_and_ends_where_the_definition_says(seed: int, steps: int, world: str) -> None:
    problem, draw = problem_of(world), random.Random(seed)
    state, walk = problem.start, []
    for _ in range(steps):
        step, state = draw.choice(applicable(problem, state))
        walk.append(step)
    followed = follow(problem, walk)
    met = [(goal.atom in state) == goal.holds for goal in problem.goal]
    assert (followed.applied, followed.fault, followed.goals) == (steps, None, sum(met) / len(met))
    possible = {step for step, _ in applicable(problem, state)}
    wrong = draw.choice([("lift", "pink"), *[(name,) for name in problem.domain.actions]])
    assert wrong not in possible
    assert follow(problem, [*walk, wrong]).applied == steps


@pytest.mark.parametrize(
    ("part", "old", "new", "says"),
    [
        ("domain", ":requirements :strips", ":requirements :strips :fluents", "requires :fluents"),
        ("domain", "(free ?x) (held", "(loose ?x) (held", "free is no predicate"),
        (
            "domain",
            "(stands-on ?x ?y) (free ?x) (arm-free) (not",
            "(stands-on ?x) (free ?x) (arm-free) (not",
            "takes 2",
        ),
        ("domain", ":precondition (held ?x)", ":precondition (held ?z)", r"nobody declares \?z"),
        ("domain", ":precondition (held ?x)", ":duration 3", "has :duration"),
        ("domain", ":precondition (held ?x)", ":precondition (forall (?y) (held ?y))", "no list of words"),
        ("domain", "(define (domain tower)", "(define (domian tower)", r"no \(define \(domain NAME\)"),
        ("domain", ":parameters (?x ?y)", ":parameters (?x ?y -)", "a type is missing"),
        ("problem", "(:domain tower)", "(:domain castle)", "of domain castle, not tower"),
        ("problem", "(free blue)", "(free pink)", "nobody declares pink"),
        ("problem", "(:goal", "(:wish", "one goal"),
        ("problem", "(arm-free))", "(arm-free)", "never closed"),
        ("problem", "(define", "define", "begins with a parenthesis"),
    ],
)
def test_data_that_cannot_be_read_are_one_line(part: str, old: str, new: str, says: str) -> None:
    domain, problem = texts("tower")
    text = {"domain": domain, "problem": problem}[part]
    assert old in text
    with pytest.raises(PddlError, match=says) as error:
        pddl_plan_reward(answered("(lift red)", **{part: text.replace(old, new)}))
    assert "\n" not in str(error.value)


def test_data_without_pddl_and_without_bounds() -> None:
    with pytest.raises(ValueError, match="no PDDL in the columns domain and puzzle"):
        pddl_plan_reward(answered("(lift red)"), problem="puzzle")
    with pytest.raises(PddlError, match="deeper"):
        read("(" * (DEEPEST + 2))
    with pytest.raises(PddlError, match="more than"):
        read("(" + " " * LONGEST)
    with pytest.raises(PddlError, match="more after"):
        read("(a) (b)")


def test_a_plan_without_an_end_is_no_plan() -> None:
    assert steps_of("(lift red)" * (MOST_STEPS + 1)) is None
    assert pddl_plan_reward(answered("(lift red)\n" * 100_000)) == 0.0
