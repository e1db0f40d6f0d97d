r"""Where the final answer stands in a model's text. Pure functions on untrusted text, linear in its length.

Each finds the *last* mark of its kind, because a chain of thought may try several before it settles, and answers
None where there is no such mark or it was never closed.
"""

import re

_ANSWER_WORD = re.compile(r"\banswer(?:\s+is\b\s*:?|\s*:)", re.IGNORECASE)
_BOXED = re.compile(r"\\(?:boxed|fbox)\s*\{")
_FENCE = re.compile(r"( {0,3})(`{3,}|~{3,})[ \t]*([^\s`]*)[^`]*")
_BRACE = re.compile(r"\\[{}\\]|[{}]")


def last_boxed(text: str) -> str | None:
    r"""Content of the last closed ``\boxed{...}``, braces balanced; escaped braces do not count."""
    for start in reversed([match.end() for match in _BOXED.finditer(text)][-_BOXES_TRIED:]):
        depth = 1
        for brace in _BRACE.finditer(text, start):
            depth += {"{": 1, "}": -1}.get(brace.group(), 0)
            if depth == 0:
                return text[start : brace.start()].strip()
    return None


_BOXES_TRIED = 8
"""Unclosed boxes looked at, from the end: keeps the cost linear where a model repeats an open one a thousand times."""


def after_last(text: str, mark: str) -> str | None:
    """All text after the last `mark`, stripped."""
    _, found, after = text.rpartition(mark)
    return after.strip() if found else None


def inside_last_tag(text: str, opening: str, closing: str) -> str | None:
    """Text between the last `closing` and the `opening` before it, stripped."""
    end = text.rfind(closing)
    start = text.rfind(opening, 0, end) if end >= 0 else -1
    return text[start + len(opening) : end].strip() if start >= 0 else None


def after_answer_word(text: str) -> str | None:
    """First line with content after the last "answer:" or "answer is"; emphasis marks are dropped."""
    matches = list(_ANSWER_WORD.finditer(text))
    return first_line(text[matches[-1].end() :].lstrip("*_ \t")) if matches else None


def by_marker(text: str, marker: str) -> str | None:
    r"""The answer by a marker that a recipe states.

    ``\boxed{}`` takes the last box, ``<answer></answer>`` (any pair of tags) what stands between them, and anything
    else what follows its last occurrence.
    """
    if marker == r"\boxed{}":
        return last_boxed(text)
    tags = re.fullmatch(r"(<[^/<>][^<>]*>)(</[^<>]+>)", marker)
    if tags:
        return inside_last_tag(text, tags[1], tags[2])
    return after_last(text, marker)


def stated_answer(text: str) -> str | None:
    r"""The first found of: the last box; the line after the last ``####``; what the last ``<answer>`` tags hold, which
    may be a sentence; what follows the last "answer:" or "answer is"."""
    found = (place(text) for place in (last_boxed, _after_hashes, _inside_answer_tags, after_answer_word))
    return next((answer for answer in found if answer is not None), None)


def _after_hashes(text: str) -> str | None:
    marked = after_last(text, "####")
    return None if marked is None else first_line(marked)


def _inside_answer_tags(text: str) -> str | None:
    inside = inside_last_tag(text, "<answer>", "</answer>")
    return inside if inside is None else after_answer_word(inside) or inside


def first_line(text: str) -> str | None:
    """The first line that is not blank, stripped."""
    return next((line.strip() for line in text.splitlines() if line.strip()), None)


def last_line(text: str) -> str | None:
    """The last line that is not blank, stripped."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), None)


def last_code_block(text: str, *languages: str) -> str | None:
    """Content of the last closed fenced block (three backticks or tildes, or more) in one of the languages.

    A block that names no language counts as any. A fence that names a language inside an open block of the same
    indentation starts anew: the model forgot to close.
    """
    found: str | None = None
    fence, indent, begun, language = "", "", 0, ""
    lines = text.split("\n")
    for number, line in enumerate(lines):
        match = _FENCE.fullmatch(line.rstrip())
        if match is None:
            continue
        mark, info = match[2], match[3].lower()
        if fence and mark[0] == fence[0] and len(mark) >= len(fence) and not info:
            if not language or language in languages:
                found = "\n".join(lines[begun:number])
            fence = ""
        elif not fence or (info and mark == fence and match[1] == indent):
            fence, indent, begun, language = mark, match[1], number + 1, info
    return found
