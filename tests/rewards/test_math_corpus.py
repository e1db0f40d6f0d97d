"""The `math` term over a corpus with known verdicts: what it gets wrong is written down here, and nothing else is.

Each row of corpus/math.jsonl is an answer in one of many dresses with the verdict that a person gives. The rows of the
kind `huge` ask for numbers with a billion digits and the like: only a child process may be asked about those.
"""

import json
import random
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards.child_pool import ChildPool
from rewards.math_answer import math_reward
from rewards.math_notation import repeating_decimal, rewritten, scale_words
from rewards.response import Response
from rewards.settings import RewardSettings
from tests.gsm8k import gsm8k

ROWS = [json.loads(line) for line in (Path(__file__).parent / "corpus" / "math.jsonl").read_text().splitlines()]
HUGE = [row for row in ROWS if row["kind"] == "huge"]
FALSE_POSITIVES = {
    (r"(3, -4)", r"\boxed{[3,-4]}"),
    ("72", "Q: 72 clips in April? A: unknown"),
}
FALSE_NEGATIVES = {
    ("6.02e23", r"\boxed{602 \times 10^{21}}"),
    (r"\ln 2", r"\boxed{\log_e 2}"),
    ("72", "<answer>She sold 72 clips in all</answer>"),
}
DRESSES = (
    "#### {}",
    "The answer is {}.",
    r"\boxed{{{}}}",
    "<answer>{}</answer>",
    "**Answer:** ${}",
    r"Therefore it is \$\boxed{{{}}} in all.",
)


def verdict(row: dict[str, str]) -> bool:
    return math_reward(Response("s", "q", row["response"], row["answer"])) == 1.0


def test_what_is_wrong_is_known() -> None:
    found = [(row, verdict(row)) for row in ROWS if row["kind"] != "huge"]
    assert len(found) > 250
    wrong = {True: FALSE_POSITIVES, False: FALSE_NEGATIVES}
    for said, known in wrong.items():
        assert {(r["answer"], r["response"]) for r, got in found if got == said and r["right"] != said} == known


@pytest.mark.parametrize("dress", DRESSES)
def test_worked_solutions_of_people_are_right_for_their_own_problem_alone(dress: str) -> None:
    """7,473 of them; the work before the answer is full of other numbers."""
    solutions = [json.loads(line)["answer"].split("####") for line in gsm8k().read_text(encoding="utf-8").splitlines()]
    numbers = [number.strip() for _, number in solutions]
    values = [Fraction(number.replace(",", "")) for number in numbers]
    for place, (work, _) in enumerate(solutions):
        text = work + dress.format(numbers[place])
        assert math_reward(Response("s", "q", text, numbers[place])) == 1.0, text
        if values[place - 1] != values[place]:
            assert math_reward(Response("s", "q", text, numbers[place - 1])) == 0.0, text


@pytest.mark.slow
def test_no_huge_answer_is_right_or_costs_more_than_its_deadline() -> None:
    terms = {"terms": ["math"], "deadline_s": 1.0, "workers": 2, "fallback": -1.0}
    with ChildPool(RewardSettings.model_validate(terms)) as pool:
        pool.warm_up()
        scores = pool.score([Response("s", "q", row["response"], row["answer"]) for row in HUGE])
    assert all(score.total in (0.0, -1.0) for score in scores)
    assert {score.failure.kind for score in scores if score.failure is not None} <= {"timeout", "memory", "raised"}
    assert all(score.seconds < 3.0 for score in scores)


PIECES = (
    *"0123456789+-*/=<>(){}[]|,.!?$%&_ xyzeπ∞∪²\n",
    r"\frac", r"\sqrt", r"\boxed{", r"\text{", r"\left(", r"\right)", r"\cup", r"\in", r"\pi", r"\begin{pmatrix}",
    r"\end{pmatrix}", r"\\", r"\{", r"\}", r"\overline{", r"\times", r"\infty", r"\log", "####", "answer is", "e10",
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=14).map("".join), st.sampled_from(["72", r"\frac{1}{2}", "(1, 2)"]))
def test_any_answer_without_powers_gets_a_verdict(text: str, reference: str) -> None:
    for dressed in (text, rf"\boxed{{{text}}}"):
        assert math_reward(Response("s", "q", dressed, reference)) in (0.0, 1.0)


@pytest.mark.slow
def test_any_answer_with_powers_gets_a_verdict_or_runs_into_its_deadline() -> None:
    draw = random.Random(7)
    texts = ["".join(draw.choices((*PIECES, "^", "^{", "9", "!"), k=draw.randint(1, 20))) for _ in range(150)]
    terms = {"terms": ["math"], "deadline_s": 2.0, "workers": 2}
    with ChildPool(RewardSettings.model_validate(terms)) as pool:
        pool.warm_up()
        scores = pool.score([Response("s", "q", rf"\boxed{{{text}}}", "72") for text in texts])
    assert {score.failure.kind for score in scores if score.failure is not None} <= {"timeout", "memory"}
    assert sum(score.failure is None for score in scores) > 120


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (r"0.\overline{3}", Fraction(1, 3)),
        (r"-1.1\overline{6}", Fraction(-7, 6)),
        (r"0.\overline{142857}", Fraction(1, 7)),
        (r"2.\overline{9}", Fraction(3)),
        ("0.3", None),
        (r"\overline{AB}", None),
    ],
)
def test_repeating_decimals_have_exact_values(text: str, value: Fraction | None) -> None:
    assert repeating_decimal(text) == value


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("−5", "-5"),
        ("７２", "72"),
        ("7\u200b2", "72"),
        ("7²", "7²"),
        ("1.5e-3", r"1.5 \times 10^{-3}"),
        ("1e1000", "1e1000"),
        ("2e", "2e"),
        ("x2e5", "x2e5"),
        (r"0.\overline{6}", "2/3"),
    ],
)
def test_one_way_of_writing(text: str, plain: str) -> None:
    assert rewritten(text) == plain
    assert scale_words("3 Millions and a dozen") == ("million", "dozen")
