"""How speculation would go along a finished answer, from a drafter's unrolled forward pass alone."""

import torch
from transformers import PreTrainedModel

from learners.drafters.drafter import Drafter
from learners.drafters.target import FINAL
from learners.drafters.windows import pack_windows
from tests.learners.drafters.builders import CPU, whole_windows


def walk(
    drafter: Drafter, target: PreTrainedModel, prompt: tuple[int, ...], response: tuple[int, ...], length: int
) -> int:
    """Drafted tokens that are accepted where the drafter's likeliest tokens are verified: each draft begins behind the
    outcome of the one before, and leaves room for one token more."""
    sequence = [*prompt, *response]
    packed = pack_windows(whole_windows(target, [sequence]), sorted({*drafter.reads, FINAL}), CPU)
    with torch.no_grad():
        guesses = [drafter.logits(step.features).argmax(-1).tolist() for step in drafter.unroll(packed, length)]
    accepted, place = 0, len(prompt) + 1
    while place < len(sequence):
        room = min(length, len(sequence) - place - 1)
        right = 0
        while right < room and guesses[right][place - 2] == sequence[place + right]:
            right += 1
        accepted += right
        place += right + 1
    return accepted
