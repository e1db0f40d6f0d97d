"""The code terms over programs with known verdicts, in the default sandbox; false verdicts are counted and named."""

import pytest

from rewards.code_tests import assertion, call_tests, stdio_tests
from rewards.compose import Reward, RewardSetupError
from rewards.python_code import python_functions_reward, python_stdio_reward
from rewards.response import Json, Response
from rewards.sandbox.choice import NoSandboxError, sandbox
from rewards.settings import RewardSettings
from tests.rewards.code_corpus import CALLS, STDIO


@pytest.fixture(autouse=True, scope="module")
def _needs_a_sandbox() -> None:
    try:
        sandbox()
    except NoSandboxError as error:
        pytest.skip(str(error))


def said(program: str, **metadata: Json) -> Response:
    return Response("s", "q", f"I think:\n```python\n{program}\n```\nThat is it.", metadata=metadata)


def test_no_false_verdict_on_programs_that_print() -> None:
    false_negatives = [
        (problem.name, program)
        for problem in STDIO
        for program in problem.right
        if python_stdio_reward(said(program, tests=problem.tests)) != 1.0
    ]
    false_positives = [
        (problem.name, program)
        for problem in STDIO
        for program in problem.wrong
        if python_stdio_reward(said(program, tests=problem.tests), run_s=1.0) != 0.0
    ]
    assert (false_negatives, false_positives) == ([], [])
    assert sum(len(problem.right) for problem in STDIO) == 17
    assert sum(len(problem.wrong) for problem in STDIO) == 36


def test_no_false_verdict_on_functions() -> None:
    def score(problem_tests: Json, function: str | None, program: str) -> float:
        return python_functions_reward(said(program, tests=problem_tests, function=function), run_s=2.0)

    false_negatives = [
        (problem.name, program)
        for problem in CALLS
        for program in problem.right
        if score(problem.tests, problem.function, program) != 1.0
    ]
    false_positives = [
        (problem.name, program)
        for problem in CALLS
        for program in problem.wrong
        if score(problem.tests, problem.function, program) != 0.0
    ]
    assert (false_negatives, false_positives) == ([], [])
    assert sum(len(problem.right) for problem in CALLS) == 11
    assert sum(len(problem.wrong) for problem in CALLS) == 88


def test_the_share_of_tests_is_partial_credit() -> None:
    tests: list[Json] = [{"input": str(n), "output": str(n * n)} for n in (0, 1, 2, 3)]
    only_small = "n = int(input())\nprint(n if n < 2 else 'no')"
    assert python_stdio_reward(said(only_small, tests=tests), score="share") == 0.5
    assert python_stdio_reward(said(only_small, tests=tests)) == 0.0
    crashes_on_one = "n = int(input())\nprint(n * n // (1 if n != 1 else 0))"
    assert python_stdio_reward(said(crashes_on_one, tests=tests), score="share") == 0.75
    calls: list[Json] = ["assert f(1) == 1", "assert f(2) == 4"]
    assert python_functions_reward(said("def f(n): return 1", tests=calls), score="share") == 0.5


def test_what_the_prompt_shows_does_not_count() -> None:
    tests: list[Json] = [
        {"input": "1", "output": "one", "public": True},
        {"input": "2", "output": "two"},
        {"input": "3", "output": "three"},
    ]
    copies = "print({'1': 'one'}.get(input(), '?'))"
    assert python_stdio_reward(said(copies, tests=tests), score="share") == 0.0
    assert python_stdio_reward(said(copies, tests=tests[:1]), score="share") == 1.0
    two = "print({'1': 'one', '2': 'two'}.get(input(), '?'))"
    assert python_stdio_reward(said(two, tests=tests), score="share") == 0.5


def test_an_answer_without_a_program_is_wrong_and_a_row_without_tests_is_an_error() -> None:
    tests: list[Json] = [{"input": "", "output": "1"}]
    for text in ("", "print(1)", "```python\nprint(1)", "```sql\nprint(1)\n```"):
        assert python_stdio_reward(Response("s", "q", text, metadata={"tests": tests})) == 0.0
    for empty in ({}, {"tests": []}, {"tests": "["}, {"tests": {"inputs": ["1"], "outputs": []}}, {"tests": ["x"]}):
        with pytest.raises(ValueError, match=r"tests|test in metadata"):
            python_stdio_reward(Response("s", "q", "```\nprint(1)\n```", metadata=empty))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="names no function"):
        python_functions_reward(said("f = abs", tests=tests))
    with pytest.raises(ValueError, match="own 'nothing_defined' fails: NameError"):
        python_functions_reward(said("f = abs", tests=["assert f(1) == nothing_defined"]))


def test_a_preamble_comes_before_the_program() -> None:
    program = "def f(a: List[int]) -> int:\n    return max(a)"
    calls: list[Json] = ["assert f([1, 3, 2]) == 3"]
    assert python_functions_reward(said(program, tests=calls)) == 0.0
    assert python_functions_reward(said(program, tests=calls, preamble="from typing import List")) == 1.0


@pytest.mark.parametrize(
    ("text", "expression"),
    [
        ("assert f(1) == 3", "f(1)"),
        ("assert f(1) is None", "f(1)"),
        ("assert not f([1])", "bool(f([1]))"),
        ("assert f(1)", "bool(f(1))"),
        ("assert math.isclose(f(2), 1.5, rel_tol=1e-3)", "f(2)"),
        ("assert sorted(f(1)) == [1, 2], 'message'", "sorted(f(1))"),
    ],
)
def test_an_assertion_gives_away_its_call_alone(text: str, expression: str) -> None:
    assert assertion(text).expression == expression


@pytest.mark.parametrize(
    "text",
    [
        "",
        "f(1) == 3",
        "assert f(1) != 3",
        "assert f(1) > 3",
        "assert 1 < f(1) < 3",
        "assert f(1) == 3 or True",
        "assert",
        "assert x",
    ],
)
def test_an_assertion_that_only_the_program_could_check_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not of the form"):
        assertion(text)


def test_tests_are_read_from_text_and_in_every_form() -> None:
    text = '{"inputs": ["1\\n2", ["3", "4"]], "outputs": ["3", 7]}'
    assert [(test.stdin, test.expected) for test in stdio_tests({"tests": text})] == [("1\n2", "3"), ("3\n4", "7")]
    (test,) = call_tests({"tests": [{"input": 5, "output": None}], "function": "f"})
    assert test.expression == "(f if 'f' in globals() else Solution().f)(*[5])"


def test_a_named_sandbox_that_is_none_is_refused_before_the_run() -> None:
    def refusal(**options: object) -> str:
        term = {"name": "python_stdio", "options": options}
        with pytest.raises((RewardSetupError, ValueError, NoSandboxError)) as caught:
            Reward(RewardSettings.model_validate({"terms": [term]})).warm_up()
        return str(caught.value)

    assert "choose one of bubblewrap, nsjail, namespaces" in refusal(sandbox="docker")
    assert "exclude each other" in refusal(sandbox="bubblewrap", unsafe_no_sandbox=True)
    assert "run_s=0" in refusal(run_s=0)
    assert "choose all or share" in refusal(score="some")


def test_without_a_sandbox_the_reward_refuses_in_one_line_and_names_the_setting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("rewards.sandbox.choice.BACKENDS", {})
    monkeypatch.setattr("rewards.python_code.safe_sandbox", sandbox.__wrapped__)
    reward = Reward(RewardSettings.model_validate({"terms": [{"name": "python_stdio"}]}))
    with pytest.raises(
        NoSandboxError, match=r"install bubblewrap, or set unsafe_no_sandbox: true in the term's options"
    ) as refusal:
        reward.warm_up()
    assert "\n" not in str(refusal.value)
    options = {"unsafe_no_sandbox": True}
    Reward(RewardSettings.model_validate({"terms": [{"name": "python_stdio", "options": options}]})).warm_up()
