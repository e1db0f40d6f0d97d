"""The reference engine: a plain transformers model, decoded step by step, behind the `Engine` protocol.

It is small and exact, not fast: the oracle of the tests, and the place for decode loops that vLLM cannot run.

Invariants:
- one step at a time touches the model (`_model_lock`); pausing, aborting, updating and scoring happen between steps;
- what a request samples depends on its prompt, its prefix, its seed and the weights alone, up to float rounding in
  batched sums;
- a request's KV is its own, from its first step to its end or to the next pause that asks to recompute it; nothing
  else is kept, so nothing can be stale.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from actors.answer_room import answer_room
from actors.continuation import drawing_seed, joined, sequence_so_far
from actors.engine import (
    ChannelAddress,
    Completion,
    EngineError,
    EngineLoad,
    EngineSettings,
    FinishReason,
    GenerationRequest,
    KvPolicy,
    Segment,
)
from actors.kv_slots import KvSlots
from actors.token_sampling import draw
from actors.weight_receiver import GlooReceiver
from actors.weight_rendezvous import WeightTransferError
from learners.weights import WeightManifest, checksum


@dataclass(slots=True, eq=False)
class _Running:
    """A request in progress.

    Attributes:
        sequence: prompt, prefix and what was sampled since.
        room: tokens that it may sample.
        slot: its place in the KV cache, None while it waits for one.
        cached: tokens of the sequence whose KV stands there: none, or all but the last.
        token_ids, logprobs, versions: of what was sampled since the prefix.
    """

    request: GenerationRequest
    sequence: list[int]
    room: int
    generator: torch.Generator
    ended: "asyncio.Future[FinishReason]"
    slot: int | None = None
    cached: int = 0
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)


class TorchEngine:
    """See `actors.engine.Engine`."""

    def __init__(self, settings: EngineSettings) -> None:
        if settings.transfer != "gloo":
            raise ValueError("the torch engine receives weights over gloo: set rollout.engine=vllm to use nccl")
        self._settings = settings
        self._slots = KvSlots(settings.max_running, settings.context_length)
        self._free = list(range(settings.max_running))
        self._requests: dict[str, _Running] = {}
        self._version = 0
        self._model: PreTrainedModel | None = None
        self._receiver: GlooReceiver | None = None
        self._model_lock = asyncio.Lock()
        self._resumed = asyncio.Event()
        self._resumed.set()
        self._work = asyncio.Event()
        self._stepper: asyncio.Task[None] | None = None
        self._failure: str | None = None

    async def start(self) -> None:
        torch.set_num_threads(self._settings.threads)
        self._model = await asyncio.to_thread(_load, self._settings)
        self._stepper = asyncio.create_task(self._step_for_ever())

    async def shutdown(self) -> None:
        stepper, self._stepper = self._stepper, None
        if stepper is not None:
            stepper.cancel()
            await asyncio.wait({stepper}, timeout=_STEP_TIMEOUT_S)
        self._fail("the engine was shut down")
        self._model = None
        self._receiver = None

    async def generate(self, request: GenerationRequest) -> Completion:
        if request.request_id in self._requests:
            raise ValueError(f"request id {request.request_id} is in use: ids are unique over the life of an engine")
        _ = self._alive
        running = _Running(
            request,
            list(sequence_so_far(request)),
            answer_room(request, self._settings.context_length),
            torch.Generator().manual_seed(drawing_seed(request)),
            asyncio.get_running_loop().create_future(),
        )
        self._requests[request.request_id] = running
        self._work.set()
        try:
            return _completion(running, await running.ended)
        finally:
            del self._requests[request.request_id]
            if running.slot is not None:
                self._free.append(running.slot)
            self._work.set()

    async def abort(self, request_ids: Sequence[str]) -> None:
        async with self._model_lock:
            for request_id in request_ids:
                running = self._requests.get(request_id)
                if running is not None and not running.ended.done():
                    running.ended.set_result("abort")

    async def pause(self, kv: KvPolicy = "keep") -> None:
        self._resumed.clear()
        async with self._model_lock:  # The step in progress has ended, and the next waits for `resume`.
            if kv == "recompute":
                for running in self._requests.values():
                    running.cached = 0

    async def resume(self) -> None:
        self._resumed.set()

    async def open_channel(self, address: ChannelAddress) -> None:
        self._receiver = await asyncio.to_thread(GlooReceiver, address)

    async def receive_weights(self, manifest: WeightManifest) -> Mapping[str, int]:
        if self._receiver is None:
            raise WeightTransferError("no weight channel is open")
        model = self._alive
        tensors = await asyncio.to_thread(self._receiver.receive, manifest)
        async with self._model_lock:
            checksums = await asyncio.to_thread(_load_weights, model, dict(tensors))
            self._version = manifest.version
        return checksums

    async def score(self, token_ids: Sequence[int]) -> list[float]:
        if not 2 <= len(token_ids) <= self._settings.context_length:
            raise ValueError(
                f"cannot score {len(token_ids)} tokens: between 2 and context_length = "
                f"{self._settings.context_length} are possible"
            )
        async with self._model_lock:
            return await asyncio.to_thread(_score, self._alive, list(token_ids))

    def load(self) -> EngineLoad:
        started = [r for r in self._requests.values() if r.slot is not None]
        held = sum(len(r.sequence) for r in started)
        capacity = self._settings.max_running * self._settings.context_length
        return EngineLoad(len(started), len(self._requests) - len(started), held / capacity)

    async def _step_for_ever(self) -> None:
        try:
            while True:
                await self._resumed.wait()
                await self._work.wait()
                async with self._model_lock:
                    if not self._resumed.is_set():
                        continue
                    running = self._admit()
                    if not running:
                        self._work.clear()
                        continue
                    drawn = await asyncio.to_thread(self._step, running)
                    for request, (token, logprob) in zip(running, drawn, strict=True):
                        self._append(request, token, logprob)
                # Let finished calls return, and free their slots, before the next step.
                await asyncio.sleep(0)
        except (RuntimeError, ValueError, IndexError) as error:
            self._fail(f"a decoding step failed: {error}")

    def _admit(self) -> list[_Running]:
        """The requests to step: all that hold a slot, and as many waiting ones as there are free slots."""
        unfinished = [r for r in self._requests.values() if not r.ended.done()]
        for request in unfinished:
            if request.slot is None and self._free:
                request.slot = self._free.pop()
        return [r for r in unfinished if r.slot is not None]

    @torch.inference_mode()
    def _step(self, running: list[_Running]) -> list[tuple[int, float]]:
        """One token for each: a forward pass over each sequence without KV, and one over all others' last tokens."""
        logits: dict[int, torch.Tensor] = {}
        for i, request in enumerate(running):
            if not request.cached:
                logits[i] = self._forward([request], [request.sequence], [0])[0]
        cached = [i for i, r in enumerate(running) if r.cached]
        if cached:
            batch = [running[i] for i in cached]
            rows = self._forward(batch, [[r.sequence[-1]] for r in batch], [r.cached for r in batch])
            logits |= dict(zip(cached, rows, strict=True))
        return [draw(logits[i], r.request.sampling, r.generator) for i, r in enumerate(running)]

    def _forward(self, batch: list[_Running], token_ids: list[list[int]], starts: list[int]) -> torch.Tensor:
        """[batch, vocabulary] logits after the last of these tokens."""
        slots = [r.slot for r in batch if r.slot is not None]
        positions, mask = self._slots.aim(slots, starts, len(token_ids[0]))
        output = self._alive(
            input_ids=torch.tensor(token_ids),
            attention_mask=mask,
            position_ids=positions,
            past_key_values=self._slots,
            use_cache=True,
            logits_to_keep=1,
        )
        last: torch.Tensor = output.logits[:, -1]
        return last

    def _append(self, running: _Running, token: int, logprob: float) -> None:
        running.cached = len(running.sequence)
        running.sequence.append(token)
        running.token_ids.append(token)
        running.logprobs.append(logprob)
        running.versions.append(self._version)
        if running.ended.done():
            return
        if token in running.request.sampling.stop_token_ids:
            running.ended.set_result("stop")
        elif len(running.token_ids) == running.room:
            running.ended.set_result("length")

    def _fail(self, reason: str) -> None:
        self._failure = reason
        for running in self._requests.values():
            if not running.ended.done():
                running.ended.set_exception(EngineError(reason))

    @property
    def _alive(self) -> PreTrainedModel:
        if self._failure is not None:
            raise EngineError(self._failure)
        if self._model is None:
            raise EngineError("the engine is not running: call start() first")
        return self._model


_STEP_TIMEOUT_S = 60.0
"""How long `shutdown` waits for the stepper; a step that takes longer ends with the process."""


def _load(settings: EngineSettings) -> PreTrainedModel:
    disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(settings.model, dtype=getattr(torch, settings.dtype))
    return model.eval()


@torch.no_grad()
def _load_weights(model: PreTrainedModel, tensors: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """Copy these tensors into the model, all or none, and give their checksums as they arrived."""
    state = model.state_dict()
    for name, tensor in tensors.items():
        if name not in state or state[name].shape != tensor.shape:
            raise WeightTransferError(f"the model has no tensor {name} of shape {tuple(tensor.shape)}")
    for name, tensor in tensors.items():
        state[name].copy_(tensor)
    return {name: checksum(tensor) for name, tensor in tensors.items()}


@torch.inference_mode()
def _score(model: PreTrainedModel, token_ids: list[int]) -> list[float]:
    ids = torch.tensor([token_ids])
    logprobs = model(input_ids=ids, use_cache=False).logits[0, :-1].float().log_softmax(-1)
    values: list[float] = logprobs.gather(1, ids[0, 1:, None])[:, 0].tolist()
    return values


def _completion(running: _Running, reason: FinishReason) -> Completion:
    segments = list(running.request.prefix)
    start = 0
    for version, run in groupby(running.versions):
        end = start + len(list(run))
        segments.append(Segment(version, tuple(running.token_ids[start:end]), tuple(running.logprobs[start:end])))
        start = end
    return Completion(running.request.request_id, joined(segments), reason)
