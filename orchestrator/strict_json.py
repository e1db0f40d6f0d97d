"""JSON that every reader takes: a number that is not finite, which JSON does not know, is null."""

import json
import math
from collections.abc import Mapping


def strict_json(value: object, *, indent: int | None = None, ascii_only: bool = True) -> str:
    """Raises: TypeError: the value holds something that is no JSON."""
    return json.dumps(_finite(value), indent=indent, ensure_ascii=ascii_only, allow_nan=False)


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return value
