"""The engine under test, with the transformers model that it must agree with.

The engine lives on an event loop of its own, in a thread, as it does in an actor: the test's thread plays the
learner, and sends weights while the engine receives them.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from pathlib import Path
from typing import Literal, TypeVar

import torch
from transformers import Qwen3ForCausalLM

from actors.engine import Completion, Engine, EngineSettings, GenerationRequest, KvPolicy, Sampling, Segment
from actors.rollout import make_engine
from actors.weight_channel import WeightSender, listen
from learners.weights import TensorSpec, WeightManifest, checksum
from tests.actors.tiny_model import CONTEXT_LENGTH, model_of

WAIT_S = 60.0
"""Deadline of everything that a test waits for."""
MAX_RUNNING = 8
_Result = TypeVar("_Result")


class Subject:
    """A started engine and its reference; `update` moves both to new weights."""

    def __init__(
        self,
        kind: str,
        folder: Path,
        *,
        tied: bool,
        tied_head_remedy: bool = True,
        dtype: Literal["float32", "bfloat16"] = "float32",
        make: Callable[[EngineSettings], Engine] | None = None,
    ) -> None:
        """
        Args:
            make: makes the engine where its kind alone does not say how.
        """
        self.kind = kind
        self.tied = tied
        self.reference: Qwen3ForCausalLM = model_of(0, tied=tied)
        self.version = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._sender: WeightSender | None = None
        self._ids = 0
        settings = EngineSettings(
            model=str(folder),
            dtype=dtype,
            context_length=CONTEXT_LENGTH,
            max_running=MAX_RUNNING,
            kv_cache_gib=0.25,
            tied_head_remedy=tied_head_remedy,
        )
        self.engine: Engine = make(settings) if make else make_engine("vllm" if kind == "vllm" else "torch", settings)
        self.run(self.engine.start(), timeout_s=240)

    def close(self) -> None:
        """Idempotent, as the engine's `shutdown` is."""
        if not self._thread.is_alive():
            return
        if self._sender is not None:
            self._sender.close()
        self.run(self.engine.shutdown())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(WAIT_S)

    def begin(self, call: Coroutine[None, None, _Result]) -> "Future[_Result]":
        return asyncio.run_coroutine_threadsafe(call, self._loop)

    def run(self, call: Coroutine[None, None, _Result], timeout_s: float = WAIT_S) -> _Result:
        return self.begin(call).result(timeout_s)

    def request(
        self, prompt: tuple[int, ...], sampling: Sampling, prefix: tuple[Segment, ...] = ()
    ) -> GenerationRequest:
        self._ids += 1
        return GenerationRequest(f"request-{self._ids}", prompt, sampling, prefix)

    def generate(self, prompt: tuple[int, ...], sampling: Sampling) -> Completion:
        return self.run(self.engine.generate(self.request(prompt, sampling)))

    def generate_all(self, prompts: list[tuple[int, ...]], samplings: list[Sampling]) -> list[Completion]:
        requests = [self.request(p, s) for p, s in zip(prompts, samplings, strict=True)]
        calls = [self.begin(self.engine.generate(request)) for request in requests]
        return [call.result(WAIT_S) for call in calls]

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + WAIT_S
        while not condition():
            assert time.monotonic() < deadline, "the engine did not get there in time"
            time.sleep(0.001)

    def until_running(self, count: int) -> None:
        """Wait until so many requests have their first token or their slot."""
        self.until(lambda: self.engine.load().running >= count)

    def open_channel(self) -> WeightSender:
        """A new channel in place of the one before, if any."""
        if self._sender is not None:
            self._sender.close()
        self._sender = listen("gloo", workers=1, timeout_s=WAIT_S)
        joining = self.begin(self.engine.open_channel(self._sender.address))
        self._sender.connect()
        joining.result(WAIT_S)
        return self._sender

    def update(
        self, model: Qwen3ForCausalLM, sent: dict[str, torch.Tensor] | None = None, kv: KvPolicy = "keep"
    ) -> dict[str, int]:
        """Send these weights between a pause and a resume; `sent` travels in their place where it is given."""
        self.run(self.engine.pause(kv))
        received = self.transfer(model, sent)
        self.run(self.engine.resume())
        return received

    def transfer(self, model: Qwen3ForCausalLM, sent: dict[str, torch.Tensor] | None = None) -> dict[str, int]:
        """`update` without pause and resume."""
        sender = self._sender or self.open_channel()
        self.version += 1
        tensors = weights(model)
        manifest = manifest_of(self.version, tensors)
        receiving = self.begin(self.engine.receive_weights(manifest))
        sender.send(manifest, sent or tensors)
        self.reference = model
        return dict(receiving.result(WAIT_S))


def weights(model: Qwen3ForCausalLM) -> dict[str, torch.Tensor]:
    """What a learner sends: every parameter once, by its name in the checkpoint."""
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def manifest_of(version: int, tensors: dict[str, torch.Tensor]) -> WeightManifest:
    specs = (TensorSpec(n, str(t.dtype).removeprefix("torch."), tuple(t.shape)) for n, t in tensors.items())
    return WeightManifest(version, tuple(specs))


def checksums(tensors: dict[str, torch.Tensor]) -> dict[str, int]:
    return {name: checksum(tensor) for name, tensor in tensors.items()}


@torch.inference_mode()
def answer_logprobs(model: Qwen3ForCausalLM, prompt: tuple[int, ...], answer: tuple[int, ...]) -> torch.Tensor:
    """[len(answer), vocabulary] the reference's logprobs at each answer token."""
    ids = torch.tensor([prompt + answer])
    return model(input_ids=ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)


@torch.inference_mode()
def greedy(model: Qwen3ForCausalLM, prompt: tuple[int, ...], tokens: int) -> tuple[int, ...]:
    """transformers' own greedy answer, without stopping."""
    ids = torch.tensor([prompt])
    output = model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=tokens, eos_token_id=None
    )
    return tuple(output[0, len(prompt) :].tolist())
