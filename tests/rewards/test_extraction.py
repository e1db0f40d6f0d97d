import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.extraction import (
    after_answer_word,
    after_last,
    by_marker,
    inside_last_tag,
    last_boxed,
    last_line,
    stated_answer,
)


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"so \boxed{5}", "5"),
        (r"\boxed{4} no, \boxed{ 5 }.", "5"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\text{a\}b}}", r"\text{a\}b}"),
        (r"\boxed {7} and \boxed{8", "7"),
        (r"\boxed{\boxed{3}}", "3"),
        (r"\fbox{9}", "9"),
        (r"\boxed{}", ""),
        (r"\boxed{", None),
        ("boxed{5}", None),
        ("", None),
    ],
)
def test_last_boxed(text: str, content: str | None) -> None:
    assert last_boxed(text) == content


@given(st.text(), st.recursive(st.text("ab1 "), lambda inner: inner.map(lambda text: "{" + text + "}"), max_leaves=6))
def test_a_closed_box_behind_any_text_gives_its_content(noise: str, content: str) -> None:
    assert last_boxed(f"{noise} \\boxed{{{content}}} {noise.replace(chr(92), '')}") == content.strip()


@given(st.text("\\boxed{}<answr>/#: \n1", max_size=200), st.sampled_from([r"\boxed{}", "<answer></answer>", "####"]))
def test_any_text_gives_an_answer_or_none(text: str, marker: str) -> None:
    found = by_marker(text, marker)
    assert found is None or (found in text and found == found.strip())


def test_a_thousand_open_boxes_cost_little() -> None:
    started = time.perf_counter()
    assert last_boxed(r"\boxed{" * 200_000) is None
    assert time.perf_counter() - started < 2.0


def test_tags_markers_and_words() -> None:
    assert inside_last_tag("<answer>1</answer><answer> 2\n3 </answer> tail", "<answer>", "</answer>") == "2\n3"
    assert inside_last_tag("</answer> <answer>", "<answer>", "</answer>") is None
    assert by_marker("<answer>no <b>", "<answer></answer>") is None
    assert by_marker("Result: a\nResult: b\nc", "Result:") == "b\nc"
    assert after_last("no mark", "####") is None
    assert after_answer_word("The answer is: 4.\n**Answer:** \n 5 apples\nbye") == "5 apples"
    assert after_answer_word("answers vary") is None
    assert last_line("a\n b \n\n") == "b"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"<answer>1</answer> #### 2 and \boxed{3}", "3"),
        ("<answer>1</answer> #### 2\n3", "2"),
        ("<think>the answer is 0</think><answer> 1 </answer>", "1"),
        ("<answer>So the answer is: 1</answer>", "1"),
        ("<answer>1", None),
        ("the answer is 1\n####", "1"),
        ("1", None),
    ],
)
def test_the_surest_mark_states_the_answer(text: str, answer: str | None) -> None:
    assert stated_answer(text) == answer
