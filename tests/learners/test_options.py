"""Options of parts that are chosen by name."""

from typing import Literal

import pytest

from learners.options import OptionError, options_of, with_options


def part(
    given: int, *, tau: float = 1.0, kind: Literal["soft", "hard"] = "soft", on: bool = True
) -> tuple[object, ...]:
    return given, tau, kind, on


def test_what_can_be_set_are_the_keyword_only_parameters() -> None:
    assert options_of(part) == {"tau": 1.0, "kind": "soft", "on": True}


def test_options_are_bound_and_the_rest_keeps_its_default() -> None:
    assert with_options(part, {"tau": 2, "kind": "hard"})(3) == (3, 2.0, "hard", True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tao": 2.0}, "did you mean tau"),
        ({"given": 2.0}, "no such option"),
        ({"kind": "loud"}, "'loud'"),
        ({"tau": "much"}, "'much'"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(options: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message) as refusal:
        with_options(part, options)  # type: ignore[arg-type]
    assert refusal.value.option == next(iter(options))
