"""The reference engine: a plain transformers model, decoded step by step, behind the `Engine` protocol.

It is small and exact, not fast: the oracle of the tests, and the place for decode loops that vLLM cannot run.

Invariants:
- one step at a time touches the model and the drafter (`_model_lock`); pausing, aborting, updating and scoring happen
  between steps;
- what a request samples depends on its prompt, its prefix, its seed and the weights alone, up to float rounding in
  batched sums; to the bit with `batch_invariant`, for then nothing is batched. That holds with a drafter whose drafts
  are no draws (`actors.speculation.verification`): the tokens are those without it. Drafts that are drawn take draws of
  their own from the request's generator: with such a drafter a seed gives other tokens of the same law, which change
  with the drafter's version and with the draft lengths;
- a request's KV is its own, from its first step to its end or to the next pause that asks to recompute it; nothing
  else is kept, so nothing can be stale.
"""

import asyncio
from collections.abc import Mapping, Sequence

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from actors.engine import (
    ChannelAddress,
    Completion,
    EngineError,
    EngineLoad,
    EngineSettings,
    GenerationRequest,
    KvPolicy,
    SpeculationStats,
    WeightStream,
)
from actors.kv_slots import KvSlots
from actors.running_answer import RunningAnswer, begun
from actors.speculation.drafter import Speculation
from actors.torch_decoder import TorchDecoder
from actors.weight_receiver import GlooReceiver
from actors.weight_rendezvous import WeightTransferError
from learners.weights import WeightManifest, checksum


class TorchEngine:
    """See `actors.engine.Engine`."""

    def __init__(self, settings: EngineSettings, speculation: Speculation | None = None) -> None:
        """
        Args:
            speculation: None decodes token by token.
        """
        if settings.transfer != "gloo":
            raise ValueError("the torch engine receives weights over gloo: set rollout.engine=vllm to use nccl")
        self._settings = settings
        self._speculation = speculation
        self._free = list(range(settings.max_running))
        self._requests: dict[str, RunningAnswer] = {}
        self._version = 0
        self._model: PreTrainedModel | None = None
        self._decoder: TorchDecoder | None = None
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
        slots = KvSlots(self._settings.max_running, self._settings.context_length)
        self._decoder = TorchDecoder(self._model, slots, self._speculation, alone=self._settings.batch_invariant)
        self._stepper = asyncio.create_task(self._step_for_ever(self._decoder))
        self._stepper.add_done_callback(self._stepper_ended)

    async def shutdown(self) -> None:
        stepper, self._stepper = self._stepper, None
        if stepper is not None:
            stepper.cancel()
            await asyncio.wait({stepper}, timeout=_STEP_TIMEOUT_S)
        self._fail("the engine was shut down")
        self._model = None
        self._decoder = None
        self._receiver = None

    async def generate(self, request: GenerationRequest) -> Completion:
        if request.request_id in self._requests:
            raise ValueError(f"request id {request.request_id} is in use: ids are unique over the life of an engine")
        _ = self._alive
        running = begun(request, self._settings.context_length)
        self._requests[request.request_id] = running
        self._work.set()
        try:
            return running.completion(await running.ended)
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
                if self._decoder is not None:
                    self._decoder.drop_kv()

    async def resume(self) -> None:
        self._resumed.set()

    async def open_channel(self, address: ChannelAddress) -> None:
        self._receiver = await asyncio.to_thread(GlooReceiver, address)

    async def receive_weights(self, manifest: WeightManifest, stream: WeightStream = "target") -> Mapping[str, int]:
        if self._receiver is None:
            raise WeightTransferError("no weight channel is open")
        model = self._alive
        tensors = dict(await asyncio.to_thread(self._receiver.receive, manifest))
        async with self._model_lock:
            if stream == "drafter":
                await asyncio.to_thread(self._load_drafter, tensors, manifest.version)
            else:
                await asyncio.to_thread(_load_weights, model, tensors)
                self._version = manifest.version
            if self._speculation is not None:
                self._speculation.updated(stream)
        return {name: checksum(tensor) for name, tensor in tensors.items()}

    async def score(self, token_ids: Sequence[int]) -> list[float]:
        if not 2 <= len(token_ids) <= self._settings.context_length:
            raise ValueError(
                f"cannot score {len(token_ids)} tokens: between 2 and context_length = "
                f"{self._settings.context_length} are possible"
            )
        async with self._model_lock:
            return await asyncio.to_thread(_score, self._alive, list(token_ids))

    async def speculation_stats(self) -> SpeculationStats:
        async with self._model_lock:
            return self._decoder.take_stats() if self._decoder is not None else SpeculationStats()

    def load(self) -> EngineLoad:
        started = [r for r in self._requests.values() if r.slot is not None]
        held = sum(len(r.sequence) for r in started)
        capacity = self._settings.max_running * self._settings.context_length
        return EngineLoad(len(started), len(self._requests) - len(started), held / capacity)

    async def _step_for_ever(self, decoder: TorchDecoder) -> None:
        while True:
            await self._resumed.wait()
            await self._work.wait()
            async with self._model_lock:
                if not self._resumed.is_set():
                    continue
                decoder.keep_only(self._requests)
                running = self._admit()
                if not running:
                    self._work.clear()
                    continue
                await asyncio.to_thread(decoder.step, running, self._version)
                for answer in running:
                    answer.end_if_whole()
            # Let finished calls return, and free their slots, before the next step.
            await asyncio.sleep(0)

    def _stepper_ended(self, stepper: "asyncio.Task[None]") -> None:
        if not stepper.cancelled() and (error := stepper.exception()) is not None:
            self._fail(f"a decoding step failed: {error}")

    def _admit(self) -> list[RunningAnswer]:
        """The requests to step: all that hold a slot, and as many waiting ones as there are free slots."""
        unfinished = [r for r in self._requests.values() if not r.ended.done()]
        for request in unfinished:
            if request.slot is None and self._free:
                request.slot = self._free.pop()
        return [r for r in unfinished if r.slot is not None]

    def _load_drafter(self, tensors: Mapping[str, torch.Tensor], version: int) -> None:
        if self._speculation is None:
            raise WeightTransferError("weights of a drafter came to an engine that has none")
        try:
            self._speculation.drafter.load_weights(tensors, version)
        except ValueError as error:
            raise WeightTransferError(f"version {version} of the drafter was not loaded: {error}") from error

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
def _load_weights(model: PreTrainedModel, tensors: Mapping[str, torch.Tensor]) -> None:
    """Copy these tensors into the model, all or none."""
    state = model.state_dict()
    for name, tensor in tensors.items():
        if name not in state or state[name].shape != tensor.shape:
            raise WeightTransferError(f"the model has no tensor {name} of shape {tuple(tensor.shape)}")
    for name, tensor in tensors.items():
        state[name].copy_(tensor)


@torch.inference_mode()
def _score(model: PreTrainedModel, token_ids: list[int]) -> list[float]:
    ids = torch.tensor([token_ids])
    logprobs = model(input_ids=ids, use_cache=False).logits[0, :-1].float().log_softmax(-1)
    values: list[float] = logprobs.gather(1, ids[0, 1:, None])[:, 0].tolist()
    return values
