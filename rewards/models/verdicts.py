"""What a judge said, read within bounds. Pure functions on untrusted text, linear in its length; nothing is evaluated.

Each reads the *last* statement of its kind near the end, because a judge reasons before it decides, and raises
`ModelFailed` of the kind `malformed` where there is none, or one that is out of range.
"""

import re

from rewards.models.asking import ModelFailed

LAST = 4000
"""Characters of a judge's text that are looked at, from its end."""
_SCORE = re.compile(r"\bscore[^\w\-]{0,8}(-?\d{1,6}(?:\.\d{1,6})?)(?![\d.]*\d|e\d)", re.IGNORECASE)
_VERDICT = re.compile(r"\b(?:verdict|decision)\W{0,8}([A-Za-z]{1,12})\b", re.IGNORECASE)
_STEPS = re.compile(r"\bwrong steps?\s{0,4}[:=*]{1,4}([^\n]{0,400})", re.IGNORECASE)
_WORDS = {"yes": True, "correct": True, "true": True, "no": False, "incorrect": False, "false": False}


def score_in(text: str, low: float, high: float) -> float:
    """``Score: 7`` as a share of the way from `low` to `high`, in [0, 1]."""
    found = _SCORE.findall(text[-LAST:])
    if not found:
        raise ModelFailed("malformed", "the judge states no score")
    value = float(found[-1])
    if not low <= value <= high:
        raise ModelFailed("malformed", f"the judge's score is outside of {low:g} to {high:g}")
    return (value - low) / (high - low)


def yes_in(text: str) -> bool:
    """``Verdict: yes``, or a text that is one of the words alone."""
    found = _VERDICT.findall(text[-LAST:])
    word = (found[-1] if found else text.strip().strip(".*!").strip()).lower()
    if word not in _WORDS:
        raise ModelFailed("malformed", "the judge says neither yes nor no")
    return _WORDS[word]


def letter_in(text: str, letters: str) -> str:
    """``Verdict: A``, in upper case."""
    found = _VERDICT.findall(text[-LAST:])
    letter = found[-1].upper() if found else ""
    if len(letter) != 1 or letter not in letters:
        raise ModelFailed("malformed", f"the judge chooses none of {', '.join(letters)}")
    return letter


def steps_in(text: str, steps: int) -> frozenset[int]:
    """``Wrong steps: 2, 3`` or ``Wrong steps: none``: numbers between 1 and `steps`."""
    found = _STEPS.findall(text[-LAST:])
    if not found:
        raise ModelFailed("malformed", "the judge names no steps")
    said = found[-1].strip().strip("*.").strip().lower()
    if said == "none":
        return frozenset()
    if not re.fullmatch(r"\d{1,4}(?:\s{0,4}(?:,|and|\s)\s{0,4}\d{1,4}){0,99}", said):
        raise ModelFailed("malformed", "the judge's steps are no list of numbers")
    numbers = frozenset(int(number) for number in re.findall(r"\d+", said))
    if not all(1 <= number <= steps for number in numbers):
        raise ModelFailed("malformed", f"the judge names a step outside of 1 to {steps}")
    return numbers
