"""The default engine: vLLM's `AsyncLLM` behind the `Engine` protocol, on CPU and GPU.

Invariants, and what keeps them:
- versions: vLLM stamps each step's tokens with the label of the weights in force, which only changes while paused;
- KV of older weights is never reused: each prompt is hashed with a salt that counts the updates at its submission,
  and requests that have no token yet when new weights come are submitted afresh under the new salt;
- a pause that asks to recompute the KV of requests in progress empties the cache and puts them back into vLLM's
  queue, where they keep their tokens and their random generator. Nothing is prefilled while the engine is paused, so
  all of it happens after `resume`, under the new weights, and what they then share of a prompt is new too;
- a dead engine process ends every waiting call with `EngineError`, within `_LIVENESS_S`;
- speculation changes the speed alone: vLLM's verification is exact, and a drafter that fails stops drafting.

While the engine is paused, `score` and new `generate` calls wait for `resume`.
"""

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar, cast

from actors.continuation import joined, sequence_so_far
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
    Speculated,
    SpeculationStats,
    WeightStream,
)
from actors.speculation.drafter_check import check_drafter, check_manifest
from actors.speculation.settings import LEARNED, SpeculationSettings
from actors.speculation.step_record import StepRecord
from actors.vllm_launch import DRAFTS_OF_ANSWER, import_vllm, launch
from actors.vllm_sampling import sampling_params
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
_Result = TypeVar("_Result")


@dataclass(slots=True)
class _Running:
    """One `generate` call: what it has sampled so far, and what was asked of it meanwhile."""

    request: GenerationRequest
    internal_id: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    drafts: Sequence[int] | None = None
    abort: bool = False
    restart: bool = False


class VllmEngine:
    """See `actors.engine.Engine`."""

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings
        self._speculation = settings.speculation
        self._trouble: str | None = None
        self._llm: AsyncLLM | None = None
        self._updates = 0
        self._channel_timeout_s = 0.0
        self._running: dict[str, _Running] = {}
        self._scores = 0

    async def start(self) -> None:
        """See `Engine.start`.

        Raises:
            ValueError: the drafter cannot be used, and the settings require it.
        """
        await asyncio.to_thread(self._check_drafter)
        await asyncio.to_thread(import_vllm, self._settings)
        llm = await asyncio.to_thread(launch, replace(self._settings, speculation=self._speculation))
        self._llm = llm
        await self._call(llm.update_weight_version("0"))
        if self._drafter is not None:
            retained = self._drafter.retained_mib * 2**20
            await self._call(llm.collective_rpc("defer_drafting", args=(retained,)))

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
                    return _completion(running, output, await self._speculated(running))
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

    async def receive_weights(self, manifest: WeightManifest, stream: WeightStream = "target") -> Mapping[str, int]:
        """See `Engine.receive_weights`.

        Raises:
            ValueError: the manifest is not what the drafter loads; nothing was received.
            WeightTransferError: nothing was loaded, or the drafter in part, which stops it until it is sent whole.
            EngineError: the target was loaded in part.
        """
        from vllm.distributed.weight_transfer.base import WeightTransferUpdateRequest

        if stream == "drafter":
            await self._check_drafter_manifest(manifest)
        update = {
            "version": manifest.version,
            "names": [spec.name for spec in manifest.tensors],
            "dtypes": [spec.dtype for spec in manifest.tensors],
            "shapes": [list(spec.shape) for spec in manifest.tensors],
        }
        llm = self._alive
        label = str(manifest.version) if stream == "target" else None
        try:
            await self._call(llm.start_weight_update() if stream == "target" else llm.start_draft_weight_update())
            transfer = llm.update_weights(WeightTransferUpdateRequest(update_info=update))
            await self._call(transfer, self._channel_timeout_s + _CALL_TIMEOUT_S)
            await self._call(llm.finish_weight_update(weight_version=label))
        except EngineError:
            raise
        except Exception as error:
            raise await self._failed_update(manifest.version, error) from error
        if stream == "drafter":
            await self._call(llm.collective_rpc("drafter_renewed", args=(None,)))
            await self._ask_scheduler("note_drafter_update", manifest.version)
        else:
            self._updates += 1
            await self._restart_unstarted()
            if self._speculation is not None:
                await self._ask_scheduler("note_target_update")
        return agreed_checksums(await self._call(llm.collective_rpc("received_checksums")))

    async def speculation_stats(self) -> SpeculationStats:
        """What speculation did since the last call; empty where the engine does not speculate."""
        if self._speculation is None:
            return SpeculationStats(self._trouble, ())
        troubles = await self._call(self._alive.collective_rpc("drafting_trouble"))
        records = cast("list[dict[str, Any]]", await self._ask_scheduler("take_records"))
        troubles.append(cast("str | None", await self._ask_scheduler("governor_trouble")))
        return SpeculationStats(
            next((trouble for trouble in troubles if trouble), None),
            tuple(StepRecord(**fields | {"by_position": tuple(fields["by_position"])}) for fields in records),
        )

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
        cache = self._llm.vllm_config.cache_config
        lengths = [len(sequence_so_far(running.request)) + len(running.token_ids) for running in started]
        blocks = sum(-(-length // cache.block_size) for length in lengths)
        return EngineLoad(len(started), len(self._running) - len(started), min(1.0, blocks / cache.num_gpu_blocks))

    async def _sample(self, running: _Running, params: "SamplingParams") -> "CompletionOutput":
        """Submit once, and gather the tokens until vLLM says that the request ended."""
        from vllm.inputs.engine import tokens_input
        from vllm.v1.engine.exceptions import EngineDeadError

        llm = self._alive
        running.token_ids.clear()
        running.logprobs.clear()
        running.drafts = None
        prompt = tokens_input(list(sequence_so_far(running.request)), cache_salt=self._salt)
        try:
            outputs = await self._call(llm.add_request(running.request.request_id, prompt, params))
            running.internal_id = outputs.request_id
            try:
                if running.abort:
                    await self._call(llm.abort(outputs.request_id, internal=True))
                while True:
                    output = outputs.get_nowait() or await outputs.get()
                    piece = output.outputs[0]
                    running.token_ids += piece.token_ids
                    running.logprobs += piece.logprobs.logprobs
                    if output.finished:
                        running.drafts = (output.kv_transfer_params or {}).get(DRAFTS_OF_ANSWER)
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

    def _check_drafter(self) -> None:
        if self._speculation is None:
            return
        try:
            check_drafter(self._settings.model, self._speculation)
        except ValueError as error:
            if self._speculation.required:
                raise
            self._trouble = str(error)
            self._speculation = None

    async def _check_drafter_manifest(self, manifest: WeightManifest) -> None:
        if self._drafter is None or self._drafter.drafter is None:
            raise ValueError("this engine has no drafter that takes weights")
        shared = (await self._call(self._alive.collective_rpc("shared_with_target")))[0]
        await asyncio.to_thread(check_manifest, self._drafter.drafter, manifest, shared)

    async def _failed_update(self, version: int, error: Exception) -> Exception:
        """What the caller is to be told; a drafter that was loaded in part is stopped."""
        llm = self._alive
        torn = await self._call(llm.collective_rpc("torn_weights"))
        if "target" in torn:
            return EngineError(f"version {version} was loaded in part: {error}")
        if "drafter" not in torn:
            return WeightTransferError(f"version {version} did not arrive: {error}")
        trouble = f"version {version} of the drafter was loaded in part: {error}"
        await self._call(llm.collective_rpc("drafter_renewed", args=(trouble,)))
        return WeightTransferError(trouble)

    async def _speculated(self, running: _Running) -> Speculated:
        if self._speculation is None:
            return Speculated()
        drafts = running.drafts
        if drafts is None:  # It was aborted: what vLLM returns then does not come from the scheduler.
            drafts = cast("list[int]", await self._ask_scheduler("take_answer", running.internal_id))
        drafted, accepted, *versions = drafts
        return Speculated(drafted, accepted, tuple(versions))

    async def _ask_scheduler(self, question: str, *arguments: int | str) -> object:
        """Call this method of `actors.speculation.vllm_scheduler`'s scheduler, in the engine's process."""
        core = self._alive.engine_core
        return await self._call(core.call_utility_async("speculation", question, list(arguments)))

    @property
    def _drafter(self) -> SpeculationSettings | None:
        """The settings, if a drafter with weights of its own is at work."""
        return self._speculation if self._speculation is not None and self._speculation.kind in LEARNED else None

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


def agreed_checksums(by_worker: Sequence[Mapping[str, int]]) -> dict[str, int]:
    """The checksums that all workers of an engine report; `DISAGREEMENT` where they do not agree."""
    first, *others = by_worker
    return {
        name: value if all(other.get(name) == value for other in others) else DISAGREEMENT
        for name, value in first.items()
    }


DISAGREEMENT = -1
"""No checksum has this value, so attestation fails."""


def _completion(running: _Running, output: "CompletionOutput", speculated: Speculated) -> Completion:
    reason = _FINISH_REASONS.get(output.finish_reason)
    if reason is None:
        raise EngineError(f"vLLM ended request {running.request.request_id} with {output.finish_reason!r}")
    sampled = [
        Segment(int(s.version), tuple(running.token_ids[s.start : s.end]), tuple(running.logprobs[s.start : s.end]))
        for s in output.weight_versions or ()
    ]
    return Completion(running.request.request_id, joined([*running.request.prefix, *sampled]), reason, speculated)
