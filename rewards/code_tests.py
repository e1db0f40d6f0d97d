"""The tests of a programming problem, read from a dataset's row.

Two kinds. A `StdioTest` gives the program its standard input and expects what it prints. A `CallTest` evaluates an
expression in the program's process and expects a value. What is expected never goes where the program runs: neither
kind asks the program whether it is right.

The forms in which datasets keep them are read from ``metadata["tests"]``, itself or as JSON text:
- a list of ``{"input": ..., "output": ...}``, with ``"public": true`` for those that the prompt shows;
- a list of ``assert f(1, 2) == 3``, as in MBPP;
- ``{"inputs": [...], "outputs": [...]}``, with ``"fn_name"`` for calls, as in APPS and TACO.
The function is named there or in ``metadata["function"]``.
"""

import ast
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from rewards.response import Json
from rewards.sandbox.inside import plain

_Test = TypeVar("_Test")


@dataclass(frozen=True, slots=True)
class StdioTest:
    """Attributes:
    public: shown in the prompt, so that its output may be copied from there.
    """

    stdin: str
    expected: str
    public: bool = False


@dataclass(frozen=True, slots=True)
class CallTest:
    """Attributes:
    expression: in the program's namespace.
    expected: the value as `rewards.sandbox.inside.plain` writes it; unused where there is an `expected_expression`.
    expected_expression: evaluated in a process without the program; None for a literal value.
    as_json: lists equal tuples, and the keys of dicts their texts, because JSON has no others.
    is_wrapped: a list of one item may stand for the item.
    """

    expression: str
    expected: object = None
    expected_expression: str | None = None
    as_json: bool = True
    is_wrapped: bool = False
    public: bool = False


def stdio_tests(metadata: Mapping[str, Json]) -> tuple[StdioTest, ...]:
    """Raises: ValueError where the row holds none."""
    tests = tuple(
        StdioTest(_lines(given), _lines(expected), public) for given, expected, public in _pairs(_tests(metadata))
    )
    return _checked(tests, "an input and an output")


def call_tests(metadata: Mapping[str, Json]) -> tuple[CallTest, ...]:
    """Raises: ValueError where the row holds none, or an assertion that cannot be checked from outside."""
    held = _tests(metadata)
    if isinstance(held, list) and held and all(isinstance(test, str) for test in held):
        return tuple(assertion(str(test)) for test in held)
    function = metadata.get("function") or (held.get("fn_name") if isinstance(held, dict) else None)
    if not isinstance(function, str) or not all(part.isidentifier() for part in function.split(".")):
        raise ValueError('metadata names no function; it needs "function", or "fn_name" in the tests')
    tests = tuple(
        CallTest(_call(function, given), plain(expected), is_wrapped=isinstance(held, dict), public=public)
        for given, expected, public in _pairs(held)
    )
    return _checked(tests, "a list of arguments and a result")


def assertion(text: str) -> CallTest:
    """`assert CALL == VALUE`, `CALL is VALUE`, `CALL`, `not CALL` or `math.isclose(CALL, VALUE)`.

    Only the call is left to the program's process; comparing is done here. So nothing that the program puts in
    the way of an assertion (an object that equals all, another `math`) can make it hold.
    """
    refusal = f"the test {text[:60]!r} is not of the form: assert CALL == VALUE"
    try:
        (statement,) = ast.parse(text.strip()).body
    except (SyntaxError, ValueError) as error:
        raise ValueError(refusal) from error
    match statement:
        case ast.Assert(ast.Compare(call, [ast.Eq() | ast.Is()], [value])):
            return _compared(call, value)
        case ast.Assert(ast.UnaryOp(ast.Not(), ast.Call() as call)):
            return CallTest(f"bool({ast.unparse(call)})", False, as_json=False)
        case ast.Assert(ast.Call(ast.Attribute(ast.Name("math"), "isclose"), [call, value, *_])):
            return _compared(call, value)
        case ast.Assert(ast.Call() as call):
            return CallTest(f"bool({ast.unparse(call)})", True, as_json=False)
    raise ValueError(refusal)


def counted(tests: Sequence[StdioTest | CallTest]) -> list[int]:
    """Which tests count: the hidden ones, or all where all are public."""
    hidden = [index for index, test in enumerate(tests) if not test.public]
    return hidden or list(range(len(tests)))


def _compared(call: ast.expr, value: ast.expr) -> CallTest:
    try:
        return CallTest(ast.unparse(call), plain(ast.literal_eval(value)), as_json=False)
    except ValueError:
        return CallTest(ast.unparse(call), expected_expression=ast.unparse(value), as_json=False)


def _tests(metadata: Mapping[str, Json]) -> Json:
    held = metadata.get("tests")
    if isinstance(held, str):
        try:
            held = json.loads(held)
        except ValueError as error:
            raise ValueError(f"metadata['tests'] is not JSON: {error}") from error
    if not held:
        raise ValueError("metadata holds no tests; this term needs a column named tests")
    return held


def _pairs(held: Json) -> Iterator[tuple[Json, Json, bool]]:
    match held:
        case {"inputs": list(inputs), "outputs": list(outputs)}:
            if len(inputs) != len(outputs):
                raise ValueError(f"metadata['tests'] has {len(inputs)} inputs and {len(outputs)} outputs")
            for given, expected in zip(inputs, outputs, strict=True):
                yield given, expected, False
        case list():
            for test in held:
                if not isinstance(test, dict) or not {"input", "output"} <= test.keys():
                    raise ValueError('a test in metadata needs "input" and "output"')
                yield test["input"], test["output"], test.get("public") is True
        case _:
            raise ValueError("metadata['tests'] is neither a list nor a pair of inputs and outputs")


def _call(function: str, arguments: Json) -> str:
    """A plain name is also looked for in a class `Solution`."""
    given = repr(arguments if isinstance(arguments, list) else [arguments])
    if "." in function:
        owner, _, method = function.rpartition(".")
        return f"{owner}().{method}(*{given})"
    return f"({function} if {function!r} in globals() else Solution().{function})(*{given})"


def _lines(held: Json) -> str:
    if isinstance(held, list):
        return "\n".join(str(line) for line in held)
    return str(held)


def _checked(tests: tuple[_Test, ...], needs: str) -> tuple[_Test, ...]:
    if not tests:
        raise ValueError(f"metadata['tests'] is empty; each test needs {needs}")
    return tests
