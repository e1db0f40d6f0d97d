"""The law of an answer's first tokens under nucleus sampling, by plain forward passes, and a test against it."""

import math
from collections import Counter
from functools import cache

import torch
from transformers import Qwen3ForCausalLM

from tests.actors.subject import answer_logprobs

Tokens = tuple[int, ...]


@cache
def nucleus_law(model: Qwen3ForCausalLM, prompt: Tokens, tokens: int, top_p: float) -> dict[Tokens, float]:
    """The probability of everything that the first so many tokens behind the prompt can be, at temperature 1."""
    law: dict[Tokens, float] = {(): 1.0}
    for _ in range(tokens):
        law = {
            (*context, token): before * share
            for context, before in law.items()
            for token, share in _nucleus(answer_logprobs(model, prompt + context, (0,))[0], top_p).items()
        }
    return law


def _nucleus(logprobs: torch.Tensor, top_p: float) -> dict[int, float]:
    """The fewest likeliest tokens that reach `top_p`, with what they share."""
    ranked = logprobs.double().exp().sort(descending=True)
    kept = int((ranked.values.cumsum(-1) < top_p).sum()) + 1
    shares = ranked.values[:kept] / ranked.values[:kept].sum()
    return dict(zip(ranked.indices[:kept].tolist(), shares.tolist(), strict=True))


def assert_follows(counts: Counter[Tokens], law: dict[Tokens, float]) -> None:
    """Pearson's chi-square below its 0.999 quantile; what is expected less than five times is put together."""
    draws = counts.total()
    assert set(counts) <= set(law)
    common = [tokens for tokens, share in law.items() if share * draws >= 5]
    rest = draws - sum(counts[tokens] for tokens in common), draws * (1 - sum(law[tokens] for tokens in common))
    cells = [(counts[tokens], law[tokens] * draws) for tokens in common] + ([rest] if rest[1] >= 5 else [])
    assert len(cells) > 10
    statistic = sum((seen - expected) ** 2 / expected for seen, expected in cells)
    degrees = len(cells) - 1
    # The quantile by Wilson and Hilferty's approximation.
    assert statistic < degrees * (1 - 2 / (9 * degrees) + 3.09 * math.sqrt(2 / (9 * degrees))) ** 3
