"""Worked solutions, judged by reasoning-gym's own scorer and by arithmetic line by line."""

import re

import pytest
import reasoning_gym
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.data.worked_solutions import MARKER, ChainSum, Style, parse_chain_sum, solve, style_of

chains = st.builds(
    ChainSum,
    st.integers(-999, 999),
    st.lists(st.tuples(st.sampled_from("+-"), st.integers(-999, 999)), max_size=12).map(tuple),
)
longer = chains.filter(lambda chain: len(chain.steps) >= 2)


@pytest.mark.parametrize("style", list(Style))
@pytest.mark.parametrize("options", [{"max_digits": 1}, {"max_digits": 4, "allow_negation": True}])
def test_reasoning_gym_scores_every_solution_as_right(style: Style, options: dict[str, int]) -> None:
    problems = reasoning_gym.create_dataset("chain_sum", size=200, seed=3, min_terms=1, max_terms=12, **options)
    for item in problems:
        solution = solve(parse_chain_sum(item["metadata"]["expression"]), style)
        answer = solution.rpartition(MARKER.strip())[2].strip()
        assert problems.score_answer(answer, item) == 1.0, solution


@given(chains)
def test_an_expression_reads_back_as_the_problem_it_states(chain: ChainSum) -> None:
    assert parse_chain_sum(chain.expression) == chain


@given(chains, st.sampled_from([Style.RUNNING, Style.REWRITE]))
def test_every_written_equation_holds(chain: ChainSum, style: Style) -> None:
    equations = [line.split(" = ") for line in solve(chain, style).splitlines() if "=" in line]
    assert len(equations) == len(chain.steps)
    for left, right in equations:
        assert parse_chain_sum(left).total == int(right)


@given(longer)
def test_rewriting_states_all_that_is_left_before_each_operation(chain: ChainSum) -> None:
    lines = solve(chain, Style.REWRITE).splitlines()[:-1]
    left = [parse_chain_sum(line) for line in lines[::2]]
    assert [len(part.steps) for part in left] == list(range(len(chain.steps), 0, -1))
    assert {part.total for part in left} == {chain.total}


@given(longer)
def test_styles_differ_in_length_and_are_told_apart(chain: ChainSum) -> None:
    solutions = [solve(chain, style) for style in (Style.GUESS, Style.RUNNING, Style.REWRITE)]
    assert len(set(map(len, solutions))) == 3
    assert sorted(solutions, key=len) == solutions
    assert [style_of(solution) for solution in solutions] == [Style.GUESS, Style.RUNNING, Style.REWRITE]


@pytest.mark.parametrize("text", ["", "no sum at all", "7 + 3", "7 + = 3\n#### 3", "= 4\n"])
def test_an_answer_in_no_style_has_none(text: str) -> None:
    assert style_of(text) is None


@pytest.mark.parametrize("text", ["", "7 +", "7+3", "7 * 3", "7 + 3 = ", "7 + 3\n", "١ + 2 ="])
def test_what_is_no_chain_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(text))):
        parse_chain_sum(text)
