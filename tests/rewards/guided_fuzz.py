"""Coverage-guided fuzzing of what reads a model's text, by atheris: what reaches new branches is varied further.

    python -m tests.rewards.guided_fuzz readers|listeners|extraction|MODULE:FUNCTION [options of libFuzzer]

Bytes choose pieces of text that parsers look for (`tests.rewards.any_text`), so that a mutation moves a mark instead of
breaking it. Ends with 0 after `-runs`; what upsets a term is shown, kept under `-artifact_prefix`, and ends it with
another code.
"""

import importlib
import sys
from collections.abc import Callable

import atheris

with atheris.instrument_imports(include=["rewards"]):
    from tests.rewards import any_text

    for name in (*any_text.READERS, *any_text.LISTENERS):
        any_text.known(name)

MOST_PIECES = 30


def text_of(chosen: atheris.FuzzedDataProvider) -> str:
    pieces = [*any_text.PIECES, *any_text.WORDS_OF_VERDICTS]
    text = ""
    for _ in range(MOST_PIECES):
        if not chosen.remaining_bytes():
            break
        number = chosen.ConsumeIntInRange(0, len(pieces))
        text += pieces[number] if number < len(pieces) else chosen.ConsumeUnicode(2)
    return text


def one_of(names: list[str], told: Callable[[str, str], None]) -> Callable[[bytes], None]:
    """The first byte chooses the term."""

    def run(data: bytes) -> None:
        chosen = atheris.FuzzedDataProvider(data)
        name = names[chosen.ConsumeIntInRange(0, len(names) - 1)]
        told(name, text_of(chosen))

    return run


def target(named: str) -> Callable[[bytes], None]:
    if named == "readers":
        return one_of(any_text.READERS, any_text.judge)
    if named == "listeners":
        return one_of(any_text.LISTENERS, lambda name, text: any_text.hear(name, text, text))
    if named == "extraction":
        return lambda data: any_text.extract(text_of(atheris.FuzzedDataProvider(data)))
    name, _, function = named.partition(":")
    with atheris.instrument_imports(include=[name]):
        told: Callable[[str], None] = getattr(importlib.import_module(name), function)
    return lambda data: told(text_of(atheris.FuzzedDataProvider(data)))


if __name__ == "__main__":
    atheris.Setup([sys.argv[0], *sys.argv[2:]], target(sys.argv[1]))
    atheris.Fuzz()
