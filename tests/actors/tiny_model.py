"""A Qwen3 checkpoint small enough for every test: two layers of width 64 over bytes, with random weights.

The weights are drawn wide, so that greedy choices are clear and rounding never decides a token.
"""

from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

END = "<|end|>"
CONTEXT_LENGTH = 512


def write_checkpoint(folder: Path, *, tied: bool, seed: int = 0, layers: int = 2) -> Path:
    """A float32 checkpoint with its byte-level tokenizer; more layers where an answer shall take its time."""
    model_of(seed, tied=tied, layers=layers).save_pretrained(folder)
    alphabet = sorted(ByteLevel.alphabet())
    tokenizer = Tokenizer(BPE(vocab={END: 0} | {byte: i for i, byte in enumerate(alphabet, 1)}, merges=[]))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=END).save_pretrained(folder)
    return folder


def model_of(seed: int, *, tied: bool, layers: int = 2) -> Qwen3ForCausalLM:
    """The model whose weights this seed draws; the same seed gives the same weights."""
    config = Qwen3Config(
        vocab_size=257,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=CONTEXT_LENGTH,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=0,
        initializer_range=0.15,
    )
    torch.manual_seed(seed)
    return Qwen3ForCausalLM(config).eval()
