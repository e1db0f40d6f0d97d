"""One Llama decoder layer for drafters, and the two ways in which it sees what came before.

The layer's linear parts carry the names of Hugging Face checkpoints, which vLLM's drafters load. What a new query
attends to is a `Memory`'s affair:
- `UnrolledMemory`, training: every token of packed windows drafts at once. The first call holds the windows' true
  rows; in the k-th call a row sees the true rows up to its own and what it wrote itself in calls 2 to k.
- `CachedMemory`, decoding: one sequence, row by row.

Both compute the same function, which the tests hold them to.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import (
    LlamaMLP,
    LlamaRMSNorm,
    LlamaRotaryEmbedding,
    apply_rotary_pos_emb,
)

from learners.attention import PackedLayout, packed_attention


class Memory(Protocol):
    """What attention sees; stores what it is given."""

    def attend(self, owner: nn.Module, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """[1, heads, T, D] queries and [1, KV heads, T, D] keys and values of the same rows -> [T, heads * D]."""


class UnrolledMemory:
    """Args: layout: of the packed windows."""

    def __init__(self, layout: PackedLayout) -> None:
        self._layout = layout
        self._true: tuple[Tensor, Tensor] | None = None
        self._own: list[tuple[Tensor, Tensor]] = []

    def attend(self, owner: nn.Module, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        if self._true is None:
            self._true = key, value
            seen, _ = packed_attention(owner, query, key, value, None, packed_layout=self._layout)
            return seen[0].flatten(1)
        self._own.append((key, value))
        return self._attend_own(query)

    def _attend_own(self, query: Tensor) -> Tensor:
        """Scores of the true rows and of a row's own earlier calls share one softmax."""
        assert self._true is not None
        heads, width = query.shape[1], query.shape[3]
        repeats = heads // self._true[0].shape[1]
        rows = [self._padded(query)]
        rows += [self._padded(part.repeat_interleave(repeats, 1)) for pair in (self._true, *self._own) for part in pair]
        sizes = [count * length for count, length in self._layout.groups]
        outputs = []
        for (count, length), *parts in zip(self._layout.groups, *(row.split(sizes) for row in rows), strict=True):
            shaped = [part.view(count, length, heads, width).transpose(1, 2) for part in parts]
            outputs.append(_attend_group(shaped[0], shaped[1], shaped[2], shaped[3::2], shaped[4::2]))
        return torch.cat(outputs).index_select(0, self._layout.slot)

    def _padded(self, rows: Tensor) -> Tensor:
        """[1, heads, T, D] -> [P, heads, D]."""
        return rows[0].transpose(0, 1).index_select(0, self._layout.source)


def _attend_group(
    query: Tensor, key: Tensor, value: Tensor, own_keys: Sequence[Tensor], own_values: Sequence[Tensor]
) -> Tensor:
    """All [S, heads, L, D]; own keys and values are row by row -> [S * L, heads * D]."""
    length = query.shape[2]
    scaled = query * query.shape[3] ** -0.5
    hidden = torch.ones(length, length, dtype=torch.bool, device=query.device).triu(1)
    true_scores = (scaled @ key.transpose(2, 3)).masked_fill(hidden, -torch.inf)
    own_scores = [(scaled * own).sum(-1, keepdim=True) for own in own_keys]
    weights = torch.cat([true_scores, *own_scores], -1).softmax(-1, dtype=torch.float32).to(value.dtype)
    output = weights[..., :length] @ value
    for place, own in enumerate(own_values):
        output = output + weights[..., length + place, None] * own
    return output.transpose(1, 2).flatten(0, 1).flatten(1)


class CachedMemory:
    """Keys and values of one sequence's rows so far."""

    def __init__(self) -> None:
        self._keys: Tensor | None = None
        self._values: Tensor | None = None

    def __len__(self) -> int:
        return 0 if self._keys is None else int(self._keys.shape[2])

    def truncate(self, length: int) -> None:
        """Forget all rows but the first `length`."""
        if self._keys is not None and self._values is not None:
            self._keys, self._values = self._keys[:, :, :length], self._values[:, :, :length]

    def attend(self, owner: nn.Module, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        before = len(self)
        if self._keys is not None and self._values is not None:
            key, value = torch.cat([self._keys, key], 2), torch.cat([self._values, value], 2)
        self._keys, self._values = key, value
        places = torch.arange(key.shape[2], device=key.device)
        mask = places <= places[before:, None]
        seen = scaled_dot_product_attention(
            query, key, value, attn_mask=mask, enable_gqa=query.shape[1] != key.shape[1]
        )
        return seen[0].transpose(0, 1).flatten(1)


class DraftAttention(nn.Module):
    """Args: input_size: width of the rows that queries, keys and values are made of."""

    def __init__(self, config: LlamaConfig, input_size: int) -> None:
        super().__init__()
        self._head_dim: int = config.head_dim
        self.q_proj = nn.Linear(input_size, config.num_attention_heads * config.head_dim, bias=False)
        self.k_proj = nn.Linear(input_size, config.num_key_value_heads * config.head_dim, bias=False)
        self.v_proj = nn.Linear(input_size, config.num_key_value_heads * config.head_dim, bias=False)
        self.o_proj = nn.Linear(config.num_attention_heads * config.head_dim, config.hidden_size, bias=False)

    def forward(self, rows: Tensor, angles: tuple[Tensor, Tensor], memory: Memory) -> Tensor:
        query, key, value = (
            projection(rows).view(1, rows.shape[0], -1, self._head_dim).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        query, key = apply_rotary_pos_emb(query, key, *angles)
        # Under autocast angles are float32 and so is what they turn.
        query, key = query.to(value.dtype), key.to(value.dtype)
        output: Tensor = self.o_proj(memory.attend(self, query, key, value))
        return output


class DraftLayer(nn.Module):
    """Attention over `input_size` wide rows and an MLP; what is normed before it is the kind's affair."""

    def __init__(self, config: LlamaConfig, input_size: int) -> None:
        super().__init__()
        self.self_attn = DraftAttention(config, input_size)
        self.post_attention_layernorm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.mlp = LlamaMLP(config)

    def forward(self, rows: Tensor, residual: Tensor, angles: tuple[Tensor, Tensor], memory: Memory) -> Tensor:
        """[T, input_size] rows and the [T, H] residual stream -> [T, H]."""
        stream = residual + self.self_attn(rows, angles, memory)
        output: Tensor = stream + self.mlp(self.post_attention_layernorm(stream))
        return output


class RotaryAngles(nn.Module):
    """Cosines and sines of positions; the target's rotary scaling included."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.rotary = LlamaRotaryEmbedding(config)

    def forward(self, like: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """[T] positions -> twice [1, T, D] in the type of `like`."""
        cosine, sine = self.rotary(like, positions.unsqueeze(0))
        return cosine, sine
