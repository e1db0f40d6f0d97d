"""Puzzles: generators and checkers against each other and against brute force."""

import random
from fractions import Fraction
from itertools import pairwise, permutations, product

import pytest
import reasoning_gym
from hypothesis import given
from hypothesis import strategies as st

import rewards.puzzles.tasks
from orchestrator.data.prompts import DataSettings
from orchestrator.data.task_prompts import TaskPrompts
from rewards.puzzles.arithmetic import countdown_reward, nearness, random_calculation_reward, random_expression
from rewards.puzzles.expression import LONGEST, NoExpressionError, value_of
from rewards.puzzles.graphs import QUESTIONS, jaccard, judge, random_graph, solution
from rewards.puzzles.sat import difficulty, random_instance, sat_reward, satisfies
from rewards.reasoning_gym_task import reasoning_gym_reward
from rewards.response import Json, Response


def said(text: str, reference: str | None = None, **metadata: Json) -> Response:
    return Response("s", "q", text, reference, metadata)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1 + 2 * 3", 7),
        ("(1 + 2) × 3", 9),
        ("10 ÷ 4", Fraction(5, 2)),
        ("-(2 - 5) − 1", 2),
        ("8 / 4 / 2", 1),
        ("0.1 + 0.2", Fraction(3, 10)),
        ("2 - -3", 5),
        ("[1+2]*3", 9),
    ],
)
def test_expressions_have_exact_values(text: str, value: Fraction | int) -> None:
    assert value_of(text)[0] == value


@pytest.mark.parametrize(
    "text",
    [
        "", "1 +", "1 2", "(1", "1)", "2**3", "2^3", "1/0", "1/(2-2)", "x", "__import__('os')", "1e9", "()",
        "(" * 5000 + "1" + ")" * 5000, "-" * 1000 + "1", "9" * (LONGEST + 1),
    ],
)  # fmt: skip
def test_what_is_no_expression(text: str) -> None:
    with pytest.raises(NoExpressionError):
        value_of(text)


@given(st.text("0123456789+-*/(). ", max_size=40))
def test_any_text_has_the_value_that_python_gives_it_or_none(text: str) -> None:
    try:
        value, _ = value_of(text)
    except NoExpressionError:
        return
    plain = " ".join(text.split())
    digits = "".join(c if c.isdigit() else " " for c in plain).split()
    if any(len(word) > 1 and word.startswith("0") for word in digits) or "//" in plain or "**" in plain:
        return  # Python reads these otherwise
    assert float(value) == pytest.approx(eval(plain), rel=1e-9, abs=1e-9)


@given(st.integers(0, 10_000), st.integers(1, 12), st.sampled_from(["+-*/", "+-", "*"]))
def test_a_random_expression_has_the_value_that_it_says(seed: int, steps: int, operators: str) -> None:
    text, value = random_expression(random.Random(seed), steps, -9, 9, operators)
    read, numbers = value_of(text)
    assert (read, len(numbers)) == (value, steps + 1)


def test_the_continuous_reward_falls_with_the_error() -> None:
    assert [random_calculation_reward(said(f"#### {a}", "10")) for a in ("10", "9.5", "20", "11")] == pytest.approx(
        [1.0, 0.725, 0.0, 0.45]
    )
    assert nearness("0", Fraction(0)) == 1.0
    assert nearness("0.5", Fraction(0)) == pytest.approx(0.25)
    assert nearness("-5/2", Fraction(-5, 2)) == 1.0
    assert nearness("1,000", Fraction(1000)) == 1.0
    for none in ("5 + 5", "2*5", "ten", "", "(10)", "1/0"):
        assert nearness(none, Fraction(10)) == 0.0
    with pytest.raises(ValueError, match="is no number"):
        random_calculation_reward(said("5", "five"))


COUNTDOWN: dict[str, Json] = {"numbers": [2, 3, 5, 5], "target": 20}


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ("(5 + 5) * (5 - 3)", 0.0),
        ("(3 - 2) * 5 * 5 - 5", 0.0),
        ("(2 + 3) * 5 - 5", 1.0),
        ("5 * (2 + 3) - 5 = 20", 1.0),
        ("5 * (2 + 3) + 5", 0.1),
        ("20", 0.0),
        ("4 * 5", 0.0),
        ("25 - 5", 0.0),
        ("", 0.0),
        ("5*(2+3)-5 or so", 0.0),
    ],
)
def test_countdown_wants_each_number_once(answer: str, value: float) -> None:
    assert countdown_reward(said(f"<answer>{answer}</answer>", **COUNTDOWN), well_formed=0.1) == value


def test_countdown_may_leave_numbers_out_and_needs_its_data() -> None:
    assert countdown_reward(said("<answer>5 * 5 - 3 - 2</answer>", **COUNTDOWN)) == 1.0
    spare = {**COUNTDOWN, "target": 25}
    assert countdown_reward(said("<answer>5 * 5</answer>", **spare)) == 0.0
    assert countdown_reward(said("<answer>5 * 5</answer>", **spare), use_all=False) == 1.0
    with pytest.raises(ValueError, match="'numbers'"):
        countdown_reward(said("<answer>5</answer>", target=5))
    entry = reasoning_gym.create_dataset("countdown", seed=3, size=1)[0]
    item: dict[str, Json] = {"task": "countdown", "entry": entry}
    found = entry["metadata"]["expression"]
    assert countdown_reward(said(f"<answer>{found}</answer>", **item)) == 1.0


@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(4, 6), st.integers(1, 25))
def test_an_instance_is_satisfied_by_what_was_planted(seed: int, width: int, variables: int, clauses: int) -> None:
    made, planted = random_instance(random.Random(seed), width, variables, clauses)
    assert len(made) == clauses
    assert all(len({abs(literal) for literal in clause}) == width for clause in made)
    assert satisfies(" ".join(map(str, planted)), made, variables)


def test_every_satisfying_assignment_counts_and_no_other() -> None:
    clauses, variables = random_instance(random.Random(4), 3, 5, 12)[0], 5
    accepted = 0
    for signs in product((1, -1), repeat=variables):
        literals = [sign * number for number, sign in enumerate(signs, start=1)]
        right = all(any(literal in literals for literal in clause) for clause in clauses)
        assert satisfies(" ".join(map(str, literals)), clauses, variables) == right
        accepted += right
    assert 0 < accepted < 32


@pytest.mark.parametrize("answer", ["", "1 2", "1 1 2", "1 -1 2", "1 2 3 4", "one 2 3", "1 2 4", "1 2 " + "9" * 30])
def test_what_is_no_assignment(answer: str) -> None:
    assert sat_reward(said(f"<answer>{answer}</answer>", clauses=[[1, 2, 3]], variables=3)) == 0.0


def test_the_difficulty_grows_along_a_ladder() -> None:
    ladder = [(3, 5, 5), (3, 5, 10), (3, 8, 20), (3, 12, 40)]
    assert [difficulty(*rung) for rung in ladder] == sorted(difficulty(*rung) for rung in ladder)
    assert difficulty(3, 8, 16) == pytest.approx(3 + 8 - 3 + 8 / 3)


def test_sets_overlap_by_jaccard() -> None:
    assert jaccard("ab", "bc") == pytest.approx(1 / 3)
    assert jaccard("", "") == 1.0
    assert jaccard("a", "") == 0.0


SQUARE = [(0, 1), (1, 3), (0, 2), (2, 3)]


@pytest.mark.parametrize(
    ("ask", "answer", "value"),
    [
        ("degree", "2", 1.0),
        ("degree", "It is 2", 1.0),
        ("degree", "2 or 3", 0.0),
        ("common_neighbours", "1, 2", 1.0),
        ("common_neighbours", "1", 0.5),
        ("common_neighbours", "none", 0.0),
        ("components", "2", 1.0),
        ("triangles", "0", 1.0),
        ("diameter", "2", 1.0),
        ("bipartite", "1", 1.0),
        ("bipartite", "0", 0.0),
        ("shortest_path", "0 1 3", 1.0),
        ("shortest_path", "0 -> 2 -> 3", 1.0),
        ("shortest_path", "0-2-3", 1.0),
        ("degree", "-2", 0.0),
        ("shortest_path", "[0, 2, 3]", 1.0),
        ("shortest_path", "0 3", 0.0),
        ("shortest_path", "none", 0.0),
        ("topological_order", "4 0 2 1 3", 1.0),
        ("topological_order", "0 1 2 3 4", 1.0),
        ("topological_order", "0 1 3 2 4", 0.0),
        ("topological_order", "0 1 2 3", 0.0),
        ("degree", "", 0.0),
        ("degree", "none", 0.0),
        ("degree", "2" * 100_000, 0.0),
    ],
)
def test_questions_about_a_square_and_a_lonely_node(ask: str, answer: str, value: float) -> None:
    assert judge(ask, answer, 5, SQUARE, (0, 3)) == value


@given(st.integers(0, 5000), st.sampled_from(sorted(QUESTIONS)))
def test_the_generators_solution_is_right(seed: int, ask: str) -> None:
    draw = random.Random(seed)
    nodes = draw.randint(2, 8)
    edges, about = random_graph(draw, nodes, 0.4), tuple(draw.sample(range(nodes), 2))
    assert judge(ask, solution(ask, nodes, edges, about), nodes, edges, about) == 1.0


def test_every_shortest_path_counts_and_no_other() -> None:
    edges = random_graph(random.Random(2), 6, 0.5)
    near = {(u, v) for u, v in edges} | {(v, u) for u, v in edges}
    paths = [
        path
        for size in range(7)
        for path in permutations(range(6), size)
        if path[:1] == (0,) and path[-1:] == (5,) and all(pair in near for pair in pairwise(path))
    ]
    shortest = min(map(len, paths))
    for path in paths:
        value = judge("shortest_path", " ".join(map(str, path)), 6, edges, (0, 5))
        assert value == float(len(path) == shortest)


@pytest.mark.parametrize("task", rewards.puzzles.tasks.OURS)
def test_a_task_of_ours_stands_beside_reasoning_gyms(task: str) -> None:
    made = reasoning_gym.create_dataset(task, seed=5, size=60)
    again = reasoning_gym.create_dataset(task, seed=5, size=10)
    assert [made[n] for n in range(10)] == [again[n] for n in range(10)]
    for number in range(60):
        entry = made[number]
        metadata: dict[str, Json] = {"task": task, "entry": entry}
        right = Response("s", entry["question"], f"#### {entry['answer']}", entry["answer"], metadata)
        assert reasoning_gym_reward(right) == 1.0
        assert reasoning_gym_reward(Response("s", "", "#### nonsense", None, metadata)) < 1.0


def test_a_recipe_may_name_them_as_tasks() -> None:
    settings = DataSettings.model_validate(
        {
            "tasks": [
                {"name": "saturn", "options": {"variables": 4, "clauses": 6}},
                {"name": "random_calculation", "options": {"max_steps": 3}},
                {"name": "g1_graph", "options": {"ask": ["degree"]}},
            ],
            "eval_size": 3,
        }
    )
    source = TaskPrompts(settings, seed=0)
    drawn = {str(source.next().metadata["task"]) for _ in range(30)}
    assert drawn == {"saturn", "random_calculation", "g1_graph"}
