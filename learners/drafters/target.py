"""What a drafter takes from its target: the shape of its layers, its embedding and its output head.

Embedding and head are the target's and are never trained here. `TargetTables` refers to tensors that somebody else
owns (a live model's, so that updates in place are seen at once) or owns copies that `refresh` overwrites.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn import functional
from transformers import AutoConfig, LlamaConfig, PretrainedConfig, PreTrainedModel

from learners.drafters.errors import DrafterError
from learners.errors import first_line
from learners.policy import own_state

FINAL = -1
"""Hidden states behind the last norm, which the head reads; layer i >= 0 is the residual stream behind i blocks."""

_EMBEDDING = "model.embed_tokens.weight"
_HEAD = "lm_head.weight"
_HEAD_BIAS = "lm_head.bias"


@dataclass(slots=True, eq=False)
class TargetTables:
    """Args: embedding: [V, H]; head: [V, H], the embedding itself where the two are tied; bias: [V] or None."""

    embedding: Tensor
    head: Tensor
    bias: Tensor | None = None

    @classmethod
    def of_model(cls, model: PreTrainedModel) -> "TargetTables":
        """Of a live, unsharded model; nothing is copied."""
        head = model.get_output_embeddings()
        bias = getattr(head, "bias", None)
        embedding = model.get_input_embeddings().weight.detach()
        return cls(embedding, head.weight.detach(), None if bias is None else bias.detach())

    @classmethod
    def of_checkpoint(cls, tensors: Mapping[str, Tensor], dtype: torch.dtype, device: torch.device) -> "TargetTables":
        """Copies from tensors under their names in the target's checkpoint; a tied head may be left out.

        Raises:
            DrafterError: no embedding under the name that Llama-type models use.
        """
        if _EMBEDDING not in tensors:
            raise DrafterError(f"the target has no tensor {_EMBEDDING}: its drafter needs a Llama-type checkpoint")
        embedding = tensors[_EMBEDDING].detach().to(device, dtype, copy=True)
        head = tensors[_HEAD].detach().to(device, dtype, copy=True) if _HEAD in tensors else embedding
        bias = tensors[_HEAD_BIAS].detach().to(device, dtype, copy=True) if _HEAD_BIAS in tensors else None
        return cls(embedding, head, bias)

    def refresh(self, tensors: Mapping[str, Tensor]) -> None:
        """Overwrite with a newer version's tensors, under their names in the checkpoint.

        Raises:
            DrafterError: one is missing or of another shape; nothing was changed.
        """
        wanted = {_EMBEDDING: self.embedding}
        if self.head is not self.embedding:
            wanted[_HEAD] = self.head
        if self.bias is not None:
            wanted[_HEAD_BIAS] = self.bias
        for name, mine in wanted.items():
            if name not in tensors or tensors[name].shape != mine.shape:
                raise DrafterError(f"the target's new version has no tensor {name} of shape {tuple(mine.shape)}")
        for name, mine in wanted.items():
            mine.copy_(tensors[name])

    def embed(self, token_ids: Tensor) -> Tensor:
        """[...] -> [..., H]."""
        return functional.embedding(token_ids, self.embedding)

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., H] of layer `FINAL` -> [..., V]."""
        return functional.linear(hidden.to(self.head.dtype), self.head, self.bias)


@dataclass(frozen=True, slots=True, eq=False)
class DraftTarget:
    """A target to build a drafter for: its configuration, and its tensors under their names in its checkpoint."""

    config: PretrainedConfig
    tensors: Mapping[str, Tensor]

    @classmethod
    def of_model(cls, model: PreTrainedModel) -> "DraftTarget":
        """Of a live, unsharded model; nothing is copied."""
        return cls(model.config, {name: tensor.detach() for name, tensor in own_state(model).items()})

    @classmethod
    def of_folder(cls, folder: Path) -> "DraftTarget":
        """Of a Hugging Face checkpoint; tensors are read when they are asked for.

        Raises:
            DrafterError: no readable checkpoint there.
        """
        try:
            config = AutoConfig.from_pretrained(folder)
        except (OSError, ValueError) as error:
            raise DrafterError(f"{folder}: no readable target checkpoint there ({first_line(error)})") from error
        return cls(config, CheckpointTensors(folder))

    def tables(self, dtype: torch.dtype, device: torch.device) -> TargetTables:
        return TargetTables.of_checkpoint(self.tensors, dtype, device)


class CheckpointTensors(Mapping[str, Tensor]):
    """The tensors of a safetensors checkpoint by name, each read on access. `len` and names cost no reading.

    Raises:
        DrafterError: a file is missing or broken; the message names it.
    """

    def __init__(self, folder: Path) -> None:
        index = folder / "model.safetensors.index.json"
        try:
            names = set(json.loads(index.read_text())["weight_map"].values()) if index.is_file() else _SINGLE_FILE
        except (OSError, ValueError, KeyError) as error:
            raise DrafterError(f"{index}: not a readable weight index ({first_line(error)})") from error
        self._files: dict[str, Path] = {}
        for file in sorted(folder / name for name in names):
            with _opened(file) as handle:
                self._files.update(dict.fromkeys(handle.keys(), file))

    def __getitem__(self, name: str) -> Tensor:
        with _opened(self._files[name]) as handle:
            tensor: Tensor = handle.get_tensor(name)
        return tensor

    def __contains__(self, name: object) -> bool:
        return name in self._files

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def file(self, name: str) -> Path:
        """The file that a tensor lies in."""
        return self._files[name]


_SINGLE_FILE = frozenset({"model.safetensors"})


def _opened(file: Path) -> safe_open:
    try:
        return safe_open(file, framework="pt")
    except (OSError, SafetensorError) as error:
        raise DrafterError(f"{file}: not a readable weight file ({first_line(error)})") from error


def draft_layer_config(target: PretrainedConfig) -> LlamaConfig:
    """Shape of one Llama decoder layer as wide as the target's, for its positions and vocabulary.

    Raises:
        DrafterError: the target's MLP has another activation than SiLU, the only one of vLLM's drafters.
    """
    if target.hidden_act != "silu":
        raise DrafterError(f"a target with hidden_act={target.hidden_act} has no drafter here: silu is supported")
    heads = target.num_attention_heads
    return LlamaConfig(
        vocab_size=target.vocab_size,
        hidden_size=target.hidden_size,
        intermediate_size=target.intermediate_size,
        num_hidden_layers=1,
        num_attention_heads=heads,
        num_key_value_heads=getattr(target, "num_key_value_heads", None) or heads,
        head_dim=getattr(target, "head_dim", None) or target.hidden_size // heads,
        hidden_act="silu",
        max_position_embeddings=target.max_position_embeddings,
        rms_norm_eps=target.rms_norm_eps,
        rope_parameters=dict(target.rope_parameters),
        tie_word_embeddings=False,
        attention_bias=False,
        mlp_bias=False,
        bos_token_id=target.bos_token_id,
        eos_token_id=target.eos_token_id,
        pad_token_id=target.pad_token_id,
    )
