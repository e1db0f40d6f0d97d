"""How one token is drawn from logits: the definition that the engines' recorded logprobs refer to.

vLLM computes the same (`logprobs_mode="processed_logprobs"`); the contract tests hold the engines to it.
"""

import torch

from actors.engine import Sampling


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


def draw(logits: torch.Tensor, sampling: Sampling, generator: torch.Generator) -> tuple[int, float]:
    """A token and its logprob.

    Args:
        logits: [vocabulary].
        generator: the request's own, so that its draws do not depend on what else runs.
    """
    if sampling.temperature == 0:
        token = int(logits.argmax())
        return token, float(logits.float().log_softmax(-1)[token])
    logprobs = processed_logprobs(logits, sampling)
    token = int(torch.multinomial(logprobs.exp(), 1, generator=generator))
    return token, float(logprobs[token])
