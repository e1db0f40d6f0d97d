"""The built-in terms on answers of many forms, in this process."""

import itertools
import json

import pytest
import reasoning_gym
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards.format_term import format_reward
from rewards.math_answer import math_reward
from rewards.reasoning_gym_task import reasoning_gym_reward
from rewards.response import Response
from tests.gsm8k import gsm8k


def math(text: str, reference: str, *, truncated: bool = False) -> float:
    return math_reward(Response("s", "q", text, reference=reference, truncated=truncated))


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        (r"\boxed{72}", "72"),
        (r"First \boxed{70}, then \boxed{72}.", "72"),
        ("48+24=<<48+24=72>>72 clips.\n#### 72", "72"),
        ("#### 1,234", "1234"),
        ("#### 1234", "1,234"),
        ("#### $1,234.00", "1,234"),
        (r"\boxed{1{,}234}", "1,234"),
        (r"\boxed{\$1234}", "1,234"),
        ("#### 72.", "72"),
        ("#### 72 clips", "72"),
        ("Answer: 72", "72"),
        ("**Answer:** 72 clips\nHope that helps", "72"),
        ("The answer is 72.", "72"),
        ("final answer is: $\\frac{1}{2}$", "1/2"),
        ("So she sold 72 clips", "72"),
        ("So 70 + 2 = 72.", "72"),
        ("They cost $5 and then $72", "72"),
        ("72", "#### 72"),
        (r"\boxed{0.5}", r"\frac{1}{2}"),
        (r"\boxed{\frac12}", "0.5"),
        (r"\boxed{1/2}", "0.50"),
        (r"\boxed{-\frac{3}{4}}", "-0.75"),
        (r"\boxed{-5}", "-5"),
        (r"\boxed{+5}", "5"),
        (r"\boxed{2\sqrt{3}}", r"\sqrt{12}"),
        (r"\boxed{x^2 + 2x + 1}", "$(x+1)^2$"),
        (r"\boxed{\{2, 1\}}", r"$\{1, 2\}$"),
        (r"\boxed{(3, 4)}", r"\boxed{(3,4)}"),
        (r"\boxed{50\%}", r"50\%"),
        (r"\boxed{3 \frac{1}{2}}", "3.5"),
        (r"\boxed{10^{3}}", "1000"),
        (r"so it is $\frac{1}{2}$", "0.5"),
        (r"\boxed{\frac{\pi}{4}}", r"$\pi/4$"),
    ],
)
def test_right_answers_of_many_forms(text: str, reference: str) -> None:
    assert math(text, reference) == 1.0


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("", "72"),
        ("I do not know", "72"),
        (r"\boxed{}", "72"),
        (r"72 \boxed{73}", "72"),
        ("72\n#### 73", "72"),
        ("####", "72"),
        ("#### 72 million", "72"),
        ("#### 72 x", "72"),
        (r"\boxed{\frac{1}{0}}", "72"),
        ("#### 72/0", "72"),
        (r"\boxed{7.2}", "72"),
        (r"\boxed{-72}", "72"),
        (r"\boxed{1234}", "1,235"),
        (r"\boxed{x+2}", "$x+1$"),
        (r"\boxed{71, 72, 73}", "72"),
        (r"\boxed{71 \text{ or } 72}", "72"),
        ("#### " + "7" * 100_000, "7"),
        (r"\boxed{" + "(" * 500, "72"),
        ("answer: " + "\\frac" * 300, "72"),
        ("#### \x00\ud800", "72"),
    ],
)
def test_wrong_and_broken_answers(text: str, reference: str) -> None:
    assert math(text, reference) == 0.0


def test_an_answer_cut_off_is_not_guessed_at_but_a_marked_one_counts() -> None:
    assert math("first 72", "72") == 1.0
    assert math("first 72", "72", truncated=True) == 0.0
    assert math("#### 72", "72", truncated=True) == 1.0


def test_a_reference_that_is_no_mathematics_is_the_datas_fault() -> None:
    with pytest.raises(ValueError, match="not a mathematical expression"):
        math("#### 5 apples", "")


@given(st.integers(-(10**12), 10**12))
def test_any_integer_in_any_dress(value: int) -> None:
    dressed = (f"{value}", f"{value:,}", f"{value}.0", f"{value:,}.00")
    for given_as, reference in itertools.product(dressed, dressed):
        assert math(f"#### {given_as}", reference) == 1.0
        assert math(f"\\boxed{{{given_as}}}", reference) == 1.0
    assert math(f"#### {value + 1:,}", f"{value:,}") == 0.0


@settings(max_examples=40, deadline=None)
@given(st.integers(-999, 999), st.integers(1, 999))
def test_any_fraction_as_latex(above: int, below: int) -> None:
    sign = "-" if above < 0 else ""
    assert math(rf"\boxed{{{sign}\frac{{{abs(above)}}}{{{below}}}}}", f"{above}/{below}") == 1.0
    assert math(rf"\boxed{{{sign}\frac{{{abs(above)}}}{{{below}}}}}", f"{above + 1}/{below}") == 0.0


def test_every_published_gsm8k_solution_is_right_by_its_own_reference() -> None:
    rows = [json.loads(line) for line in gsm8k().read_text().splitlines()]
    assert len(rows) == 7473
    for row in rows:
        reference = row["answer"].rpartition("#### ")[2]
        assert math(row["answer"], reference) == 1.0
        assert math(rf"\boxed{{{reference}}}", row["answer"]) == 1.0
        assert math(f"#### {reference}1", reference) == 0.0


TASKS = ("chain_sum", "basic_arithmetic", "countdown", "mini_sudoku", "polynomial_equations", "base_conversion", "gcd")


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(
    ("marker", "dressed"),
    [
        ("####", "thinking #### 0\n#### {}"),
        (r"\boxed{}", r"so \boxed{{{}}}."),
        ("<answer></answer>", "hm <answer>0</answer> <answer>\n{}\n</answer> done"),
        ("####", "  {}\n"),
    ],
)
def test_the_oracles_answer_scores_full_marks(task: str, marker: str, dressed: str) -> None:
    entry = reasoning_gym.create_dataset(task, seed=11, size=3)[2]
    text = dressed.format(entry["answer"])
    response = Response("s", entry["question"], text, metadata={"task": task, "entry": entry})
    assert reasoning_gym_reward(response, marker=marker) == 1.0


def test_a_wrong_answer_to_a_task_scores_less() -> None:
    entry = reasoning_gym.create_dataset("chain_sum", seed=11, size=1)[0]
    metadata = {"task": "chain_sum", "entry": entry}
    assert reasoning_gym_reward(Response("s", "", "#### 123456789", metadata=metadata)) < 0.1
    assert reasoning_gym_reward(Response("s", "", "####", metadata=metadata)) == 0.0


def test_format_matches_the_whole_text_across_lines() -> None:
    pattern = r"<think>.*</think>\s*####.+"
    assert format_reward(Response("s", "", "\n<think>a\nb</think>\n#### 5\n"), pattern=pattern) == 1.0
    assert format_reward(Response("s", "", "<think>a\nb</think>"), pattern=pattern) == 0.0
    assert format_reward(Response("s", "", "oh <think></think> #### 5"), pattern=pattern) == 0.0
    with pytest.raises(ValueError, match="not a regular expression"):
        format_reward(Response("s", "", ""), pattern="(")
