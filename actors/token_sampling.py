"""How one token is drawn from logits: the definition that the engines' recorded logprobs refer to.

vLLM computes the same (`logprobs_mode="processed_logprobs"`); the contract tests hold the engines to it.
"""

from typing import Protocol

import torch

from actors.engine import Sampling


class Chance(Protocol):
    """What decides where sampling is random. The tests put one in its place that plays out every outcome."""

    def pick(self, probabilities: torch.Tensor) -> int:
        """An index, drawn with these probabilities [n], which need not add up to one."""

    def happens(self, probability: float) -> bool:
        """True with this probability."""


class SeededChance:
    """By a request's own generator, so that its draws do not depend on what else runs."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def pick(self, probabilities: torch.Tensor) -> int:
        return int(torch.multinomial(probabilities, 1, generator=self.generator))

    def happens(self, probability: float) -> bool:
        return float(torch.rand((), generator=self.generator, dtype=torch.float64)) < probability


def processed_logprobs(logits: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """[vocabulary] float32 logprobs of the distribution that a token is drawn from.

    Temperature first, then the `top_k` likeliest tokens (ties with the k-th stay), then nucleus sampling (Holtzman et
    al., arXiv 1904.09751): the fewest likeliest tokens whose probabilities reach `top_p`. What is left is normalised.
    A greedy token (`temperature` 0) counts as drawn at temperature 1.

    Args:
        logits: [vocabulary], any float type.
    """
    logits = logits.float()
    if sampling.temperature > 0:
        logits = logits / sampling.temperature
    if 0 < sampling.top_k < logits.numel():
        smallest_kept = logits.topk(sampling.top_k).values[-1]
        logits = logits.masked_fill(logits < smallest_kept, -torch.inf)
    if sampling.top_p < 1:
        probabilities, order = logits.softmax(-1).sort(descending=True)
        before = probabilities.cumsum(-1) - probabilities
        logits = logits.index_fill(0, order[before >= sampling.top_p], -torch.inf)
    return logits.log_softmax(-1)


def draw(logits: torch.Tensor, sampling: Sampling, chance: Chance) -> tuple[int, float]:
    """A token and its logprob.

    Args:
        logits: [vocabulary].
    """
    if sampling.temperature == 0:
        token = int(logits.argmax())
        return token, float(logits.float().log_softmax(-1)[token])
    logprobs = processed_logprobs(logits, sampling)
    token = chance.pick(logprobs.exp())
    return token, float(logprobs[token])
