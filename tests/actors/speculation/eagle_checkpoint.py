"""A target that a drafter can guess, and a hand-made EAGLE-3 drafter for it, in vLLM's format. Nothing is trained.

The target's layers are scaled down until its next token hangs mostly on the last one. The drafter's attention passes
on the embedding of that last token, mixed with those before it, to the target's head. So it is often right, and less
often if its KV of the tokens before is missing: what the tests of that KV need.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import Qwen3ForCausalLM

from tests.actors.tiny_model import model_of, write_checkpoint

HEADS, KV_HEADS, HEAD_DIM = 2, 1, 32
SIGNS = torch.randint(0, 2, (64,), generator=torch.Generator().manual_seed(99)) * 2.0 - 1
"""Of the weights of the last norm: they keep a target whose head is its embedding from repeating the last token."""


@torch.no_grad()
def predictable(seed: int, *, tied: bool, depth: float = 0.03) -> Qwen3ForCausalLM:
    """A target whose embedding uses as many dimensions as the drafter's one KV head; `depth` scales its layers."""
    model = model_of(seed, tied=tied)
    model.model.embed_tokens.weight[:, HEAD_DIM:] = 0
    model.model.norm.weight.copy_(SIGNS)
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.mul_(depth)
        layer.mlp.down_proj.weight.mul_(depth)
    return model


def write_target(folder: Path, model: Qwen3ForCausalLM, *, tied: bool) -> Path:
    write_checkpoint(folder, tied=tied)
    model.save_pretrained(folder)
    return folder


def drafter_weights(seed: int, head: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
    """Args:
    head: of the drafter's own; None shares the target's.
    """
    width, inner, scale = 64, 128, 0.02
    draw = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw) * scale

    pick = torch.eye(HEAD_DIM, 2 * width)
    back = torch.zeros(width, HEADS * HEAD_DIM)
    back[:HEAD_DIM] = torch.eye(HEAD_DIM).repeat(1, HEADS) / HEADS
    weights = {
        "fc.weight": random(width, 3 * width),
        "norm.weight": SIGNS.clone(),
        "midlayer.hidden_norm.weight": torch.ones(width),
        "midlayer.input_layernorm.weight": torch.ones(width),
        "midlayer.post_attention_layernorm.weight": torch.ones(width),
        "midlayer.self_attn.q_proj.weight": 0.7 * pick.repeat(HEADS, 1) + random(HEADS * HEAD_DIM, 2 * width),
        "midlayer.self_attn.k_proj.weight": pick + random(HEAD_DIM, 2 * width),
        "midlayer.self_attn.v_proj.weight": pick + random(HEAD_DIM, 2 * width),
        "midlayer.self_attn.o_proj.weight": back + random(width, HEADS * HEAD_DIM),
        "midlayer.mlp.gate_proj.weight": random(inner, width),
        "midlayer.mlp.up_proj.weight": random(inner, width),
        "midlayer.mlp.down_proj.weight": random(width, inner),
    }
    return weights if head is None else weights | {"lm_head.weight": head.detach().clone()}


def write_drafter(folder: Path, target: Qwen3ForCausalLM, weights: dict[str, torch.Tensor]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "architectures": ["Eagle3LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": target.config.hidden_size,
        "intermediate_size": target.config.intermediate_size,
        "num_hidden_layers": 1,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "vocab_size": target.config.vocab_size,
        "draft_vocab_size": target.config.vocab_size,
        "eagle_aux_hidden_state_layer_ids": [0, 1, 2],
        "num_aux_hidden_states": 3,
        "max_position_embeddings": target.config.max_position_embeddings,
        "tie_word_embeddings": False,
        "dtype": "float32",
    }
    (folder / "config.json").write_text(json.dumps(config))
    save_file(weights, folder / "model.safetensors")
    return folder
