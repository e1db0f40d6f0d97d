"""Terms that match an answer with what the data say, against hand-worked values."""

import math
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.format_term import one_box_reward, tags_reward
from rewards.group import Group
from rewards.matching.choice import multiple_choice_reward
from rewards.matching.confidence import rlcr_reward
from rewards.matching.patch import patch_reward
from rewards.matching.ranking import (
    listed,
    ndcg,
    ndcg_reward,
    rank_biased_overlap,
    rank_r1_reward,
    reasonrank_reward,
    recall,
)
from rewards.matching.repetition import repeated_share, repetition_reward
from rewards.matching.text import exact_reward, phrase_reward, regex_reward
from rewards.registry import RefusedOptionError
from rewards.response import Json, Response


def said(text: str, reference: str | None = None, **metadata: Json) -> Response:
    return Response("s", "q", text, reference, metadata)


@pytest.mark.parametrize(
    "text",
    [
        r"\boxed{B}",
        r"\boxed{\text{(B)}}",
        r"so \boxed{\textbf{B}}",
        "<answer>B</answer>",
        "#### B",
        "The answer is B.",
        "The answer is (B) because A is too small.",
        "Answer: B) 42",
        "**Answer:** b",
        "Answer: option B",
        "A seems right at first, but\nit must be B",
        r"\boxed{Ｂ}",
        r"\boxed{A} no, \boxed{B}",
        "I choose (B).",
    ],
)
def test_the_right_choice_in_many_dresses(text: str) -> None:
    assert multiple_choice_reward(said(text, "B")) == 1.0
    assert multiple_choice_reward(said(text, "(b)")) == 1.0
    assert multiple_choice_reward(said(text, "C")) == 0.0


@pytest.mark.parametrize(
    "text",
    [
        "",
        r"\boxed{}",
        r"\boxed{A or B}",
        r"\boxed{A, B}",
        r"\boxed{Banana}",
        "Answer: Both",
        "It is A or B",
        "<answer></answer> B",
        "####",
        r"\boxed{F}",
        r"\boxed{42}",
        "Answer: BC",
        "By elimination, all choices remain.",
        "ABCDE",
    ],
)
def test_what_is_no_choice(text: str) -> None:
    assert multiple_choice_reward(said(text, "B")) == 0.0


def test_a_choice_cut_off_is_not_guessed_at_and_a_reference_that_is_none_is_an_error() -> None:
    cut = Response("s", "q", "maybe B", "B", truncated=True)
    assert multiple_choice_reward(cut) == 0.0
    assert multiple_choice_reward(said("maybe B", "B")) == 1.0
    with pytest.raises(ValueError, match="none of the letters"):
        multiple_choice_reward(said("B", "2"))
    with pytest.raises(RefusedOptionError):
        multiple_choice_reward(said("B", "B"), letters="AAB")


@given(st.text(max_size=60), st.sampled_from("ABCDE"))
def test_any_text_is_a_choice_or_none(text: str, right: str) -> None:
    assert multiple_choice_reward(said(text, right)) in (0.0, 1.0)
    assert multiple_choice_reward(said(f"{text}\n\\boxed{{{right}}}", right)) == 1.0


def test_exact_matches_what_is_marked_letter_case_and_forms_aside() -> None:
    assert exact_reward(said("hm <answer> New  York. </answer>", "new york")) == 1.0
    assert exact_reward(said("NEW YORK", "new york")) == 1.0
    assert exact_reward(said("new york city", "new york")) == 0.0
    assert exact_reward(said("#### ﬁve", "five"), marker="####") == 1.0
    labels = {"dementia": ["AD", "alzheimer's"]}
    assert exact_reward(said("<answer>Alzheimer's</answer>", "ad"), aliases=labels) == 1.0
    assert exact_reward(said("<answer>healthy</answer>", "ad"), aliases=labels) == 0.0
    with pytest.raises(ValueError, match=r"data\.answer_column"):
        exact_reward(said("a"))


def test_phrases_are_counted_whatever_the_answer() -> None:
    phrases = ["let me check", "however"]
    assert phrase_reward(said("Let me\ncheck this. HOWEVER, no.", "72"), phrases=phrases) == 1.0
    assert phrase_reward(said("", "72"), phrases=phrases) == 0.0
    with pytest.raises(RefusedOptionError):
        phrase_reward(said(""), phrases=[])
    assert regex_reward(said("a\nb 12"), pattern=r"a.b \d+") == 1.0
    with pytest.raises(RefusedOptionError):
        regex_reward(said(""), pattern="(")


def test_repetition_is_the_share_of_n_grams_seen_before() -> None:
    assert repeated_share("abcd", 2) == 0.0
    assert repeated_share("ababab", 2) == pytest.approx(1 - 2 / 5)
    assert repeated_share("ab", 3) == repeated_share("", 1) == 0.0
    by_tokens = Response("s", "q", "x y z", token_ids=(1, 1, 1, 1))
    assert repetition_reward(by_tokens, ngram=2) == pytest.approx(2 / 3)
    assert repetition_reward(by_tokens, ngram=2, of="words") == 0.0
    loop = [repetition_reward(said("a b c " * times), ngram=3) for times in (1, 2, 5, 20)]
    assert loop == sorted(loop)


def test_tags_stand_once_in_order_and_around_the_text() -> None:
    assert tags_reward(said(" <think>a</think>\n<answer>b</answer>\n")) == 1.0
    for wrong in (
        "x<think>a</think><answer>b</answer>",
        "<think>a</think><answer>b</answer> more",
        "<answer>b</answer><think>a</think>",
        "<think>a</think><think>a</think><answer>b</answer>",
        "<think>a</think>",
        "",
    ):
        assert tags_reward(said(wrong)) == 0.0
    assert tags_reward(said("<answer>b</answer> <think> <think>"), partial=True) == 0.5
    assert [one_box_reward(said(text)) for text in (r"\boxed{1}", r"\boxed{1} \boxed{2}", "1")] == [1.0, 0.0, 0.0]


GAINS = {"a": 3.0, "b": 1.0, "c": 0.0}


def test_ranking_metrics_match_hand_worked_lists() -> None:
    best = 3 + 1 / math.log2(3)
    assert ndcg(["a", "b", "c"], GAINS, 10) == pytest.approx(1.0)
    assert ndcg(["b", "a", "c"], GAINS, 10) == pytest.approx((1 + 3 / math.log2(3)) / best)
    assert ndcg(["c", "b", "a"], GAINS, 2) == pytest.approx((1 / math.log2(3)) / best)
    assert ndcg(["c"], {"c": 0.0}, 10) == 0.0
    assert [recall(["c", "a", "b"], GAINS, k) for k in (1, 2, 3)] == [0.0, 0.5, 1.0]
    assert rank_biased_overlap(["a", "b"], ["a", "b"]) == pytest.approx(1.0)
    assert rank_biased_overlap(["b", "a"], ["a", "b"]) == pytest.approx(0.9**2 + (0.1 / 0.9) * 0.9**2)
    assert rank_biased_overlap(["a"], []) == 0.0
    assert listed("[3] > [1] > [2]") == listed("3, 1, 2") == listed("3\n1\n2\n") == ["3", "1", "2"]


@given(st.permutations(["a", "b", "c", "d"]))
def test_the_right_order_is_the_best(order: list[str]) -> None:
    data: dict[str, Json] = {"relevant": {"a": 3, "b": 2, "c": 1}, "candidates": ["a", "b", "c", "d"]}
    best = "<think>x</think><answer>[a] > [b] > [c] > [d]</answer>"
    given_order = f"<think>x</think><answer>{' > '.join(order)}</answer>"
    assert reasonrank_reward(said(given_order, **data)) <= reasonrank_reward(said(best, **data)) + 1e-12
    assert reasonrank_reward(said(best, **data)) == pytest.approx(1.2)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("<think>x</think><answer>a > a > b</answer>", 0.0),
        ("<think>x</think><answer>a > z</answer>", 0.0),
        ("<think>x</think><answer>a > b</answer>", 0.0),
        ("<think>x</think><answer></answer>", 0.0),
        ("<answer>a > b > c</answer>", -1.0),
        ("", -1.0),
    ],
)
def test_a_list_that_is_none(text: str, value: float) -> None:
    data: dict[str, Json] = {"relevant": ["a"], "candidates": ["a", "b", "c"]}
    assert reasonrank_reward(said(text, **data)) == value
    if "a > b" not in text:
        assert ndcg_reward(said(text, **data), invalid=-2.0) == -2.0


def test_rank_r1_wants_the_label_in_its_format() -> None:
    assert rank_r1_reward(said("<think>x</think><answer>[3]</answer>", "3")) == 1.0
    assert rank_r1_reward(said("<answer>[3]</answer>", "3")) == 0.0
    assert rank_r1_reward(said("<think>x</think><answer>[4]</answer>", "3")) == 0.0


BEFORE, AFTER = {"a.py": "x = 1\ny = 2\n", "b.py": "z\n"}, {"a.py": "x = 5\ny = 2\n", "b.py": "z\n"}


def block(path: str, old: str, new: str) -> str:
    return f"{path}\n<<<<<<< SEARCH\n{old}=======\n{new}>>>>>>> REPLACE\n"


def test_a_patch_counts_by_its_likeness_to_the_true_one() -> None:
    def score(text: str) -> float:
        return patch_reward(said(text, before=dict(BEFORE), after=dict(AFTER)))

    assert score("I change it.\n```\n" + block("a.py", "x = 1\n", "x = 5\n") + "```") == 1.0
    near = score(block("a.py", "x = 1\n", "x = 6\n"))
    assert 0.5 < near < 1.0
    assert score(block("a.py", "x = 1\n", "x = 5\n") + block("b.py", "z\n", "w\n")) == 0.5
    assert score(block("b.py", "z\n", "w\n")) == 0.0
    for broken in ("", "x = 5", block("a.py", "x = 9\n", "x = 5\n"), block("c.py", "x = 1\n", "x = 5\n")):
        assert score(broken) == -1.0


def test_a_long_patch_ends_in_time() -> None:
    before = {"a.py": "".join(f"line {n}\n" for n in range(2000))}
    after = {"a.py": "".join(f"eniL {n}\n" for n in range(2000))}
    started = time.perf_counter()
    text = block("a.py", before["a.py"], after["a.py"])
    assert patch_reward(said(text, before=dict(before), after=dict(after)), longest=3000) == 1.0
    assert time.perf_counter() - started < 5.0


def test_rlcr_is_largest_where_the_confidence_is_the_chance() -> None:
    def brier(stated: str, right: float) -> float:
        given_group = Group((said(f"<confidence>{stated}</confidence>"),), ({"math": right},))
        return rlcr_reward(given_group)[0]

    expected = {
        c: 0.9 * (1 + brier(str(c), 1.0)) + 0.1 * (0 + brier(str(c), 0.0)) for c in (0.0, 0.5, 0.8, 0.9, 0.95, 1.0)
    }
    assert max(expected, key=lambda c: expected[c]) == 0.9
    assert expected[0.9] == pytest.approx(0.81)
    assert brier("90%", 1.0) == brier(" .9 ", 1.0) == pytest.approx(-0.01)
    for unparsable in ("", "1.5", "-0.2", "sure", "150%", "0.9 or 0.8", "nan"):
        assert brier(unparsable, 1.0) == -1.0
