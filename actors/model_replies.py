"""What a served model does with conversations: writes replies, weighs classes, makes vectors.

Batches are made here or by the engine; a text that is too long loses its beginning.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from itertools import count
from typing import Generic, TypeVar

import torch
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from actors.engine import Engine, EngineSettings, GenerationRequest, Sampling
from actors.model_settings import ServedModel
from actors.rollout import make_engine
from rewards.models.asking import Message

CALL_S = 600.0
"""Bound of one reply, whoever still waits for it."""
_Given = TypeVar("_Given")
_Found = TypeVar("_Found")


class ReplyTooLong(ValueError):
    """The reply that is asked for leaves no room for the question."""


def as_text(messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase, *, reply: bool) -> str:
    """By the tokenizer's chat template, or, where it has none, one message after another.

    Args:
        reply: the model shall go on with a turn of its own.
    """
    if tokenizer.chat_template:
        turns = [{"role": message.role, "content": message.content} for message in messages]
        return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=reply))
    return "\n\n".join([*(message.content for message in messages), *([""] if reply else [])])


class Generator:
    """A causal LM on one of the run's engines, which batches by itself."""

    def __init__(self, served: ServedModel) -> None:
        self._served = served
        self._tokenizer = AutoTokenizer.from_pretrained(served.folder)
        self._engine: Engine = make_engine(
            served.engine,
            EngineSettings(
                model=served.folder,
                dtype=served.dtype,
                context_length=served.context_length,
                max_running=served.max_running,
                threads=served.threads,
                kv_cache_gib=served.kv_cache_gib,
                transfer="nccl" if served.on_gpu else "gloo",
                start_timeout_s=served.start_timeout_s,
            ),
        )
        self._requests = count()

    async def start(self) -> None:
        await asyncio.wait_for(self._engine.start(), self._served.start_timeout_s)

    async def replies(
        self, messages: Sequence[Message], *, n: int, max_tokens: int, temperature: float, seed: int
    ) -> list[str]:
        """Raises: ReplyTooLong; EngineError."""
        room = self._served.context_length - max_tokens
        if room < 1:
            raise ReplyTooLong(f"max_tokens={max_tokens} leaves no room in {self._served.context_length} tokens")
        text = as_text(messages, self._tokenizer, reply=True)
        # A chat template brings its own tokens of beginning.
        ids = self._tokenizer(text, add_special_tokens=not self._tokenizer.chat_template)["input_ids"][-room:]
        return list(
            await asyncio.gather(*[self._reply(tuple(ids), max_tokens, temperature, seed + i) for i in range(n)])
        )

    async def _reply(self, prompt: tuple[int, ...], max_tokens: int, temperature: float, seed: int) -> str:
        stops = tuple({self._tokenizer.eos_token_id} - {None})
        sampling = Sampling(max_tokens=max_tokens, temperature=temperature, seed=seed, stop_token_ids=stops)
        request = GenerationRequest(f"ask-{next(self._requests)}", prompt, sampling)
        completion = await asyncio.wait_for(self._engine.generate(request), CALL_S)
        return str(self._tokenizer.decode(completion.token_ids, skip_special_tokens=True))


class Batches(Generic[_Given, _Found]):
    """Puts what waits into one pass of the model, at most `most` at a time; one pass at a time."""

    def __init__(self, compute: Callable[[Sequence[_Given]], Sequence[_Found]], most: int) -> None:
        self._compute, self._most = compute, most
        self._waiting: list[tuple[_Given, asyncio.Future[_Found]]] = []
        self._working: asyncio.Task[None] | None = None

    def found(self, given: Sequence[_Given]) -> list[Awaitable[_Found]]:
        """What the model makes of each of these."""
        futures = [asyncio.get_running_loop().create_future() for _ in given]
        self._waiting += zip(given, futures, strict=True)
        if self._working is None or self._working.done():
            self._working = asyncio.create_task(self._work())
        return list(futures)

    async def _work(self) -> None:
        while self._waiting:
            part, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
            try:
                found = await asyncio.to_thread(self._compute, [given for given, _ in part])
            except Exception as error:  # noqa: BLE001 - it is the callers' who wait for it
                for _, future in part:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (_, future), value in zip(part, found, strict=True):
                if not future.done():
                    future.set_result(value)


class Encoder:
    """A checkpoint that reads: class probabilities, or the mean of the last hidden states as a vector of length 1."""

    def __init__(self, served: ServedModel) -> None:
        self._served = served
        self._device = "cuda" if served.on_gpu else "cpu"
        self._batches: Batches[str, list[float]] = Batches(self._read, served.max_running)

    async def start(self) -> None:
        await asyncio.wait_for(asyncio.to_thread(self._load), self._served.start_timeout_s)

    async def probabilities(self, messages: Sequence[Message]) -> list[float]:
        (found,) = self._batches.found([as_text(messages, self._tokenizer, reply=False)])
        return await asyncio.wait_for(found, CALL_S)

    async def vectors(self, texts: Sequence[str]) -> list[list[float]]:
        return list(await asyncio.wait_for(asyncio.gather(*self._batches.found(texts)), CALL_S))

    def _load(self) -> None:
        torch.set_num_threads(self._served.threads)
        self._tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(self._served.folder)
        self._tokenizer.truncation_side, self._tokenizer.padding_side = "left", "right"
        kind = AutoModelForSequenceClassification if self._served.task == "classify" else AutoModel
        dtype = getattr(torch, self._served.dtype)
        self._model: PreTrainedModel = kind.from_pretrained(self._served.folder, dtype=dtype).eval().to(self._device)
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        if self._model.config.pad_token_id is None:
            self._model.config.pad_token_id = self._tokenizer.pad_token_id

    @torch.inference_mode()
    def _read(self, texts: Sequence[str]) -> list[list[float]]:
        read = self._tokenizer(
            list(texts), return_tensors="pt", padding=True, truncation=True, max_length=self._served.context_length
        ).to(self._device)
        inputs = {"input_ids": read["input_ids"], "attention_mask": read["attention_mask"]}
        if self._served.task == "classify":
            logits = self._model(**inputs).logits.float()
            found = logits.sigmoid() if logits.shape[-1] == 1 else logits.softmax(-1)
        else:
            hidden, mask = self._model(**inputs).last_hidden_state.float(), inputs["attention_mask"][..., None]
            found = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1).clamp(min=1), dim=-1)
        values: list[list[float]] = found.tolist()
        return values
