"""The sizes of a model, from its configuration alone: nothing is downloaded but that, and no weight is made.

The model is built on the device ``meta``, where tensors have a shape and no data, by the class that the learner loads;
so every count is the real one, whatever the architecture.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from learners.adapters import Adapters
from learners.attention import PACKED
from learners.settings import LoraSettings


@dataclass(frozen=True, slots=True)
class Parameter:
    """A matrix or a vector (width 1), as FSDP2 cuts it: by rows."""

    rows: int
    width: int
    trained: bool = True

    @property
    def elements(self) -> int:
        return self.rows * self.width

    def shard(self, ranks: int) -> int:
        """Elements of a rank: rows are dealt out whole, and the first ranks' padded shards set the size of all."""
        return math.ceil(self.rows / ranks) * self.width


@dataclass(frozen=True, slots=True)
class Unit:
    """Parameters that are gathered together."""

    parameters: tuple[Parameter, ...]

    @property
    def elements(self) -> int:
        return sum(parameter.elements for parameter in self.parameters)

    @property
    def trained(self) -> int:
        """Elements with a gradient."""
        return sum(parameter.elements for parameter in self.parameters if parameter.trained)

    def shard(self, ranks: int) -> int:
        return sum(parameter.shard(ranks) for parameter in self.parameters)

    def trained_shard(self, ranks: int) -> int:
        return sum(parameter.shard(ranks) for parameter in self.parameters if parameter.trained)


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Attributes:
    layers: a unit for each decoder layer, in order.
    rest: embedding, norm and head.
    head: elements of the output head, the embedding's own where the two are tied.
    kv_numbers: keys and values of one token, over all layers.
    active: elements that one token is multiplied with: all but the embedding, and of experts those that it is sent to.
    context: positions that the model knows; None where its configuration does not say.
    """

    layers: tuple[Unit, ...]
    rest: Unit
    vocabulary: int
    hidden: int
    inner: int
    heads: int
    kv_heads: int
    head_dim: int
    head: int
    tied: bool
    kv_numbers: int
    active: int
    context: int | None

    @property
    def units(self) -> tuple[Unit, ...]:
        return (*self.layers, self.rest)

    @property
    def parameters(self) -> int:
        return sum(unit.elements for unit in self.units)

    @property
    def trained(self) -> int:
        return sum(unit.trained for unit in self.units)

    @property
    def largest_layer(self) -> Unit:
        return max(self.layers, key=lambda unit: unit.elements)

    def shard(self, ranks: int) -> int:
        """Elements of a rank."""
        return sum(unit.shard(ranks) for unit in self.units)

    def trained_shard(self, ranks: int) -> int:
        """Elements of a rank that train."""
        return sum(unit.trained_shard(ranks) for unit in self.units)


@dataclass(frozen=True, eq=False)
class PlannedModel:
    """A model by the name that a recipe gives it; one object for one model, so that what is known of it is kept."""

    name: str
    config: PretrainedConfig


def text_config(model: PlannedModel) -> PretrainedConfig:
    """The part of the configuration that speaks of the language model."""
    config: PretrainedConfig = model.config.get_text_config()
    return config


def on_meta(config: PretrainedConfig, lora: LoraSettings | None, dtype: torch.dtype) -> PreTrainedModel:
    """The model without data, with adapters where they are asked for."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, attn_implementation=PACKED, dtype=dtype)
        if lora is not None:
            Adapters(model, lora)
    policy: PreTrainedModel = model.train()
    return policy


def decoder_layers(model: nn.Module) -> list[nn.Module]:
    """What `learners.sharding` shards one by one."""
    names = set(getattr(model, "_no_split_modules", None) or ())
    return [module for module in model.modules() if type(module).__name__ in names]


@lru_cache(maxsize=64)
def shape_of(model: PlannedModel, lora: LoraSettings | None = None) -> ModelShape:
    """Raises:
    UnfitError: `lora` names what is no linear layer of the model.
    """
    config = text_config(model)
    built = on_meta(model.config, lora, torch.float32)
    layers = decoder_layers(built)
    held = {id(parameter) for layer in layers for parameter in layer.parameters()}
    embedding = built.get_input_embeddings().weight
    head = built.get_output_embeddings().weight
    heads = int(config.num_attention_heads)
    head_dim = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
    kv_heads = int(getattr(config, "num_key_value_heads", None) or heads)
    total = sum(parameter.numel() for parameter in built.parameters())
    return ModelShape(
        layers=tuple(Unit(tuple(map(_parameter, layer.parameters()))) for layer in layers),
        rest=Unit(tuple(_parameter(parameter) for parameter in built.parameters() if id(parameter) not in held)),
        vocabulary=int(head.shape[0]),
        hidden=int(config.hidden_size),
        inner=int(getattr(config, "intermediate_size", None) or 4 * config.hidden_size),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        head=head.numel(),
        tied=head is embedding,
        kv_numbers=_kv_numbers(config, len(layers), kv_heads, head_dim),
        active=total - (0 if head is embedding else embedding.numel()) - _idle_experts(config, built),
        context=getattr(config, "max_position_embeddings", None),
    )


def body_of(shape: ModelShape) -> ModelShape:
    """The model as a critic has it: a vector in the place of the head, all of it trained."""
    kept = list(shape.rest.parameters)
    if not shape.tied:
        kept.remove(next(p for p in reversed(kept) if p.elements == shape.head))
    units = [_all_trained(unit.parameters) for unit in shape.layers]
    rest = _all_trained((*kept, Parameter(shape.hidden, 1)))
    return ModelShape(
        tuple(units),
        rest,
        shape.vocabulary,
        shape.hidden,
        shape.inner,
        shape.heads,
        shape.kv_heads,
        shape.head_dim,
        shape.hidden,
        False,
        shape.kv_numbers,
        shape.active - shape.head,
        shape.context,
    )


def _all_trained(parameters: Iterable[Parameter]) -> Unit:
    return Unit(tuple(Parameter(parameter.rows, parameter.width) for parameter in parameters))


def _parameter(parameter: nn.Parameter) -> Parameter:
    rows = int(parameter.shape[0]) if parameter.ndim else 1
    return Parameter(rows, parameter.numel() // max(1, rows), parameter.requires_grad)


def _kv_numbers(config: PretrainedConfig, layers: int, kv_heads: int, head_dim: int) -> int:
    """Of one token. Latent attention keeps one compressed vector in the place of keys and values."""
    latent = getattr(config, "kv_lora_rank", None)
    if latent:
        return layers * (int(latent) + int(getattr(config, "qk_rope_head_dim", 0)))
    return 2 * layers * kv_heads * head_dim


def _idle_experts(config: PretrainedConfig, model: nn.Module) -> int:
    """Elements of experts that a token is not sent to."""
    experts = getattr(config, "num_experts", None) or getattr(config, "num_local_experts", None)
    experts = experts or getattr(config, "n_routed_experts", None)
    used = getattr(config, "num_experts_per_tok", None)
    if not experts or not used:
        return 0
    of_experts = sum(value.numel() for name, value in model.named_parameters() if ".experts." in name)
    return of_experts - of_experts * int(used) // int(experts)


ConfigOf = Callable[[str], PretrainedConfig]
"""Finds the configuration of a model by its name in a recipe."""
