"""The `swe_rl` term: how near a patch is to the one that the project took. Nothing is executed."""

import difflib
import re
from collections.abc import Mapping

from rewards.registry import Example, RefusedOptionError, term
from rewards.response import Response

_BLOCK = re.compile(
    r"^(?P<path>[^\n`<>]+?)\s*\n<{5,9} SEARCH\n(?P<old>.*?)^={5,9}\n(?P<new>.*?)^>{5,9} REPLACE\s*$",
    re.DOTALL | re.MULTILINE,
)
_EXAMPLE = Response(
    "e",
    "",
    "a.py\n<<<<<<< SEARCH\nx = 1\n=======\nx = 2\n>>>>>>> REPLACE\n",
    metadata={"before": {"a.py": "x = 1\n"}, "after": {"a.py": "x = 2\n"}},
)


@term("swe_rl", example=Example(_EXAMPLE, 1.0))
def patch_reward(response: Response, *, bad_format: float = -1.0, longest: int = 50_000) -> float:
    """Mean over the files that either patch changes of SequenceMatcher.ratio of the two diffs, in [0, 1]; `bad_format`
    where there is no patch: SWE-RL (arXiv 2502.18449).

    A patch is a series of blocks: a path, ``<<<<<<< SEARCH``, lines to find, ``=======``, lines in their place,
    ``>>>>>>> REPLACE``. Lines that the file does not have make it no patch; a file that one of the two alone changes
    counts 0. The data's columns ``before`` and ``after`` map paths to contents.

    Args:
        longest: characters of a diff that are compared; the ratio's time grows with the square of them.
    """
    if longest < 1:
        raise RefusedOptionError(f"longest={longest} must be above 0")
    before, after = _files(response, "before"), _files(response, "after")
    patched = _patched(response.text, before)
    if patched is None:
        return bad_format
    given, right = _diffs(before, patched), _diffs(before, after)
    paths = sorted(given.keys() | right.keys())
    if not paths:
        return 1.0
    return sum(_ratio(given.get(path), right.get(path), longest) for path in paths) / len(paths)


def _patched(text: str, before: Mapping[str, str]) -> dict[str, str] | None:
    """The files with all blocks applied, None where there is no block or one of them does not fit."""
    blocks = list(_BLOCK.finditer(text))
    files = dict(before)
    for block in blocks:
        path = block["path"].strip().removeprefix("### ")
        if path not in files or block["old"] not in files[path]:
            return None
        files[path] = files[path].replace(block["old"], block["new"], 1)
    return files if blocks else None


def _diffs(before: Mapping[str, str], after: Mapping[str, str]) -> dict[str, str]:
    """Unified diffs, without their headers, of the files that differ."""
    changed = sorted(path for path in before.keys() | after.keys() if before.get(path, "") != after.get(path, ""))
    return {path: _diff(before.get(path, ""), after.get(path, "")) for path in changed}


def _diff(old: str, new: str) -> str:
    lines = difflib.unified_diff(old.splitlines(keepends=True), new.splitlines(keepends=True))
    return "".join(list(lines)[2:])


def _ratio(given: str | None, right: str | None, longest: int) -> float:
    if given is None or right is None:
        return 0.0
    return difflib.SequenceMatcher(None, given[:longest], right[:longest], autojunk=False).ratio()


def _files(response: Response, column: str) -> dict[str, str]:
    files = response.metadata.get(column)
    if not isinstance(files, dict):
        raise ValueError(f"the data have no column {column!r} that maps paths to contents")
    return {path: str(content) for path, content in files.items()}
