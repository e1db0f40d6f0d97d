"""Configurations of published models, written by hand from their model cards, and small ones to plan with."""

from transformers import LlamaConfig, PretrainedConfig, Qwen3Config, Qwen3MoeConfig

from orchestrator.planning.configs import Configs
from orchestrator.planning.hardware import PUBLISHED
from orchestrator.planning.machine import Machine
from orchestrator.planning.memory import GIB
from orchestrator.planning.model_shape import PlannedModel
from orchestrator.planning.plan import Setting
from orchestrator.recipe import as_recipe
from orchestrator.stages.recipes import StageRecipe


def qwen3(layers: int, width: int, inner: int, heads: int, *, kv_heads: int = 8, tied: bool = False) -> Qwen3Config:
    return Qwen3Config(
        vocab_size=151_936,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=128,
        max_position_embeddings=40_960,
        tie_word_embeddings=tied,
    )


QWEN3_0_6B = qwen3(28, 1024, 3072, 16, tied=True)
QWEN3_8B = qwen3(36, 4096, 12_288, 32)
LLAMA3_8B = LlamaConfig(
    vocab_size=128_256,
    hidden_size=4096,
    intermediate_size=14_336,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
    max_position_embeddings=8192,
    tie_word_embeddings=False,
)
QWEN3_30B_A3B = Qwen3MoeConfig(
    vocab_size=151_936,
    hidden_size=2048,
    intermediate_size=6144,
    moe_intermediate_size=768,
    num_hidden_layers=48,
    num_attention_heads=32,
    num_key_value_heads=4,
    head_dim=128,
    num_experts=128,
    num_experts_per_tok=8,
    max_position_embeddings=40_960,
    tie_word_embeddings=False,
)


def planned(config: PretrainedConfig) -> PlannedModel:
    return PlannedModel("model", config)


def gpus(count: int, accelerator: str = "h100") -> Machine:
    return Machine(f"{count} x {accelerator}", count, PUBLISHED[accelerator], 1024 * GIB, 128)


def setting(machine: Machine, config: PretrainedConfig) -> Setting:
    """In which every recipe's `model` is this one."""
    configs = Configs()
    configs.know("model", config)
    return Setting(machine, configs)


def recipe(**sections: object) -> StageRecipe:
    """A small recipe with these sections laid over it."""
    tree: dict[str, object] = {
        "name": "planned",
        "model": "model",
        "data": {"tasks": [{"name": "chain_sum"}]},
        "reward": {"terms": [{"name": "reasoning_gym"}]},
    }
    return as_recipe({**tree, **sections})
