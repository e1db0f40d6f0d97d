"""What the learner's benchmark trains: a model with random weights, and long-tailed batches of answers."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from learners.batch import TrainBatch, TrainSequence
from learners.learner import Learner
from learners.settings import AlgorithmSettings, TrainerSettings

PROMPT = 24
"""Tokens of each prompt."""


@dataclass(frozen=True, slots=True)
class Size:
    """A model and a batch that suit a device.

    Attributes:
        median, longest: of the log-normal answer lengths (sigma 1), prompts included.
        token_budget: of a micro-batch.
    """

    layers: int
    width: int
    heads: int
    kv_heads: int
    inner: int
    vocabulary: int
    answers: int
    median: int
    longest: int
    token_budget: int


CPU_SIZE = Size(6, 512, 8, 4, 1536, 8192, answers=32, median=128, longest=1024, token_budget=2048)
GPU_SIZE = Size(28, 1024, 16, 8, 3072, 151_936, answers=256, median=512, longest=8192, token_budget=16_384)
"""The shape of a 0.6 B model."""


def size_for(device: torch.device) -> Size:
    return GPU_SIZE if device.type == "cuda" else CPU_SIZE


def write_model(folder: Path, size: Size) -> str:
    """A checkpoint of this shape; the head is not tied, so that its work is not hidden."""
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=size.vocabulary,
        hidden_size=size.width,
        intermediate_size=size.inner,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.kv_heads,
        head_dim=size.width // size.heads,
        max_position_embeddings=max(4096, 2 * size.longest),
        tie_word_embeddings=False,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    return str(folder)


def tail_lengths(size: Size, answers: int, seed: int) -> list[int]:
    """Lengths, prompts included, whose longest is `size.longest`."""
    draw = random.Random(seed)
    drawn = [round(draw.lognormvariate(0, 1.0) * size.median) for _ in range(answers - 1)]
    lengths = [min(size.longest, max(2 * PROMPT, length)) for length in drawn]
    lengths.insert(draw.randrange(answers), size.longest)
    return lengths


def make_batch(lengths: Sequence[int], vocabulary: int, seed: int) -> TrainBatch:
    """Random tokens; every answer's token takes loss."""
    draw = random.Random(seed)
    items = []
    for index, length in enumerate(lengths):
        ids = tuple(draw.randrange(vocabulary) for _ in range(length))
        count = length - PROMPT
        items.append(
            TrainSequence(
                sequence_id=str(index),
                prompt_ids=ids[:PROMPT],
                response_ids=ids[PROMPT:],
                behaviour_logprobs=(-9.0,) * count,
                versions=(0,) * count,
                advantages=(draw.gauss(0, 1),) * count,
                loss_mask=(True,) * count,
            )
        )
    return TrainBatch(version=0, sequences=tuple(items))


def open_learner(
    model: str,
    size: Size,
    dtype: str,
    device: torch.device,
    rank: int = 0,
    ranks: int = 1,
    *,
    sequence_parallel: int = 1,
    **trainer: object,
) -> Learner:
    settings = {"dtype": dtype, "token_budget": size.token_budget, **trainer}
    return Learner(
        model,
        AlgorithmSettings(),
        TrainerSettings.model_validate(settings),
        temperature=1.0,
        rank=rank,
        world_size=ranks,
        device=device,
        sequence_parallel=sequence_parallel,
    )


def training_flops(size: Size, lengths: Sequence[int]) -> float:
    """Of a forward and a backward pass: 2 a parameter and token forward, causal attention, and twice that backward."""
    head_dim = size.width // size.heads
    attention = size.width * (2 * size.heads + 2 * size.kv_heads) * head_dim
    parameters = size.layers * (attention + 3 * size.width * size.inner) + size.vocabulary * size.width
    # q k' and p v: 2 x 2 x length^2 / 2 a head dimension.
    scores = 2 * size.layers * size.heads * head_dim * sum(length * length for length in lengths)
    return 3.0 * (2.0 * parameters * sum(lengths) + scores)
