"""What the logits behind an answer across weight updates must be, by plain transformers forward passes.

Two truths: `fresh_kv_logits` where each segment's weights have read the whole sequence, `kept_kv_logits` where
they went on over the KV that older weights had left.
"""

from collections.abc import Mapping, Sequence

import torch
from transformers import DynamicCache, Qwen3ForCausalLM

from actors.engine import Segment

Models = Mapping[int, Qwen3ForCausalLM]
"""By version."""


@torch.inference_mode()
def fresh_kv_logits(models: Models, prompt: tuple[int, ...], segments: Sequence[Segment]) -> list[torch.Tensor]:
    """[tokens, vocabulary] logits for each segment: its model's forward pass over all before it and itself."""
    before = prompt
    expected: list[torch.Tensor] = []
    for segment in segments:
        ids = torch.tensor([before + segment.token_ids])
        expected.append(models[segment.version](input_ids=ids).logits[0, len(before) - 1 : -1])
        before += segment.token_ids
    return expected


@torch.inference_mode()
def kept_kv_logits(models: Models, prompt: tuple[int, ...], segments: Sequence[Segment]) -> list[torch.Tensor]:
    """[tokens, vocabulary] logits for each segment: its model decodes on over the KV that those before it computed."""
    cache = DynamicCache(config=next(iter(models.values())).config)
    unread = prompt
    expected: list[torch.Tensor] = []
    for segment in segments:
        ids = torch.tensor([unread + segment.token_ids[:-1]])
        logits = models[segment.version](input_ids=ids, past_key_values=cache, use_cache=True).logits[0]
        expected.append(logits[len(unread) - 1 :])
        unread = segment.token_ids[-1:]
    return expected


def gaps(segments: Sequence[Segment], expected: Sequence[torch.Tensor], temperature: float = 1.0) -> list[torch.Tensor]:
    """[tokens] for each segment: |recorded - expected| logprob of the sampled token, nats."""
    return [
        (torch.tensor(segment.logprobs) - _of(segment.token_ids, logits / temperature)).abs()
        for segment, logits in zip(segments, expected, strict=True)
    ]


def _of(token_ids: tuple[int, ...], logits: torch.Tensor) -> torch.Tensor:
    return logits.log_softmax(-1).gather(1, torch.tensor(token_ids)[:, None])[:, 0]
