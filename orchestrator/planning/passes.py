"""What the learner's passes hold in memory: its own code, run over a row of tokens that have no data.

One decoder layer stands for all; with the final norm and the chunked head that is the whole model. The tensors are
PyTorch's fake ones: they say which device they are on and hold nothing, so that a layer of any size takes milliseconds.
"""

import copy
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import PretrainedConfig, PreTrainedModel

from learners.attention import PACKED, attention_arguments
from learners.errors import first_line
from learners.logprobs import CHUNK_ELEMENTS, CHUNK_TOKENS, chunked_logprobs
from learners.packing import PackedSequences, pack
from learners.settings import LoraSettings
from orchestrator.planning.live_memory import PassMemory, memory_of
from orchestrator.planning.model_shape import PlannedModel, decoder_layers, on_meta, text_config

CPU = torch.device("cpu")
_SHORT = 512
"""Longer sequences than this take the same memory a token on CPU and GPU (`learners.short_attention`)."""


class UnforeseenError(Exception):
    """A pass that cannot be followed without data, or not on a CPU; one line says why."""


@dataclass(frozen=True, slots=True)
class Row:
    """The largest micro-batch of a rank: its sequences' lengths, and how many of its tokens take loss."""

    lengths: tuple[int, ...]
    trained: int

    @property
    def tokens(self) -> int:
        return sum(self.lengths)


@dataclass(frozen=True, slots=True)
class Passes:
    """Of a row.

    Attributes:
        layer: of one decoder layer.
        head: of the final norm and the head's chunked log-probabilities.
        hidden: bytes of the row's hidden states, a layer's input.
    """

    layer: PassMemory
    head: PassMemory
    hidden: int


@lru_cache(maxsize=256)
def passes_of(
    model: PlannedModel,
    row: Row,
    *,
    dtype: Literal["bfloat16", "float32"],
    device: Literal["cpu", "gpu"],
    lora: LoraSettings | None = None,
    head: bool = True,
) -> Passes:
    """Args:
        dtype: of the computation.
        head: whether there is one; a critic has a vector, whose pass costs next to nothing.

    Raises:
        UnforeseenError: the layer's code cannot be followed.
    """
    lengths = row.lengths if device == "cpu" or max(row.lengths) > _SHORT else (row.tokens,)
    packed = pack([(0,) * length for length in lengths])
    arguments = attention_arguments(packed, PACKED, CPU)
    kind: torch.dtype = getattr(torch, dtype)
    built = on_meta(_of_one_layer(model.config), lora, kind)
    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            _give_storage(built)
            layer = decoder_layers(built)[0]
            call = _call_of(built, layer, packed, dict(arguments))
            of_layer = memory_of(lambda: _run_layer(layer, call))
            of_head = _head_memory(built, row.trained, row.tokens, device) if head else PassMemory(0, 0, 0, 0)
    except (RuntimeError, ValueError) as error:
        # Of the model's own code: values that fake tensors do not have, or an attention that this device lacks.
        raise UnforeseenError(f"{type(built).__name__}: {first_line(error)}") from error
    width = int(text_config(model).hidden_size)
    return Passes(of_layer, of_head, len(packed.input_ids) * width * kind.itemsize)


def _of_one_layer(config: PretrainedConfig) -> PretrainedConfig:
    """The same model with its last layer alone: where layers differ, the first ones are the odd ones."""
    short = copy.deepcopy(config)
    text = short.get_text_config()
    text.num_hidden_layers = 1
    kinds = getattr(text, "layer_types", None)
    if kinds:
        text.layer_types = list(kinds[-1:])
    for name in ("first_k_dense_replace", "max_window_layers"):
        if getattr(text, name, None):
            setattr(text, name, 0)
    return short


def _give_storage(model: nn.Module) -> None:
    """Parameters and buffers as fake tensors on the CPU."""
    for module in model.modules():
        for name, value in module._parameters.items():
            if value is not None:
                fake = torch.empty(value.shape, dtype=value.dtype, device=CPU)
                module._parameters[name] = nn.Parameter(fake, requires_grad=value.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device=CPU)
    # Some rotary embeddings keep a second name for their buffer beside the first.
    for module in model.modules():
        original = getattr(module, "original_inv_freq", None)
        if isinstance(original, Tensor) and original.is_meta:
            module.original_inv_freq = torch.empty(original.shape, dtype=original.dtype, device=CPU)


@dataclass(frozen=True, slots=True)
class _Call:
    """How the model calls a layer."""

    positional: tuple[object, ...]
    named: dict[str, object]


def _call_of(model: PreTrainedModel, layer: nn.Module, packed: PackedSequences, arguments: dict[str, object]) -> _Call:
    calls: list[_Call] = []

    def note(_: nn.Module, positional: tuple[object, ...], named: dict[str, object]) -> None:
        calls.append(_Call(positional, named))

    hook = layer.register_forward_pre_hook(note, with_kwargs=True)
    with torch.no_grad():
        model.base_model(
            input_ids=packed.input_ids.unsqueeze(0),
            position_ids=packed.position_ids.unsqueeze(0),
            use_cache=False,
            **arguments,
        )
    hook.remove()
    return calls[0]


def _run_layer(layer: nn.Module, call: _Call) -> Tensor:
    first, *others = call.positional or (call.named["hidden_states"],)
    assert isinstance(first, Tensor), "a decoder layer takes hidden states first"
    states = first.detach().requires_grad_()
    named = {name: value for name, value in call.named.items() if name != "hidden_states"}
    output = layer(states, *others, **named)
    result: Tensor = output[0] if isinstance(output, tuple) else output
    return result


def _head_memory(model: PreTrainedModel, trained: int, tokens: int, device: Literal["cpu", "gpu"]) -> PassMemory:
    head = model.get_output_embeddings()
    norm = getattr(model.base_model, "norm", None) or nn.Identity()
    vocabulary, width = head.weight.shape
    # As `chunked_logprobs` chooses for the device that the tensors are on.
    elements = max(CHUNK_ELEMENTS["cuda" if device == "gpu" else "cpu"], CHUNK_TOKENS * vocabulary)
    states = torch.empty(tokens, width, dtype=head.weight.dtype, device=CPU, requires_grad=True)
    places, targets = torch.arange(trained), torch.zeros(trained, dtype=torch.int64)

    def run() -> Tensor:
        chosen = norm(states).index_select(0, places)
        seen = chunked_logprobs(chosen, head.weight, getattr(head, "bias", None), targets, chunk_elements=elements)
        return seen.logprobs

    return memory_of(run)
