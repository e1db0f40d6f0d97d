"""Is what a program printed, or returned, what was expected? Pure functions on untrusted data; they never raise.

As judges of programming contests do: text is compared token by token, so that spaces and line ends do not matter;
where a fraction is expected, a number near it will do; where an integer is expected, nothing but the integer.
"""

import json
import math
import re

_FRACTION = re.compile(r"[-+]?(?:\d+\.\d*|\.\d+|\d+(?=[eE]))(?:[eE][-+]?\d{1,4})?")
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d{1,4})?")
_LONGEST_NUMBER = 400


def same_output(expected: str, printed: bytes, tolerance: float) -> bool:
    """Args:
    tolerance: of fractions, absolute below 1 and relative above.
    """
    wanted, got = expected.split(), printed.decode("utf-8", "replace").split()
    return len(wanted) == len(got) and all(
        one == other or _near(one, other, tolerance) for one, other in zip(wanted, got, strict=True)
    )


def same_value(expected: object, written: bytes, tolerance: float, *, as_json: bool) -> bool:
    """Whether a value that a sandbox wrote equals the expected one, both as `rewards.sandbox.inside.plain` writes them.

    Args:
        as_json: lists equal tuples, and keys of dicts their texts.
    """
    try:
        got = json.loads(written)
        return _same(expected, got, tolerance, as_json)
    except (ValueError, TypeError, LookupError, RecursionError):  # not as `plain` writes
        return False


def _near(expected: str, printed: str, tolerance: float) -> bool:
    if max(len(expected), len(printed)) > _LONGEST_NUMBER:
        return False
    if not (_FRACTION.fullmatch(expected) and _NUMBER.fullmatch(printed)):
        return False
    return _close(float(expected), float(printed), tolerance)


def _close(expected: float, got: float, tolerance: float) -> bool:
    if not (math.isfinite(expected) and math.isfinite(got)):
        return expected == got or (math.isnan(expected) and math.isnan(got))
    return abs(expected - got) <= tolerance * max(1.0, abs(expected))


def _same(expected: object, got: object, tolerance: float, as_json: bool) -> bool:
    if isinstance(expected, (bool, int, float)) and isinstance(got, (bool, int, float)):
        if isinstance(expected, float) or isinstance(got, float):
            return _close(_float(expected), _float(got), tolerance)
        return expected == got
    if isinstance(expected, (list, tuple)) and isinstance(got, list):
        return _same_container(list(expected), got, tolerance, as_json)
    return type(expected) is type(got) and expected == got


def _same_container(expected: list[object], got: list[object], tolerance: float, as_json: bool) -> bool:
    kind, given = expected[0], got[0] if got else None
    if as_json and {kind, given} <= {"list", "tuple"}:
        given = kind
    if kind != given or len(expected) != len(got):
        return False
    wanted, held = expected[1:], got[1:]
    if kind in ("set", "dict"):
        wanted = sorted(wanted, key=lambda item: _key(item, kind, as_json))
        held = sorted(held, key=lambda item: _key(item, kind, as_json))
    if kind == "dict":
        return all(
            _key(one, kind, as_json) == _key(other, kind, as_json) and _same(one[1], other[1], tolerance, as_json)  # type: ignore[index]
            for one, other in zip(wanted, held, strict=True)
        )
    return all(_same(one, other, tolerance, as_json) for one, other in zip(wanted, held, strict=True))


def _key(item: object, kind: object, as_json: bool) -> str:
    """By which unordered items are paired: for a dict its key, which JSON knows as text only."""
    if kind != "dict":
        return json.dumps(item)
    key = item[0]  # type: ignore[index]
    return key if as_json and isinstance(key, str) else json.dumps(key)


def _float(number: float) -> float:
    try:
        return float(number)
    except OverflowError:
        return math.inf
