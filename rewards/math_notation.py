r"""One way of writing for what people and models write in several: look-alike signs, exponents, repeating decimals.

Pure functions on untrusted text, linear in its length. What is rewritten keeps its value: superscripts and other digits
that NFKC would turn into plain ones (``7²`` into ``72``) are left alone.
"""

import re
from fractions import Fraction

_FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}
_LOOK_ALIKES = {ord(dash): "-" for dash in "−–‐‑﹣"} | {ord(sign): None for sign in "\u200b\u200c\u200d\u2060\ufeff"}
_SIGNS = _FULL_WIDTH | _LOOK_ALIKES
_EXPONENT = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)[eE]([-+]?\d{1,3})(?![\w.])", re.ASCII)
_REPEATING = re.compile(r"(?P<sign>-?)(?P<whole>\d+)\.(?P<once>\d*)\\overline\{(?P<again>\d+)\}", re.ASCII)
_SCALE = re.compile(r"\b(?:hundred|thousand|million|billion|trillion|dozen)s?\b", re.IGNORECASE)


def rewritten(text: str) -> str:
    r"""The text with ASCII signs for their look-alikes, ``\times 10^{n}`` for an exponent behind an e, and a fraction
    for a repeating decimal."""
    plain = _EXPONENT.sub(r"\1 \\times 10^{\2}", text.translate(_SIGNS)).strip()
    value = repeating_decimal(plain)
    return plain if value is None else f"{value.numerator}/{value.denominator}"


def repeating_decimal(text: str) -> Fraction | None:
    r"""The value of ``0.1\overline{6}``, None for anything else."""
    match = _REPEATING.fullmatch(text)
    if match is None:
        return None
    once, again = match["once"], match["again"]
    shifted = Fraction(int(again), 10 ** len(again) - 1) / 10 ** len(once)
    value = Fraction(f"{match['whole']}.{once or '0'}") + shifted
    return -value if match["sign"] else value


def scale_words(text: str) -> tuple[str, ...]:
    """Words that make another number of the one before them, as ``12 million``."""
    return tuple(word.lower().rstrip("s") for word in _SCALE.findall(text))
