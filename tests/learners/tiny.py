"""A tiny Qwen3 and random training data, shared by the learner's tests."""

import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from learners.batch import TrainBatch, TrainSequence
from learners.learner import Learner
from learners.settings import AlgorithmSettings, TrainerSettings
from tests.learners.ranks import CPU

VOCABULARY = 40


def tiny_model(*, tied: bool = True, seed: int = 0, **changes: object) -> Qwen3ForCausalLM:
    torch.manual_seed(seed)
    settings: dict[str, object] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 256,
        "tie_word_embeddings": tied,
        # Large enough for distributions that are far from uniform.
        "initializer_range": 0.2,
    }
    return Qwen3ForCausalLM(Qwen3Config(**{**settings, **changes}))


def write_model(folder: Path, *, tied: bool = True) -> str:
    tiny_model(tied=tied).save_pretrained(folder)
    return str(folder)


def make_learner(
    model: str,
    algorithm: Mapping[str, object] | None = None,
    rank: int = 0,
    ranks: int = 1,
    *,
    temperature: float = 1.0,
    sequence_parallel: int = 1,
    **trainer: object,
) -> Learner:
    """One rank's, on the CPU, in float32 and with small micro-batches unless `trainer` says otherwise."""
    settings = {"dtype": "float32", "learning_rate": 1e-3, "token_budget": 60, **trainer}
    return Learner(
        model,
        AlgorithmSettings.model_validate(algorithm or {}),
        TrainerSettings.model_validate(settings),
        temperature=temperature,
        rank=rank,
        world_size=ranks,
        device=CPU,
        sequence_parallel=sequence_parallel,
    )


def random_batch(*, sequences: int = 12, seed: int = 0, version: int = 3) -> TrainBatch:
    """Answers of 1 to 30 tokens with behaviour logprobs around the model's, some stale, some without loss."""
    draw = random.Random(seed)
    items = []
    for index in range(sequences):
        length = draw.randint(1, 30)
        items.append(
            TrainSequence(
                sequence_id=str(index),
                prompt_ids=tuple(draw.randrange(VOCABULARY) for _ in range(draw.randint(1, 9))),
                response_ids=tuple(draw.randrange(VOCABULARY) for _ in range(length)),
                behaviour_logprobs=tuple(draw.uniform(-5, -2) for _ in range(length)),
                versions=tuple(draw.choice((version, version, version - 1)) for _ in range(length)),
                advantages=(draw.gauss(0, 1),) * length,
                loss_mask=tuple(draw.random() < 0.9 for _ in range(length)),
            )
        )
    return TrainBatch(version=version, sequences=tuple(items))


def grouped_batch(*, seed: int = 0, version: int = 3) -> TrainBatch:
    """`random_batch` as four groups of three answers each, rewarded 0, 1 or 2."""
    batch = random_batch(seed=seed, version=version)
    draw = random.Random(seed)
    sequences = [
        replace(sequence, group_id=str(index // 3), reward=float(draw.randrange(3)))
        for index, sequence in enumerate(batch.sequences)
    ]
    return TrainBatch(version, tuple(sequences))


def tokenizer() -> PreTrainedTokenizerFast:
    words = {f"w{index}": index for index in range(VOCABULARY)}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(words, unk_token="w0")))
