"""The default engine: vLLM's `AsyncLLM` behind the `Engine` protocol, on CPU and GPU.

Invariants, and what keeps them:
- versions: vLLM stamps each step's tokens with the label of the weights in force, which only changes while paused;
- KV of older weights is never reused: each prompt is hashed with a salt that names the version at its submission,
  and requests that have no token yet when new weights come are submitted afresh under the new salt;
- requests in progress keep their KV over an update (policy `keep`);
- a dead engine process ends every waiting call with `EngineError`, within `_LIVENESS_S`.

While the engine is paused, `score` and new `generate` calls wait for `resume`.
"""

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, TypeVar

from actors.engine import (
    ChannelAddress,
    Completion,
    EngineError,
    EngineLoad,
    EngineSettings,
    FinishReason,
    GenerationRequest,
    Segment,
)
from actors.vllm_launch import launch
from actors.weight_rendezvous import WeightTransferError
from learners.weights import WeightManifest

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.outputs import RequestOutput
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
    """One `generate` call: what it has so far, and what was asked of it meanwhile."""

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
        self._version = 0
        self._running: dict[str, _Running] = {}
        self._scores = 0

    async def start(self) -> None:
        self._llm = await asyncio.to_thread(launch, self._settings)
        await self._call(self._llm.update_weight_version(str(self._version)))

    async def shutdown(self) -> None:
        llm, self._llm = self._llm, None
        if llm is not None:
            await asyncio.to_thread(llm.shutdown, _SHUTDOWN_GRACE_S)

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

    async def pause(self) -> None:
        await self._call(self._alive.pause_generation(mode="keep", clear_cache=False))

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
            await self._call(llm.update_weights(WeightTransferUpdateRequest(update_info=update)))
            await self._call(llm.finish_weight_update(weight_version=str(manifest.version)))
        except EngineError:
            raise
        except Exception as error:
            if all(await self._call(llm.collective_rpc("weights_intact"))):
                raise WeightTransferError(f"version {manifest.version} did not arrive: {error}") from error
            raise EngineError(f"version {manifest.version} was loaded in part: {error}") from error
        self._version = manifest.version
        await self._restart_unstarted()
        return agreed_checksums(await self._call(llm.collective_rpc("received_checksums")))
