"""The soft punishment of long answers, by hand."""

import pytest

from rewards.overlong_term import overlong
from rewards.response import Response


def of(tokens: int, **metadata: int) -> Response:
    return Response("a", "?", "text", response_tokens=tokens, metadata=metadata)


@pytest.mark.parametrize(
    ("tokens", "value"), [(0, 0.0), (80, 0.0), (81, -0.05), (90, -0.5), (99, -0.95), (100, -1.0), (500, -1.0)]
)
def test_it_falls_evenly_within_the_buffer(tokens: int, value: float) -> None:
    assert overlong(of(tokens), longest=100, buffer=20) == pytest.approx(value)
    assert overlong(of(tokens, budget=100), buffer=20) == pytest.approx(value)


def test_a_length_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="under no budget"):
        overlong(of(5), buffer=2)
    for buffer in (0, 101):
        with pytest.raises(ValueError, match="must be from 1 to longest=100"):
            overlong(of(5), longest=100, buffer=buffer)
