"""Trees of settings laid over one another. Pure; no argument is changed.

A mapping is laid over a mapping key by key; anything else takes the place of what was there. Where settings are each
other's rivals, such as the sources of prompts, one that is laid on top takes the others' place too.
"""

from collections.abc import Iterator, Mapping
from copy import deepcopy

Tree = dict[str, object]
Rivals = Mapping[str, tuple[str, ...]]


def laid_over(below: Mapping[str, object], above: Mapping[str, object], rivals: Rivals | None = None) -> Tree:
    """The settings of both; where both have a value, that of `above`.

    Args:
        rivals: dotted names of settings, each with those that it takes the place of.
    """
    bottom = deepcopy(dict(below))
    for name in dotted(above):
        for rival in (rivals or {}).get(name, ()):
            if value_at(above, name) is not None and value_at(above, rival) is None:
                bottom = without(bottom, rival)
    return _merged(bottom, above)


def _merged(below: Tree, above: Mapping[str, object]) -> Tree:
    merged = dict(below)
    for key, value in above.items():
        lower = merged.get(key)
        both = isinstance(lower, dict) and isinstance(value, Mapping)
        merged[key] = _merged(lower, value) if both else deepcopy(value)  # type: ignore[arg-type]
    return merged


def dotted(tree: Mapping[str, object], prefix: str = "") -> Iterator[str]:
    """Dotted names of everything in a tree, mappings included."""
    for key, value in tree.items():
        yield f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from dotted(value, f"{prefix}{key}.")


def value_at(tree: Mapping[str, object], name: str) -> object:
    """The value of a dotted name; None where there is none."""
    node: object = tree
    for part in name.split("."):
        if not isinstance(node, Mapping) or part not in node:
            return None
        node = node[part]
    return node


def without(tree: Mapping[str, object], name: str) -> Tree:
    """The tree without what a dotted name stands for."""
    head, _, rest = name.partition(".")
    inside = tree.get(head)
    if not rest:
        return {key: value for key, value in tree.items() if key != head}
    return {**tree, head: without(inside, rest)} if isinstance(inside, Mapping) else dict(tree)
