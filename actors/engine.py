"""The `Engine` protocol: what generates tokens, and the plain data that goes in and out of it.

Token ids in, token ids out. Three kinds stand behind it: vLLM (the default), `torch` (small and exact, the oracle of
the tests) and, for the simulator, one that only counts. The contract tests in tests/actors run over all real ones.

Invariants that every engine guarantees:
- each sampled token carries the log-probability under the distribution it was drawn from, and the version of the
  weights that computed it, also when a weight update falls into the middle of an answer;
- a `generate` call ends with exactly one `Completion`; an abort ends it early and keeps the tokens so far;
- between `pause` and `resume` no token is sampled, and requests in progress survive.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from actors.speculation.settings import SpeculationSettings
from actors.speculation.step_record import StepRecord

if TYPE_CHECKING:  # This module is plain data and stays free of torch.
    from learners.weights import WeightManifest

FinishReason = Literal["stop", "length", "abort"]
KvPolicy = Literal["keep", "recompute"]
"""What becomes of the KV of an answer in progress when the weights change: it stays, or is computed anew."""
WeightStream = Literal["target", "drafter"]
"""Whose weights an update carries. Each stream has versions of its own."""


class EngineError(RuntimeError):
    """The engine cannot serve any more: it must be replaced, a retry on it is useless."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn. `temperature` 0 is greedy; `seed` fixes the draw of this one request."""

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    """0 keeps the whole vocabulary."""
    stop_token_ids: tuple[int, ...] = ()
    """The answer ends with (and includes) the first of these."""
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of tokens sampled under one weight version; `logprobs` has one entry per token."""

    version: int
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One answer to sample, or to go on with. The id is unique over the life of an engine.

    Attributes:
        sampling: `max_tokens` counts the whole answer, `prefix` included.
        prefix: what was sampled of this answer before, on whichever engine. The engine computes its KV under the
            weights it has now and samples on from there; the completion begins with these segments as they are.
    """

    request_id: str
    prompt_ids: tuple[int, ...]
    sampling: Sampling
    prefix: tuple[Segment, ...] = ()


@dataclass(frozen=True, slots=True)
class Speculated:
    """What speculation did for an answer on this engine, its prefix apart.

    Attributes:
        drafted: tokens that were drafted and verified.
        accepted: those of them that the target's draw agreed with.
        drafter_versions: of the drafters that drafted them, ascending.
    """

    drafted: int = 0
    accepted: int = 0
    drafter_versions: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Completion:
    """A finished (or aborted) answer: its segments in order of sampling, neighbours of different versions."""

    request_id: str
    segments: tuple[Segment, ...]
    finish_reason: FinishReason
    speculated: Speculated = Speculated()

    @property
    def token_ids(self) -> tuple[int, ...]:
        return tuple(token for segment in self.segments for token in segment.token_ids)

    @property
    def logprobs(self) -> tuple[float, ...]:
        return tuple(value for segment in self.segments for value in segment.logprobs)

    @property
    def versions(self) -> tuple[int, ...]:
        return tuple(segment.version for segment in self.segments for _ in segment.token_ids)


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """A moment's load. `kv_use` is the used share of the KV cache, in [0, 1]."""

    running: int
    waiting: int
    kv_use: float


@dataclass(frozen=True, slots=True)
class SpeculationStats:
    """What speculation did since the last call.

    Attributes:
        trouble: why nothing is drafted; None while all is well, and where no speculation was asked for.
        steps: the engine's steps, in order; of very many, the newest.
    """

    trouble: str | None = None
    steps: tuple[StepRecord, ...] = ()


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """What an engine is started with.

    Attributes:
        model: folder of a Hugging Face checkpoint.
        context_length: prompt and answer together, in tokens.
        max_running: requests decoded at the same time.
        threads: CPU threads for the forward pass (CPU engines alone).
        cpu_cores: core ids to bind to, e.g. ``"0"`` or ``"0-1"``; None leaves it to the operating system.
        kv_cache_gib: KV cache on CPU, GiB.
        gpu_memory_utilization: share of the GPU's memory for weights and KV cache.
        tied_head_remedy: repack the output head after an update where the backend keeps a packed copy of a tied head.
            Off only in the test that shows what attestation catches.
        speculation: how tokens are drafted ahead; None drafts nothing.
        batch_invariant: an answer is the same to the bit whatever runs beside it. On a CPU answers are computed one by
            one for it.
    """

    model: str
    dtype: Literal["bfloat16", "float32"]
    context_length: int
    max_running: int
    seed: int = 0
    threads: int = 1
    cpu_cores: str | None = None
    kv_cache_gib: float = 1.0
    gpu_memory_utilization: float = 0.8
    tensor_parallel: int = 1
    transfer: Literal["gloo", "nccl"] = "gloo"
    tied_head_remedy: bool = True
    start_timeout_s: float = 600.0
    speculation: SpeculationSettings | None = None
    batch_invariant: bool = False


@dataclass(frozen=True, slots=True)
class ChannelAddress:
    """Where a learner and one engine meet to move weights: the sender listens, the engine's workers join.

    `world_size` counts the sender (rank 0) and the engine's workers (ranks 1 and up).
    """

    backend: Literal["gloo", "nccl"]
    host: str
    port: int
    world_size: int
    timeout_s: float = 120.0


class Engine(Protocol):
    """One inference engine. Every method but `load` may raise `EngineError`."""

    async def start(self) -> None:
        """Load the model and be ready to generate; version 0 is the checkpoint."""

    async def shutdown(self) -> None:
        """Free everything; idempotent."""

    async def generate(self, request: GenerationRequest) -> Completion:
        """Sample one answer. Many calls run at once; each returns when its answer ends or is aborted."""

    async def abort(self, request_ids: Sequence[str]) -> None:
        """End these requests now: their `generate` calls return what was sampled. Unknown ids are ignored."""

    async def pause(self, kv: KvPolicy = "keep") -> None:
        """Stop sampling between two tokens; requests in progress keep their place. Idempotent.

        Args:
            kv: `keep`: they go on with the KV they have, though new weights may have come meanwhile; the logprobs
                recorded afterwards are then those of the new weights over the old weights' KV. `recompute`: their KV
                is computed anew after `resume`, so that every later token is sampled as if the new weights had read
                the whole sequence.
        """

    async def resume(self) -> None:
        """Go on. Idempotent."""

    async def open_channel(self, address: ChannelAddress) -> None:
        """Join the sender's channel; blocks until both sides are there or the channel's timeout passes."""

    async def receive_weights(self, manifest: "WeightManifest", stream: WeightStream = "target") -> Mapping[str, int]:
        """Receive and load one set of weights while the sender sends it; call between `pause` and `resume`.

        Tokens sampled after an update of the target carry `manifest.version`; new requests never reuse KV of its older
        weights. The drafter's weights change nothing about what is sampled; sending earlier ones again takes an
        update back.

        Returns: the checksum (`learners.weights.checksum`) of each tensor as it arrived, by name.
        """

    async def score(self, token_ids: Sequence[int]) -> list[float]:
        """Logprob of each token after the first given those before it, under the current weights, at temperature 1.

        Returns: [len(token_ids) - 1].
        """

    async def speculation_stats(self) -> SpeculationStats:
        """What speculation did since the last call; empty where the engine does not speculate."""

    def load(self) -> EngineLoad:
        """The load right now, without waiting."""
