"""Comparing what programs print and return, by example and on anything at all."""

import json
import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rewards.extraction import last_code_block
from rewards.output_match import same_output, same_value
from rewards.sandbox.inside import plain


@pytest.mark.parametrize(
    ("expected", "printed"),
    [
        ("1 2 3", b"1\n2\r\n3\n\n"),
        ("0.5", b".5"),
        ("0.5", b"0.5000004"),
        ("0.5", b"5e-1"),
        ("3.0", b"3"),
        ("1e3", b"1000.0005"),
        ("-0.0", b"0"),
        ("100000000.0", b"100000001.0"),
        ("NO", b" NO "),
        ("", b" \n"),
        ("é", "é".encode()),
        ("nan", b"nan"),
    ],
)
def test_equal_outputs(expected: str, printed: bytes) -> None:
    assert same_output(expected, printed, 1e-6)


@pytest.mark.parametrize(
    ("expected", "printed"),
    [
        ("1 2 3", b"1 2"),
        ("1 2", b"1 2 3"),
        ("12", b"1 2"),
        ("3", b"3.0"),
        ("3", b"3.0000000001"),
        ("3", b"03"),
        ("0.5", b"0.51"),
        ("0.5", b"nan"),
        ("0.5", b"inf"),
        ("0.5", b"0.5x"),
        ("1e999", b"1e998x"),
        ("NO", b"No"),
        ("1000000000000000001", b"1000000000000000000"),
        ("a", b"\xff"),
        ("0.5", b"0,5"),
    ],
)
def test_unequal_outputs(expected: str, printed: bytes) -> None:
    assert not same_output(expected, printed, 1e-6)


@given(st.text(), st.binary())
@example("1." + "1" * 5000, b"1." + b"1" * 5001)
@example("0e9999", b"1e99999")
def test_no_output_is_too_strange_to_compare(expected: str, printed: bytes) -> None:
    same_output(expected, printed, 1e-6)
    lone_surrogates = any("\ud800" <= character <= "\udfff" for character in expected)
    assert lone_surrogates or same_output(expected, expected.encode(), 1e-6)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**6), 10**6)
    | st.floats(allow_nan=False)
    | st.text(max_size=5)
    | st.binary(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(st.integers() | st.text(max_size=3), inner, max_size=3)
        | st.sets(st.integers() | st.text(max_size=3), max_size=4)
    ),
    max_leaves=12,
)


def written(value: object) -> bytes:
    return json.dumps(plain(value)).encode()


@given(VALUES)
def test_a_value_equals_itself_and_no_wrapping_of_itself(value: object) -> None:
    for as_json in (True, False):
        assert same_value(plain(value), written(value), 0.0, as_json=as_json)
        assert not same_value(plain(value), written([value]), 0.0, as_json=as_json)
        assert not same_value(plain([value]), written(value), 0.0, as_json=as_json)


@given(
    VALUES,
    st.binary(max_size=60),
    st.recursive(st.none() | st.integers() | st.text(max_size=4), st.lists, max_leaves=8),
)
def test_nothing_that_a_program_writes_breaks_the_comparison(value: object, noise: bytes, shaped: object) -> None:
    for as_json in (True, False):
        same_value(plain(value), noise, 1e-6, as_json=as_json)
        same_value(plain(value), json.dumps(shaped).encode(), 1e-6, as_json=as_json)
        same_value(plain(value), json.dumps(["dict", shaped]).encode(), 1e-6, as_json=as_json)


@pytest.mark.parametrize(
    ("expected", "got", "as_json", "is_same"),
    [
        ([1, 2], (1, 2), True, True),
        ([1, 2], (1, 2), False, False),
        ({"1": [2]}, {1: (2,)}, True, True),
        ({"1": 2}, {1: 2}, False, False),
        ({1, 2}, frozenset((2, 1)), False, True),
        ([1, 2], {1, 2}, True, False),
        (1, True, True, True),
        (1.0, 1, False, True),
        (0.1 + 0.2, 0.3, False, True),
        (10**20, 10**20 + 1, True, False),
        (10**400, 1e308, True, False),
        ("1", 1, True, False),
        (None, 0, True, False),
        (None, None, True, True),
        (math.nan, math.nan, True, True),
        (b"a", "a", False, False),
        (object(), object, False, False),
    ],
)
def test_values_of_kinds(expected: object, got: object, as_json: bool, is_same: bool) -> None:
    assert same_value(plain(expected), written(got), 1e-9, as_json=as_json) is is_same


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("```python\na\n```", "a"),
        ("```python\na\n```\nno:\n```py\nb\n```", "b"),
        ("```Python3 title=x\na\n```", "a"),
        ("```\na\n```", "a"),
        ("```python\na\n```\nprints\n```text\n3\n```", "a"),
        ("~~~python\n```\n~~~", "```"),
        ("````python\n```\na\n```\n````", "```\na\n```"),
        ("```python\r\na\r\nb\r\n```\r\n", "a\r\nb\r"),
        ("  ```python\n  a\n  ```", "  a"),
        ("```python\nold\n```python\nnew\n```", "new"),
        ("```python\na", None),
        ("```python\na\n```\n```python\nb", "a"),
        ("a ```python``` b", None),
        ("    ```python\n    a\n    ```", None),
        ("```javascript\na\n```", None),
        ("```python\n```", ""),
        ("", None),
    ],
)
def test_the_last_closed_block_is_the_program(text: str, code: str | None) -> None:
    assert last_code_block(text, "python", "python3", "py") == code


@given(st.text(st.sampled_from("`~ \npythona\t\r\ud800"), max_size=200))
@example("```\n" * 20_000)
@example("`" * 100_000)
def test_no_text_is_too_strange_to_look_for_code_in(text: str) -> None:
    code = last_code_block(text, "python")
    assert code is None or code in text
