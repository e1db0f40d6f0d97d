"""What a run writes can be read by any JSON reader, also where its numbers went bad."""

import json
import math

import pytest

from orchestrator.strict_json import strict_json


def refuse(word: str) -> float:
    raise AssertionError(f"{word} is no JSON")


def test_numbers_that_are_not_finite_are_null_wherever_they_stand() -> None:
    row = {"loss": math.nan, "norms": [1.5, math.inf, (-math.inf, 2)], "inner": {"x": math.nan}, "step": 3, "ok": True}
    read = json.loads(strict_json(row), parse_constant=refuse)
    assert read == {"loss": None, "norms": [1.5, None, [None, 2]], "inner": {"x": None}, "step": 3, "ok": True}


def test_what_json_cannot_hold_is_no_null() -> None:
    with pytest.raises(TypeError):
        strict_json({"folder": object()})
