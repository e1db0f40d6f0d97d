"""The default engine: vLLM's `AsyncLLM` behind the `Engine` protocol, on CPU and GPU.

Invariants, and what keeps them:
- versions: vLLM stamps each step's tokens with the label of the weights in force, which only changes while paused;
- KV of older weights is never reused: each prompt is hashed with a salt that counts the updates at its submission,
  and requests that have no token yet when new weights come are submitted afresh under the new salt;
- a pause that asks to recompute the KV of requests in progress empties the cache and puts them back into vLLM's
  queue, where they keep their tokens and their random generator. Nothing is prefilled while the engine is paused, so
  all of it happens after `resume`, under the new weights, and what they then share of a prompt is new too;
- a dead engine process ends every waiting call with `EngineError`, within `_LIVENESS_S`.

While the engine is paused, `score` and new `generate` calls wait for `resume`.
"""

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, TypeVar

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
from actors.vllm_launch import import_vllm, launch
from actors.weight_rendezvous import WeightTransferError
from learners.weights import WeightManifest

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.outputs import CompletionOutput
    from vllm.v1.engine.async_llm import AsyncLLM

_LIVENESS_S = 0.5
"""How often a waiting call looks whether the engine's process is still there, seconds."""
_CALL_TIMEOUT_S = 300.0
"""Bound of a control call or a scoring; generation is bounded by its caller."""
_STREAM_INTERVAL = 64
"""Tokens between two partial outputs. The first token is reported at once, the rest in few large pieces."""
_Result = TypeVar("_Result")


@dataclass(slots=True)
class _Running:
    """One `generate` call: what it has sampled so far, and what was asked of it meanwhile."""

    request: GenerationRequest
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    abort: bool = False
    restart: bool = False


class VllmEngine:
    """See `actors.engine.Engine`."""

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings
        self._llm: AsyncLLM | None = None
        self._updates = 0
        self._channel_timeout_s = 0.0
        self._running: dict[str, _Running] = {}
        self._scores = 0

    async def start(self) -> None:
        await asyncio.to_thread(import_vllm, self._settings)
        llm = await asyncio.to_thread(launch, self._settings)
        self._llm = llm
        await self._call(llm.update_weight_version("0"))

    async def shutdown(self) -> None:
        from vllm.v1.engine.exceptions import EngineDeadError

        llm, self._llm = self._llm, None
        if llm is None:
            return
        # In this order no call is left waiting, and vLLM does not log the end of its process as a crash.
        llm.output_processor.propagate_error(EngineDeadError())
        if llm.output_handler is not None:
            llm.output_handler.cancel()
        await asyncio.wait_for(asyncio.to_thread(llm.shutdown, _SHUTDOWN_GRACE_S), _CALL_TIMEOUT_S)

    async def generate(self, request: GenerationRequest) -> Completion:
        running = _Running(request)
        if request.request_id in self._running:
            raise ValueError(f"request id {request.request_id} is in use: ids are unique over the life of an engine")
        params = sampling_params(request, self._settings.context_length)
        self._running[request.request_id] = running
        try:
            while True:
                output = await self._sample(running, params)
                if not running.restart:
                    return _completion(running, output)
                running.restart = False
        finally:
            del self._running[request.request_id]

    async def abort(self, request_ids: Sequence[str]) -> None:
        known = [request_id for request_id in request_ids if request_id in self._running]
        for request_id in known:
            self._running[request_id].abort = True
            self._running[request_id].restart = False
        if known:
            await self._call(self._alive.abort(known))

    async def pause(self, kv: KvPolicy = "keep") -> None:
        await self._call(self._alive.pause_generation(mode="keep", clear_cache=kv == "recompute"))

    async def resume(self) -> None:
        await self._call(self._alive.resume_generation())

    async def open_channel(self, address: ChannelAddress) -> None:
        from vllm.distributed.weight_transfer.base import WeightTransferInitRequest

        if address.backend != self._settings.transfer:
            raise ValueError(f"a {address.backend} channel was offered to an engine set to {self._settings.transfer}")
        request = WeightTransferInitRequest(init_info=asdict(address))
        joining = self._alive.init_weight_transfer_engine(request)
        try:
            await self._call(joining, address.timeout_s + _CALL_TIMEOUT_S)
        except EngineError:
            raise
        except Exception as error:
            raise WeightTransferError(f"the engine could not join the weight channel: {error}") from error
        self._channel_timeout_s = address.timeout_s

    async def receive_weights(self, manifest: WeightManifest) -> Mapping[str, int]:
        from vllm.distributed.weight_transfer.base import WeightTransferUpdateRequest

        update = {
            "version": manifest.version,
            "names": [spec.name for spec in manifest.tensors],
            "dtypes": [spec.dtype for spec in manifest.tensors],
            "shapes": [list(spec.shape) for spec in manifest.tensors],
        }
        llm = self._alive
        try:
            await self._call(llm.start_weight_update())
            transfer = llm.update_weights(WeightTransferUpdateRequest(update_info=update))
            await self._call(transfer, self._channel_timeout_s + _CALL_TIMEOUT_S)
            await self._call(llm.finish_weight_update(weight_version=str(manifest.version)))
        except EngineError:
            raise
        except Exception as error:
            if all(await self._call(llm.collective_rpc("weights_intact"))):
                raise WeightTransferError(f"version {manifest.version} did not arrive: {error}") from error
            raise EngineError(f"version {manifest.version} was loaded in part: {error}") from error
        self._updates += 1
        await self._restart_unstarted()
        return agreed_checksums(await self._call(llm.collective_rpc("received_checksums")))

    async def score(self, token_ids: Sequence[int]) -> list[float]:
        """See `Engine.score`; at most `context_length - 1` tokens, because vLLM must sample one more to score.

        vLLM reads no prefix cache for a request that asks for its prompt's logprobs.
        """
        if not 2 <= len(token_ids) < self._settings.context_length:
            raise ValueError(
                f"cannot score {len(token_ids)} tokens: between 2 and context_length - 1 = "
                f"{self._settings.context_length - 1} are possible"
            )
        self._scores += 1
        scored = await self._call(self._prompt_logprobs(token_ids, f"score-{self._scores}"))
        return list(scored)

    def load(self) -> EngineLoad:
        if self._llm is None:
            return EngineLoad(running=0, waiting=0, kv_use=0.0)
        started = [running for running in self._running.values() if running.token_ids]
        held = sum(len(sequence_so_far(running.request)) + len(running.token_ids) for running in started)
        cache = self._llm.vllm_config.cache_config
        capacity = cache.num_gpu_blocks * cache.block_size
        return EngineLoad(len(started), len(self._running) - len(started), min(1.0, held / capacity))

    async def _sample(self, running: _Running, params: "SamplingParams") -> "CompletionOutput":
        """Submit once, and gather the tokens until vLLM says that the request ended."""
        from vllm.inputs.engine import tokens_input
        from vllm.v1.engine.exceptions import EngineDeadError

        llm = self._alive
        running.token_ids.clear()
        running.logprobs.clear()
        prompt = tokens_input(list(sequence_so_far(running.request)), cache_salt=self._salt)
        try:
            outputs = await self._call(llm.add_request(running.request.request_id, prompt, params))
            try:
                if running.abort:
                    await self._call(llm.abort(outputs.request_id, internal=True))
                while True:
                    output = outputs.get_nowait() or await outputs.get()
                    piece = output.outputs[0]
                    running.token_ids += piece.token_ids
                    running.logprobs += piece.logprobs.logprobs
                    if output.finished:
                        return piece
            except asyncio.CancelledError:
                await self._call(llm.abort(outputs.request_id, internal=True))
                raise
        except EngineDeadError as error:
            raise EngineError(_DEAD) from error

    async def _prompt_logprobs(self, token_ids: Sequence[int], request_id: str) -> Sequence[float]:
        from vllm import SamplingParams
        from vllm.inputs.engine import tokens_input
        from vllm.sampling_params import RequestOutputKind

        params = SamplingParams(
            max_tokens=1,
            temperature=0.0,
            prompt_logprobs=0,
            flat_logprobs=True,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        prompt = tokens_input(list(token_ids), cache_salt=self._salt)
        async for output in self._alive.generate(prompt, params, request_id):
            logprobs: Sequence[float] = output.prompt_logprobs.logprobs
        return logprobs

    async def _restart_unstarted(self) -> None:
        """Submit afresh what has no token yet: its prompt may be hashed, or half computed, under older weights."""
        unstarted = [r for r in self._running.values() if not r.token_ids and not r.abort]
        for running in unstarted:
            running.restart = True
        if unstarted:
            await self._call(self._alive.abort([running.request.request_id for running in unstarted]))

    async def _call(self, call: Coroutine[None, None, _Result], timeout_s: float = _CALL_TIMEOUT_S) -> _Result:
        """Await one of vLLM's calls, but no longer than the engine's process lives.

        vLLM fails pending requests when that process dies, but leaves pending control calls waiting.
        """
        from vllm.v1.engine.exceptions import EngineDeadError

        clock = asyncio.get_running_loop().time
        deadline = clock() + timeout_s
        task = asyncio.ensure_future(call)
        try:
            while not (await asyncio.wait({task}, timeout=_LIVENESS_S))[0]:
                _ = self._alive
                if clock() > deadline:
                    raise EngineError(f"vLLM did not answer within {timeout_s:g} s")
            return task.result()
        except EngineDeadError as error:
            raise EngineError(_DEAD) from error
        finally:
            task.cancel()

    @property
    def _alive(self) -> "AsyncLLM":
        if self._llm is None:
            raise EngineError("the engine is not running: call start() first")
        if self._llm.errored:
            raise EngineError(_DEAD)
        return self._llm

    @property
    def _salt(self) -> str:
        """Not the version: one that arrives twice may have arrived damaged the first time."""
        return f"after update {self._updates}"


_DEAD = "the process of vLLM's engine died: what it said last stands in the worker's log"
_SHUTDOWN_GRACE_S = 1.0
"""Nothing is lost by killing the engine's process; the grace is for its own clean-up."""
_FINISH_REASONS: dict[str, FinishReason] = {"stop": "stop", "length": "length", "abort": "abort"}


def sampling_params(request: GenerationRequest, context_length: int) -> "SamplingParams":
    """vLLM's parameters for this request.

    Raises:
        ValueError: see `answer_room`.
    """
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    sampling = request.sampling
    return SamplingParams(
        max_tokens=answer_room(request, context_length),
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        stop_token_ids=list(sampling.stop_token_ids),
        # Only the request says what ends an answer, not the checkpoint.
        ignore_eos=True,
        seed=drawing_seed(request),
        logprobs=0,
        flat_logprobs=True,
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
        stream_interval=_STREAM_INTERVAL,
    )


def agreed_checksums(by_worker: Sequence[Mapping[str, int]]) -> dict[str, int]:
    """The checksums that all workers of an engine report; `DISAGREEMENT` where they do not agree."""
    first, *others = by_worker
    return {
        name: value if all(other.get(name) == value for other in others) else DISAGREEMENT
        for name, value in first.items()
    }


DISAGREEMENT = -1
"""No checksum has this value, so attestation fails."""


def _completion(running: _Running, output: "CompletionOutput") -> Completion:
    reason = _FINISH_REASONS.get(output.finish_reason)
    if reason is None:
        raise EngineError(f"vLLM ended request {running.request.request_id} with {output.finish_reason!r}")
    sampled = [
        Segment(int(s.version), tuple(running.token_ids[s.start : s.end]), tuple(running.logprobs[s.start : s.end]))
        for s in output.weight_versions or ()
    ]
    return Completion(running.request.request_id, joined([*running.request.prefix, *sampled]), reason)
