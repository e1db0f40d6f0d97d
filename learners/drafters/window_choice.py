"""Which stretches of a packed row become training windows: uniform over whole sequences, seeded.

Drafts are used most at the end of long answers, so the first tokens of an answer must not be all that is learned from
(fastrl and verl-SpeCo keep the first 512 by default).
"""

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Stretch:
    """`length` tokens of sequence number `sequence`, from its place `start` on."""

    sequence: int
    start: int
    length: int


def choose_stretches(
    lengths: Sequence[int], *, window_length: int, token_budget: int, rng: random.Random
) -> list[Stretch]:
    """Cut every sequence into windows from a random phase on, and draw windows until the budget is spent.

    Each token lies in exactly one window and each window has the same chance, so every token does, wherever it
    stands; but for pieces of a single token, which nothing can be learned from, and for the last window drawn, which
    is left out where it does not fit.

    Args:
        lengths: tokens of each sequence.
        token_budget: most tokens in all; at least `window_length`.

    Returns: in order of sequence and start.
    """
    pieces = [
        Stretch(index, start, end - start)
        for index, length in enumerate(lengths)
        for start, end in _cut(length, window_length, rng)
        if end - start > 1
    ]
    rng.shuffle(pieces)
    chosen: list[Stretch] = []
    left = token_budget
    for piece in pieces:
        if piece.length > left:
            break
        chosen.append(piece)
        left -= piece.length
    return sorted(chosen, key=lambda piece: (piece.sequence, piece.start))


def _cut(length: int, window_length: int, rng: random.Random) -> list[tuple[int, int]]:
    phase = rng.randrange(window_length) + 1
    bounds = [0, *range(phase, length, window_length), length]
    return list(itertools.pairwise(bounds))
