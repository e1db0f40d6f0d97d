"""The `python_stdio` and `python_functions` terms: does the Python in the answer pass the problem's tests?

The program is the last fenced code block. It runs in a sandbox (`rewards.sandbox`), once for each test and each time in
a process of its own; all tests of an answer share one sandbox. It is judged here, outside, by what it printed or
returned: it never holds what is expected, so leaving early, patching the interpreter, or an object that equals
everything wins nothing. What it can win by is copying the tests that the prompt shows; mark these as public in the
data, and they do not count.

A sandbox that fails raises: that says nothing about the answer. A program that fails, in whatever way, scores 0.
"""

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

from rewards.code_tests import CallTest, StdioTest, call_tests, counted, stdio_tests
from rewards.extraction import last_code_block
from rewards.output_match import same_output, same_value
from rewards.registry import refusing_options, term
from rewards.response import Json, Response
from rewards.sandbox.choice import sandbox as safe_sandbox
from rewards.sandbox.job import Job, Limits, Outcome, Run, Sandbox

Scored = Literal["all", "share"]

_LANGUAGES = ("python", "python3", "py")
_PROGRAM, _EXPECTED = "solution.py", "expected.py"
_IMPORTS = b"import math\nfrom collections import *\nfrom fractions import Fraction\n"
"""For expressions that say what is expected."""

_TWO_SUMS: list[Json] = [{"input": "1 2", "output": "3"}]
_STDIO_EXAMPLE = Response(
    "example", "", "```python\nprint(sum(map(int, input().split())))\n```", metadata={"tests": _TWO_SUMS}
)
_CALL_EXAMPLE = Response(
    "example", "", "```python\ndef add(a, b):\n    return a + b\n```", metadata={"tests": ["assert add(1, 2) == 3"]}
)


@term("python_stdio", example=_STDIO_EXAMPLE, confined=False)
def python_stdio_reward(
    response: Response,
    *,
    score: Scored = "all",
    tolerance: float = 1e-6,
    run_s: float = 4.0,
    job_s: float = 8.0,
    memory_mb: int = 512,
    sandbox: str | None = None,
    unsafe_no_sandbox: bool = False,
) -> float:
    """1.0 where the program answers every test's input with the expected output, 0.0 otherwise; or the share.

    Args:
        response: keeps the tests in ``metadata["tests"]``, see `rewards.code_tests`.
        score: `all`, or `share` of the tests.
        tolerance: of expected fractions, see `rewards.output_match`.
        run_s: for one test, seconds.
        job_s: for all of them; below `reward.deadline_s`, which otherwise ends the sample without a verdict. Tests that
            it leaves undone are failed.
        memory_mb: of the program.
        sandbox: a backend by name; None takes the first that is safe on the machine.
        unsafe_no_sandbox: run the program without one.

    Raises:
        ValueError: the metadata holds no tests, or an option is impossible.
        NoSandboxError, SandboxError: there is no safe sandbox, or it failed.
    """
    with refusing_options():
        box = safe_sandbox(sandbox, unsafe_no_sandbox=unsafe_no_sandbox)
        limits = _limits(score, run_s, job_s, memory_mb)
    tests = stdio_tests(response.metadata)
    program = _program(response)
    if program is None:
        return 0.0
    runs = tuple(Run(_PROGRAM, stdin=test.stdin.encode("utf-8", "replace")) for test in tests)
    outcomes = box.run(Job({_PROGRAM: program}, runs, limits, stop_at_failure=score == "all"))
    passed = [
        outcome.is_clean and same_output(test.expected, outcome.stdout, tolerance)
        for test, outcome in zip(tests, outcomes, strict=True)
    ]
    return _value(tests, passed, score)


@term("python_functions", example=_CALL_EXAMPLE, confined=False)
def python_functions_reward(
    response: Response,
    *,
    score: Scored = "all",
    tolerance: float = 1e-6,
    run_s: float = 4.0,
    job_s: float = 8.0,
    memory_mb: int = 512,
    sandbox: str | None = None,
    unsafe_no_sandbox: bool = False,
) -> float:
    """1.0 where the function returns what every test expects, 0.0 otherwise; or the share.

    Args and raises: as `python_stdio_reward`. What ``metadata["preamble"]`` holds runs before the program, such as the
    imports that a problem promises.
    """
    with refusing_options():
        box = safe_sandbox(sandbox, unsafe_no_sandbox=unsafe_no_sandbox)
        limits = _limits(score, run_s, job_s, memory_mb)
    tests = call_tests(response.metadata)
    program = _program(response)
    if program is None:
        return 0.0
    expected = [_expected(box, test) for test in tests]
    runs = tuple(Run(_PROGRAM, test.expression) for test in tests)
    outcomes = box.run(Job({_PROGRAM: program}, runs, limits, stop_at_failure=score == "all"))
    passed = [
        _is_expected(test, value, outcome, tolerance)
        for test, value, outcome in zip(tests, expected, outcomes, strict=True)
    ]
    return _value(tests, passed, score)


def _expected(box: Sandbox, test: CallTest) -> object:
    expression = test.expected_expression
    return test.expected if expression is None else json.loads(_evaluated(box, expression))


@lru_cache(maxsize=4096)
def _evaluated(box: Sandbox, expression: str) -> bytes:
    """What a dataset's expression is worth, as `rewards.sandbox.inside` writes it.

    In a sandbox of its own: in the program's it would stand in the memory that each of its processes begins with.
    """
    (outcome,) = box.run(Job({_EXPECTED: _IMPORTS}, (Run(_EXPECTED, expression),)))
    if not outcome.is_clean or outcome.value is None:
        said = (outcome.stderr.decode("utf-8", "replace").splitlines() or [outcome.end.name])[-1]
        raise ValueError(f"the test's own {expression!r} fails: {said}")
    return outcome.value


def _is_expected(test: CallTest, expected: object, outcome: Outcome, tolerance: float) -> bool:
    if not outcome.is_clean or outcome.value is None:
        return False
    if same_value(expected, outcome.value, tolerance, as_json=test.as_json):
        return True
    if not (test.is_wrapped and isinstance(expected, list) and len(expected) == 2 and expected[0] == "list"):
        return False
    return same_value(expected[1], outcome.value, tolerance, as_json=test.as_json)


def _program(response: Response) -> bytes | None:
    code = last_code_block(response.text, *_LANGUAGES)
    if code is None:
        return None
    preamble = response.metadata.get("preamble")
    whole = f"{preamble}\n{code}" if isinstance(preamble, str) else code
    return whole.encode("utf-8", "replace")


def _limits(score: str, run_s: float, job_s: float, memory_mb: int) -> Limits:
    if score not in ("all", "share"):
        raise ValueError(f"score={score!r}; choose all or share")
    return Limits(run_s=run_s, job_s=job_s, memory_mb=memory_mb)


def _value(tests: Sequence[StdioTest | CallTest], passed: Sequence[bool], score: Scored) -> float:
    counting = [passed[index] for index in counted(tests)]
    return float(all(counting)) if score == "all" else sum(counting) / len(counting)
