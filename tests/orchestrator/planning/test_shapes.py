"""What is read off a model's configuration: counts that its makers publish."""

import pytest
from transformers import PretrainedConfig

from learners.settings import LoraSettings
from orchestrator.planning.engine_memory import EngineLoad, kv_bytes
from orchestrator.planning.model_shape import body_of, shape_of
from tests.orchestrator.planning.models import (
    LLAMA3_8B,
    QWEN3_0_6B,
    QWEN3_8B,
    QWEN3_30B_A3B,
    planned,
)


@pytest.mark.parametrize(
    ("config", "parameters", "layers", "tied"),
    [
        (QWEN3_0_6B, 596_049_920, 28, True),
        (QWEN3_8B, 8_190_735_360, 36, False),
        (LLAMA3_8B, 8_030_261_248, 32, False),
        (QWEN3_30B_A3B, 30_532_122_624, 48, False),
    ],
    ids=["Qwen3-0.6B", "Qwen3-8B", "Llama-3-8B", "Qwen3-30B-A3B"],
)
def test_published_models_have_their_published_parameters(
    config: PretrainedConfig, parameters: int, layers: int, tied: bool
) -> None:
    shape = shape_of(planned(config))
    assert (shape.parameters, len(shape.layers), shape.tied) == (parameters, layers, tied)
    assert shape.trained == parameters
    assert shape.shard(1) == parameters


def test_a_token_meets_the_experts_that_it_is_sent_to() -> None:
    """3.3 B of the 30.5 B, of which 0.3 B are the embedding, which multiplies nothing."""
    shape = shape_of(planned(QWEN3_30B_A3B))
    assert shape.active + 151_936 * 2048 == pytest.approx(3.35e9, rel=0.01)


def test_keys_and_values_of_a_token() -> None:
    shape = shape_of(planned(QWEN3_8B))
    load = EngineLoad(context=1024, max_running=8, number=2)
    assert kv_bytes(shape, load) == 2 * 36 * 8 * 128 * 2
    # Eight heads over 16 GPUs: each has one of them.
    assert kv_bytes(shape, EngineLoad(1024, 8, 2, tensor_parallel=16)) == 2 * 36 * 128 * 2


def test_a_critic_has_a_vector_in_the_place_of_the_head() -> None:
    for config in (QWEN3_0_6B, QWEN3_8B):
        whole = shape_of(planned(config))
        head = 0 if whole.tied else whole.head
        assert body_of(whole).parameters == whole.parameters - head + whole.hidden


def test_adapters_alone_train_where_there_are_any() -> None:
    shape = shape_of(planned(QWEN3_8B), LoraSettings(rank=8))
    # Rank 8 on each of the seven linear layers of a decoder layer: rank x (inputs + outputs).
    width, inner, heads, kv = 4096, 12_288, 32 * 128, 8 * 128
    each = (width + heads) + 2 * (width + kv) + (heads + width) + 3 * (width + inner)
    assert shape.trained == 36 * 8 * each
    assert shape.parameters == 8_190_735_360 + shape.trained
