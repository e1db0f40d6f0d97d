"""Names for interchangeable parts: recipes choose an advantage or a surrogate by the name it was registered with.

A part of the user's own needs no name: ``module:attribute`` is imported.
"""

import difflib
from collections.abc import Callable
from importlib import import_module
from typing import Generic, TypeVar

T = TypeVar("T")


class UnknownNameError(LookupError):
    """Nothing is registered under a name; the message offers near misses."""


class Registry(Generic[T]):
    """Values of one kind by name. `kind` is the word that messages use, e.g. ``"algorithm.advantage"``."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that adds a value.

        Raises:
            ValueError: the name is taken.
        """

        def add(value: T) -> T:
            if name in self._entries:
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            self._entries[name] = value
            return value

        return add

    def __getitem__(self, name: str) -> T:
        """Raises: UnknownNameError."""
        if ":" in name:
            return self._imported(name)
        if name not in self._entries:
            near = difflib.get_close_matches(name, self._entries, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            known = ", ".join(self.names())
            raise UnknownNameError(f"{self.kind}={name!r} is unknown: {hint}choose one of {known}")
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        """Whether it is registered, or names something to import, which is tried when it is asked for."""
        return name in self._entries or (isinstance(name, str) and ":" in name)

    def _imported(self, name: str) -> T:
        module, _, attribute = name.partition(":")
        try:
            found: T = getattr(import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise UnknownNameError(f"{self.kind}={name!r} cannot be imported: {error}") from error
        return found

    def names(self) -> list[str]:
        return sorted(self._entries)
