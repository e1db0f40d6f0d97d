"""Options of a part that was chosen by name: the keyword-only parameters of its function or class, with their defaults.

So a part declares its knobs by writing them down once, and a recipe's misspelt or mistyped option is refused by name.
"""

import difflib
import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

T = TypeVar("T")
Option = float | int | bool | str


class OptionError(ValueError):
    """An option that the part has not, or a value that it does not take. `option` is its name."""

    def __init__(self, option: str, message: str) -> None:
        super().__init__(message)
        self.option = option


def options_of(part: Callable[..., object]) -> dict[str, object]:
    """Names and defaults of a part's options."""
    return {
        parameter.name: parameter.default
        for parameter in inspect.signature(part).parameters.values()
        if parameter.kind is parameter.KEYWORD_ONLY
    }


def with_options(part: Callable[..., T], options: Mapping[str, Option]) -> Callable[..., T]:
    """The part with these options set, each checked against its annotation.

    Raises:
        OptionError: see there.
    """
    known = options_of(part)
    values: dict[str, object] = {}
    for name, value in options.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f", did you mean {near[0]}?" if near else "."
            raise OptionError(name, f"there is no such option{hint} It has {', '.join(known) or 'none'}")
        annotation = inspect.signature(part).parameters[name].annotation
        try:
            values[name] = TypeAdapter(annotation).validate_python(value)
        except ValidationError as error:
            raise OptionError(name, f"{value!r}: {error.errors()[0]['msg']}") from None
    return partial(part, **values)
