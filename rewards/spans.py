"""From rewards of parts of a text to rewards of tokens. Pure functions.

A token owns the characters of which it has a byte: a character that is cut in two belongs to both tokens.
"""

import codecs
from collections.abc import Sequence

from rewards.response import SpanReward

Offsets = Sequence[tuple[int, int]]
"""For each token the first of its characters and the first behind it; equal where it shows as no text."""


def token_offsets(pieces: Sequence[bytes]) -> list[tuple[int, int]]:
    """Characters of each token.

    Args:
        pieces: the bytes of each token; together they are the text in UTF-8, where what is no UTF-8 reads as U+FFFD.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    offsets, done = [], 0
    open_since: int | None = None  # first token of a character that is not complete
    for number, piece in enumerate(pieces):
        start = done
        done += len(decoder.decode(piece, final=number == len(pieces) - 1))
        pending = bool(decoder.getstate()[0])
        offsets.append((start, done))
        if open_since is not None and done > start:
            for earlier in range(open_since, number):
                offsets[earlier] = (offsets[earlier][0], start + 1)
            open_since = None
        if pending and open_since is None:
            open_since = number
    return offsets


def on_tokens(spans: Sequence[SpanReward], offsets: Offsets) -> list[float]:
    """The reward of each token: the sum over the spans that it shares a character with.

    A span that covers no token, because it is empty or behind the text, counts nowhere.
    """
    rewards = [0.0] * len(offsets)
    for span in spans:
        inside = [n for n, (start, stop) in enumerate(offsets) if max(start, span.start) < min(stop, span.stop)]
        for number in inside[-1:] if span.on == "last" else inside:
            rewards[number] += span.value
    return rewards
