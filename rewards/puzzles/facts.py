"""Where a puzzle's data stand: in the columns of a file, or in the item of a generated task."""

from collections.abc import Mapping, Sequence

from rewards.response import Json, Response


def facts_of(response: Response) -> Mapping[str, Json]:
    """What the puzzle is made of, by name."""
    entry = response.metadata.get("entry")
    inner = entry.get("metadata") if isinstance(entry, Mapping) else None
    return inner if isinstance(inner, Mapping) else response.metadata


def whole_numbers(facts: Mapping[str, Json], name: str) -> list[int]:
    """A list of whole numbers. Raises: ValueError where there is none of this name."""
    found = facts.get(name)
    if not isinstance(found, Sequence) or isinstance(found, str) or not all(type(n) is int for n in found):
        raise ValueError(f"the data have no column {name!r} with a list of whole numbers")
    return [int(str(number)) for number in found]
