"""Terms about length, budgets, thinking and tools, against hand-worked values."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.group import Group
from rewards.history import PromptHistory
from rewards.lengths.budget import anytime_returns, anytime_reward, budget_reward, within_budget
from rewards.lengths.history import against_history, hapo_reward
from rewards.lengths.overlong import cosine, cosine_length_reward, overlong_reward
from rewards.lengths.targets import (
    dot_truncation_reward,
    drpo_length_reward,
    laser_d_reward,
    laser_reward,
    length_weights,
    level_of,
    shortest_correct_reward,
    smallest_target,
)
from rewards.lengths.thinking import adaptthink_reward, autothink_reward, thinks
from rewards.lengths.tool_use import tool_efficiency, tool_use_reward
from rewards.response import Fact, Response, SpanReward, ToolCall


def group(*answers: tuple[int, float], history: dict[str, float] | None = None, **shared: float) -> Group:
    """Answers of these lengths and correctness values."""
    responses = tuple(
        Response(f"s/{number}", "q", "x" * min(1, length), "1", response_tokens=length)
        for number, (length, _) in enumerate(answers)
    )
    return Group(responses, tuple({"math": value} for _, value in answers), history or {}, shared)


def tokens(count: int) -> Response:
    return Response("s", "q", "x", response_tokens=count)


@pytest.mark.parametrize(
    ("length", "value"), [(0, 0), (512, 0), (640, -0.25), (768, -0.5), (1024, -1), (1025, -1), (9999, -1)]
)
def test_overlong_falls_over_the_buffer_and_stays_at_minus_one(length: int, value: float) -> None:
    assert overlong_reward(tokens(length), max_tokens=1024, buffer=512) == value


def test_overlong_goes_by_the_budget_that_an_answer_was_asked_for_under() -> None:
    asked = [Response("s", "q", "x", response_tokens=12, metadata={"budget": budget}) for budget in (6, 12, 14, 24)]
    assert [overlong_reward(answer, buffer=4) for answer in asked] == [-1.0, -1.0, -0.5, 0.0]


def test_cosine_goes_from_end_to_end_through_the_mean() -> None:
    assert [cosine(1.0, 0.5, p) for p in (0.0, 0.5, 1.0, 7.0)] == pytest.approx([1.0, 0.75, 0.5, 0.5])
    both = group((0, 1), (1000, 1), (0, 0), (1000, 0))
    assert cosine_length_reward(both, max_tokens=1000) == pytest.approx([1.0, 0.5, -1.0, -0.5])
    cut = Group((Response("s", "q", "x", response_tokens=10, truncated=True),), ({"math": 0.0},))
    assert cosine_length_reward(cut, max_tokens=10, truncated=-0.7) == [-0.7]


def test_laser_pays_right_answers_up_to_the_target() -> None:
    assert laser_reward(group((100, 1), (101, 1), (100, 0)), target=100) == [1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("share", "level"), [(0, "hard"), (1 / 3, "hard"), (0.5, "medium"), (2 / 3, "medium"), (0.7, "easy"), (1, "easy")]
)
def test_a_groups_level_is_its_share_of_right_answers(share: float, level: str) -> None:
    assert level_of(share) == level


def test_the_target_is_the_smallest_length_with_one_right_answer_to_expect() -> None:
    grid, coverage = (100, 200, 400), (0.1, 0.4, 1.0)
    assert [smallest_target(grid, coverage, right) for right in (10, 5, 2.5, 2, 0.5)] == [100, 200, 200, 400, 400]


def test_laser_d_learns_its_target_from_what_the_run_sees() -> None:
    first = laser_d_reward(group((90, 1), (150, 1), (300, 1), (50, 1)), grid=[100, 200, 400])
    assert [verdict.value for verdict in first] == [1.0] * 4, "the largest length, as long as nothing is known"
    history = PromptHistory()
    history.note("item", [fact for verdict in first for fact in verdict.facts])
    history.turn()
    assert history.shared == {"laser_d/easy/100": 0.5, "laser_d/easy/200": 0.75, "laser_d/easy/400": 1.0}
    later = group((90, 1), (150, 1), (300, 1), (101, 1), **history.shared)
    # Of 4 answers 10/3 are expected to be right on this level; half of them end within 100 tokens.
    assert [verdict.value for verdict in laser_d_reward(later, grid=[100, 200, 400])] == [1.0, 0.0, 0.0, 0.0]
    wrong = laser_d_reward(group((90, 0)), grid=[100])
    assert (wrong[0].value, wrong[0].facts) == (0.0, ())


def test_a_truncated_answer_ends_within_no_length() -> None:
    cut = Group((Response("s", "q", "x", response_tokens=10, truncated=True),), ({"math": 1.0},))
    assert [fact.value for fact in laser_d_reward(cut, grid=[100, 200])[0].facts] == [0.0, 0.0]


def test_the_shortest_right_answers_get_the_bonus() -> None:
    assert shortest_correct_reward(group((9, 0), (20, 1), (20, 1), (30, 1))) == [0.0, 1.0, 1.0, 0.0]
    assert shortest_correct_reward(group((9, 0))) == [0.0]


def test_dot_cuts_the_tail_of_a_group_that_is_right_throughout() -> None:
    lengths = [(10, 1.0)] * 9 + [(110, 1.0)]
    # mean 20, std 30: the limit of k = 2 is 80.
    assert dot_truncation_reward(group(*lengths)) == [0.0] * 9 + [-1.0]
    assert dot_truncation_reward(group(*lengths), min_gap=90) == [0.0] * 10
    assert dot_truncation_reward(group(*lengths[:-1], (110, 0.0))) == [0.0] * 10
    assert dot_truncation_reward(group(*[(7, 1.0)] * 4), outlier_k=0.0) == [0.0] * 4


def test_drpos_weights_are_positive_and_sum_to_one() -> None:
    weights = length_weights([100, 200, 400], 1000, 0.1)
    assert sum(weights) == pytest.approx(1.0)
    assert weights[0] / weights[1] == pytest.approx(math.e)
    assert length_weights([100, 900], 1000, 1e9) == pytest.approx([0.5, 0.5])
    rewards = drpo_length_reward(group((100, 1), (5, 0), (200, 1), (7, 0)), longest=1000)
    assert rewards[1] == rewards[3] == 0.0
    assert rewards[0] + rewards[2] == pytest.approx(2.0)
    assert drpo_length_reward(group((100, 1), (7, 0), (200, 1), (5, 0)), longest=1000) == rewards
    assert drpo_length_reward(group((5, 0)), longest=10) == [0.0]


@pytest.mark.parametrize(
    ("length", "right", "value"),
    [(200, True, 0.0), (100, True, 0.7071), (400, True, -0.7), (100, False, 0.0), (400, False, -1.0), (9, False, 0.0)],
)
def test_hapo_against_a_record_of_200(length: int, right: bool, value: float) -> None:
    assert against_history(length, 200, right, -0.7) == pytest.approx(value, abs=1e-4)


def test_hapo_learns_the_shortest_right_length_of_a_prompt() -> None:
    first = hapo_reward(group((100, 1), (60, 1), (10, 0)))
    assert [verdict.value for verdict in first] == [0.0, 0.0, 0.0]
    history = PromptHistory()
    history.note("item", [fact for verdict in first for fact in verdict.facts])
    history.turn()
    assert history.of("item") == {"hapo/length": 60.0}
    again = hapo_reward(group((30, 1), history=dict(history.of("item"))))
    assert again[0].value == pytest.approx(math.sqrt(0.5))
    assert hapo_reward(group((30, 1)), statistic="average")[0].facts == (Fact("hapo/length", 30.0, "average"),)


@given(st.integers(1, 2000), st.integers(1, 1000), st.floats(0, 3))
def test_a_budget_is_flat_below_and_falls_above(length: int, budget: int, slope: float) -> None:
    at = within_budget(budget, budget, 1000, slope)
    value = within_budget(length, budget, 1000, slope)
    assert value == at if length <= budget else value <= at


def test_the_budget_comes_from_the_data_or_the_recipe_and_wrong_answers_get_nothing() -> None:
    short, long = (Response("s", "q", "x", response_tokens=900, metadata={"budget": b}) for b in (100, 1000))
    both = Group((short, long), ({"math": 1.0}, {"math": 1.0}))
    values = budget_reward(both, longest=1000)
    assert values[1] == pytest.approx(0.0)
    assert values[0] == pytest.approx(math.cos(0.45 * math.pi) - 0.8)
    assert budget_reward(group((10, 0), (10_000, 0)), longest=1000, budget=100) == [0.0, 0.0]
    with pytest.raises(ValueError, match="no column 'budget'"):
        budget_reward(group((10, 1)), longest=1000)


def test_anytime_returns_count_a_token_for_every_budget_that_it_falls_within() -> None:
    assert anytime_returns([0, 1, 1], [1 / 3] * 3) == pytest.approx([2 / 3, 2 / 3, 1 / 3])
    assert anytime_returns([1], [1.0]) == [1.0]


def test_anytime_asks_what_is_stated_within_each_budget() -> None:
    text = "x" * 20 + r"\boxed{4}" + "y" * 11
    verdict = anytime_reward(Response("s", "q", text, "4", response_tokens=40), budgets=[10, 30, 40])
    assert verdict.value == pytest.approx(2 / 3)
    # Returns 2/3, 2/3, 1/3: what the whole answer's 2/3 lacks of them.
    assert verdict.spans == (SpanReward(30, 40, pytest.approx(-1 / 3)),)


@pytest.mark.parametrize(
    ("calls", "fewest", "value"), [(2, 2, 1.0), (4, 2, 0.8660), (0, 0, 1.0), (1, 0, 0.5), (0, 3, 0.0)]
)
def test_tool_efficiency(calls: int, fewest: int, value: float) -> None:
    assert tool_efficiency(calls, fewest, 1.0) == pytest.approx(value, abs=1e-4)


def test_few_calls_pay_only_where_the_answer_is_right() -> None:
    calls = [Response("s", "q", "x", tool_calls=(ToolCall("search"),) * count) for count in (2, 1, 0)]
    both = Group(tuple(calls), ({"math": 1.0}, {"math": 1.0}, {"math": 0.0}))
    assert [verdict.value for verdict in tool_use_reward(both)] == pytest.approx([math.sin(2 * math.pi / 3), 1.0, 0.0])
    known = Group(tuple(calls), both.terms, {"otc_po/calls": 0.0})
    assert [v.value for v in tool_use_reward(known, scope="history")] == pytest.approx(
        [math.cos(2 * math.pi / 5), math.cos(math.pi / 3), 0.0]
    )


@pytest.mark.parametrize(
    ("text", "thought"),
    [
        ("<think>2 and 2</think>4", True),
        ("2 and 2</think>4", True),
        ("<think>\n</think>4", False),
        ("<think>...\n</think>4", False),
        ("4", False),
        ("<think>2 and 2 and", True),
        ("<think>", False),
    ],
)
def test_whether_an_answer_thinks(text: str, thought: bool) -> None:
    assert thinks(text) == thought


def test_adaptthink_is_the_papers_advantage_beside_correctness() -> None:
    direct = Response("s", "q", "<think></think>4", metadata={"ref": 0.9})
    assert 1.0 + adaptthink_reward(direct, column="ref") == pytest.approx(0.15)
    assert adaptthink_reward(Response("s", "q", "<think>2</think>4")) == 0.0


def modes(*answers: tuple[bool, float, int], **shared: float) -> Group:
    responses = tuple(
        Response("s", "q", f"<think>{'2 + 2' if thinking else ''}</think>4", response_tokens=length)
        for thinking, _, length in answers
    )
    return Group(responses, tuple({"math": right} for _, right, _ in answers), {}, shared)


ALL_FOUR = ((True, 1.0, 10), (True, 0.0, 10), (False, 1.0, 10), (False, 0.0, 10))


def test_autothinks_table_and_its_stages() -> None:
    assert [v.value for v in autothink_reward(modes(*ALL_FOUR), stage=2)] == [1.0, 0.0, 2.0, -1.0]
    flooded = modes(*ALL_FOUR, **{"autothink/thinks": 1.0})
    # All think: thinking loses 2 (1 - 0.5), not thinking nothing.
    assert [v.value for v in autothink_reward(flooded, stage=1)] == [0.0, -1.0, 2.0, -1.0]
    lengths = modes((True, 1.0, 10), (True, 1.0, 30), (True, 0.0, 10), (True, 0.0, 30))
    values = [v.value for v in autothink_reward(lengths, stage=3, alpha=0.1, beta=0.2)]
    assert values == pytest.approx([math.exp(0.1), math.exp(-0.1), 1 - math.exp(0.2), 1 - math.exp(-0.2)])
    assert autothink_reward(lengths, stage=1)[0].facts == (Fact("autothink/thinks", 1.0, "average", shared=True),)


def test_lengths_that_were_not_counted_are_refused() -> None:
    uncounted = Group((Response("s", "q", "text"),), ({"math": 1.0},))
    with pytest.raises(ValueError, match="carry no token counts"):
        laser_reward(uncounted, target=5)
    with pytest.raises(ValueError, match="put one first"):
        laser_reward(Group((tokens(5),), ({},)), target=5)
