"""What an engine needs: weights, the KV cache and how many answers it holds, a step at work, and an update. Pure."""

import math
from dataclasses import dataclass

from orchestrator.planning.memory import MIB, Moment, Need
from orchestrator.planning.model_shape import ModelShape

FLOAT = 4
BATCHED_TOKENS = 8192
"""Of one forward pass of vLLM, over all requests (`actors.vllm_launch`)."""
BUFFER_BYTES = 256 * MIB
"""Of a piece of weights on its way (`actors.weight_wire`)."""
NCCL_BUFFERS = 2 * 1024 * MIB
"""Two pieces of vLLM's packed broadcast, on either side."""
GRAPH_SHARE = 0.02
"""Of a GPU's memory: what vLLM's captured graphs take, beside what it was told to use."""


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """What an engine has to hold.

    Attributes:
        context: tokens of the longest prompt with its longest answer.
        number: bytes of a weight, and of an entry of the KV cache.
        draft_layers: layers of the drafter, 0 without one; draft: its elements.
    """

    context: int
    max_running: int
    number: int
    tensor_parallel: int = 1
    draft: int = 0
    draft_layers: int = 0


@dataclass(frozen=True, slots=True)
class EngineNeed:
    """Of one accelerator of an engine, or of an engine's process on the CPU.

    Attributes:
        kv_token: bytes of one token in the cache.
        kv: bytes of the cache.
        room: what is left for the cache; below one answer's, the engine cannot start.
        most: the most that the engine may take; None where nothing bounds it.
    """

    need: Need
    kv_token: int
    kv: int
    most: int | None
    context: int

    @property
    def answers(self) -> int:
        """Answers of full length that the cache holds at a time."""
        return max(0, self.kv) // max(1, self.kv_token * self.context)


def kv_bytes(shape: ModelShape, load: EngineLoad) -> int:
    """Of one token on one accelerator; heads that there are too few of to share out are repeated."""
    share = math.ceil(shape.kv_heads / load.tensor_parallel) / shape.kv_heads
    drafting = 2 * load.draft_layers * shape.kv_heads * shape.head_dim
    return math.ceil(load.number * (shape.kv_numbers + drafting) * share)


def vllm_on_gpu(shape: ModelShape, load: EngineLoad, *, memory: int, utilization: float) -> EngineNeed:
    """vLLM takes its share of the GPU whatever it needs: what weights and a pass leave of it is the KV cache.

    Args:
        memory: bytes of the accelerator.
    """
    weights = _weights(shape, load)
    work = _pass_bytes(shape, load)
    most = int(memory * utilization)
    kv = most - weights - work
    stays = {"weights": weights, "KV cache": max(0, kv), "graphs": int(GRAPH_SHARE * memory)}
    update = Moment("an update", {"weight-sync buffers": NCCL_BUFFERS, "a pass at work": work})
    return EngineNeed(Need(stays, (update,)), kv_bytes(shape, load), kv, most, load.context)


def vllm_on_cpu(shape: ModelShape, load: EngineLoad, *, kv: int) -> EngineNeed:
    """The cache has the size that it is given. An update is received whole before it is loaded.

    A pass leaves gaps in the C library's heap that its next pieces do not fit: as much again (docs/plan.md).
    """
    weights, work = _weights(shape, load), _pass_bytes(shape, load)
    moments = (
        Moment("a step", {"a pass at work": work, "heap gaps": work}),
        Moment("an update", {"received weights": load.number * shape.parameters}),
    )
    return EngineNeed(
        Need({"weights": weights, "KV cache": kv}, moments), kv_bytes(shape, load), kv, None, load.context
    )


def torch_engine(shape: ModelShape, load: EngineLoad) -> EngineNeed:
    """A slot of full length for each answer; a step copies what it attends to, one layer at a time."""
    token = kv_bytes(shape, load)
    kv = load.max_running * load.context * token
    layers = len(shape.layers)
    copied = load.max_running * load.context * token // layers
    # transformers repeats keys and values for every query head before it attends with a mask.
    repeated = copied * (1 + shape.heads // shape.kv_heads)
    logits = load.max_running * shape.vocabulary * (load.number + 2 * FLOAT)
    moments = (
        Moment("a step", {"keys and values at work": repeated, "logits and sampler": logits}),
        Moment("an update", {"received weights": load.number * shape.parameters}),
    )
    return EngineNeed(Need({"weights": _weights(shape, load), "KV cache": kv}, moments), token, kv, None, load.context)


def _weights(shape: ModelShape, load: EngineLoad) -> int:
    return math.ceil(load.number * (shape.parameters + load.draft) / load.tensor_parallel)


def _pass_bytes(shape: ModelShape, load: EngineLoad) -> int:
    """A full pass: hidden states and the widest product of a layer, then the sampler's float32 copies of the logits."""
    tokens = max(BATCHED_TOKENS, load.context + load.max_running)
    widest = 3 * shape.inner + (shape.heads + 2 * shape.kv_heads) * shape.head_dim
    hidden = tokens * load.number * (3 * shape.hidden + widest // load.tensor_parallel)
    logits = load.max_running * shape.vocabulary * (load.number + 3 * FLOAT)
    return max(hidden, logits)
