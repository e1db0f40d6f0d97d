"""Where a model is to be found, and what opens the door."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Address:
    """A base address with its ``/v1``; `key` is shown by no log, error or file."""

    url: str
    key: str | None = field(default=None, repr=False)

    def of(self, path: str, *, beside: bool) -> str:
        """Args: beside: the route is none of OpenAI's, and stands beside the ``/v1``."""
        return (self.url.removesuffix("/v1") if beside else self.url) + path


Addresses = Mapping[str, Address]
"""By the model's name; a served model has none until its actor is there, and another when that was replaced."""
