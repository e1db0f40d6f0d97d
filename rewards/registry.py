"""The named reward terms: a name from a recipe becomes a function from a response to a value.

Two kinds of name. A plain one (`math`) is a term of this package: `BUILT_IN` says which module registers it, so that
a name can be checked without importing that module's verifier. A name with a colon (`package.module:function`) is
a user's own function, imported from the path of the process that scores.
"""

import difflib
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Concatenate, ParamSpec, TypeVar

from rewards.response import Response

TermValue = float | Mapping[str, float]
TermFunction = Callable[..., TermValue]
"""A response and the recipe's options as keywords in; one value, or several named ones, out."""

BUILT_IN: Mapping[str, str] = {
    "format": "rewards.format_term",
    "math": "rewards.math_answer",
    "overlong": "rewards.overlong_term",
    "reasoning_gym": "rewards.reasoning_gym_task",
}

_Options = ParamSpec("_Options")
_Value = TypeVar("_Value", bound=TermValue)


class UnknownTermError(ValueError):
    """No reward term has this name; one line that names the nearest ones."""


@dataclass(frozen=True, slots=True)
class Term:
    """A resolved reward term.

    Attributes:
        function: `(response, **options) -> value`.
        example: a response to score once before the first real one, so that what the verifier loads or compiles on
            first use is not taken from a sample's deadline; None where there is nothing to load.
        confined: may not act on the machine while it scores (`rewards.confinement`). So run the terms of this
            package; a user's own function may do what it likes.
    """

    function: TermFunction
    example: Response | None = None
    confined: bool = False


@dataclass(slots=True)
class TermRegistry:
    """Terms by name; a name is given once."""

    _terms: dict[str, Term] = field(default_factory=dict)

    def register(self, name: str, term: Term) -> None:
        """Raises: ValueError where the name is taken."""
        if name in self._terms:
            taken = self._terms[name].function
            raise ValueError(f"reward term {name!r} is already {taken.__module__}.{taken.__qualname__}")
        self._terms[name] = term

    def __getitem__(self, name: str) -> Term:
        return self._terms[name]

    def __contains__(self, name: str) -> bool:
        return name in self._terms


TERMS = TermRegistry()


def term(
    name: str, *, example: Response | None = None
) -> Callable[[Callable[Concatenate[Response, _Options], _Value]], Callable[Concatenate[Response, _Options], _Value]]:
    """Register the decorated function as the term `name`; see `Term` for `example`."""

    def register(
        function: Callable[Concatenate[Response, _Options], _Value],
    ) -> Callable[Concatenate[Response, _Options], _Value]:
        TERMS.register(name, Term(function, example, confined=True))
        return function

    return register


def check_name(name: str) -> str:
    """The name itself, where it can be a term's: nothing is imported, so a user's function is not looked at.

    Raises: UnknownTermError with the near misses.
    """
    module, colon, function = name.partition(":")
    if name in BUILT_IN or name in TERMS:
        return name
    if colon and function.isidentifier() and all(part.isidentifier() for part in module.split(".")):
        return name
    raise UnknownTermError(
        f"no reward term {name!r}{_nearest(name, BUILT_IN)}; choose one of {', '.join(sorted(BUILT_IN))}, "
        "or name your own as package.module:function"
    )


def resolve(name: str) -> Term:
    """The term of this name; imports the module that holds it.

    Raises: UnknownTermError where there is none; whatever the import of a user's module raises.
    """
    check_name(name)
    if name in BUILT_IN:
        importlib.import_module(BUILT_IN[name])
    if name in TERMS:
        return TERMS[name]
    module_name, _, function_name = name.partition(":")
    module = importlib.import_module(module_name)
    function = getattr(module, function_name, None)
    if not callable(function):
        raise UnknownTermError(f"{module_name} has no function {function_name!r}{_nearest(function_name, dir(module))}")
    return Term(function)


def _nearest(name: str, known: Mapping[str, str] | list[str]) -> str:
    matches = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f" (did you mean {' or '.join(matches)}?)" if matches else ""
