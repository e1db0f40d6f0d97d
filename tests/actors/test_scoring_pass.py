"""A worker scores sequences under the version it is asked for, or says that it cannot: on both engines."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Literal

import pytest
import torch

from actors.engine import EngineSettings
from actors.rollout import RolloutWorker, Scored
from tests.actors.test_rollout import CONTEXT_LENGTH, SLOTS, update
from tests.actors.tiny_model import model_of

SEQUENCES = ((5, 6, 7, 8, 9), tuple(range(20, 60)), (70, 71))
ENGINES = ["torch", pytest.param("vllm", marks=pytest.mark.slow)]
Kind = Literal["torch", "vllm"]


def play(kind: Kind, folder: Path, scenario: Callable[[RolloutWorker], Awaitable[None]]) -> None:
    async def conduct() -> None:
        worker = RolloutWorker(
            "w", kind, EngineSettings(str(folder), "float32", CONTEXT_LENGTH, SLOTS, kv_cache_gib=0.25)
        )
        await worker.start()
        try:
            await scenario(worker)
        finally:
            await worker.shutdown()

    asyncio.run(conduct())


@torch.inference_mode()
def expected(seed: int) -> list[list[float]]:
    """Logprobs of the sequences under the model that `update` sends, by transformers alone."""
    model = model_of(seed, tied=False)
    found = []
    for sequence in SEQUENCES:
        logprobs = model(input_ids=torch.tensor([sequence])).logits[0, :-1].log_softmax(-1)
        found.append(logprobs.gather(1, torch.tensor(sequence[1:])[:, None])[:, 0].tolist())
    return found


def agree(scored: Scored, version: int, seed: int) -> None:
    assert scored.version == version
    for one, other in zip(scored.logprobs, expected(seed), strict=True):
        assert one == pytest.approx(other, abs=2e-4)


@pytest.mark.parametrize("kind", ENGINES)
def test_scores_are_of_the_version_asked_for_or_none(untied_checkpoint: Path, kind: Kind) -> None:
    async def scenario(worker: RolloutWorker) -> None:
        agree(await worker.score(0, SEQUENCES), 0, seed=0)
        assert await worker.score(1, SEQUENCES) == Scored(0)
        await update(worker, 1)
        # The new weights are there, and nobody attested them.
        assert await worker.score(1, SEQUENCES) == Scored(None)
        assert await worker.score(0, SEQUENCES) == Scored(None)
        await worker.serve(1)
        assert await worker.score(0, SEQUENCES) == Scored(1)
        agree(await worker.score(1, SEQUENCES), 1, seed=2)

    play(kind, untied_checkpoint, scenario)


@pytest.mark.parametrize("kind", ENGINES)
def test_a_pass_into_which_an_update_falls_is_refused(
    untied_checkpoint: Path, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(worker: RolloutWorker) -> None:
        engine = worker._engine
        plain, updated = engine.score, asyncio.Event()

        async def score(token_ids: Sequence[int]) -> list[float]:
            if tuple(token_ids) == SEQUENCES[1] and not updated.is_set():
                updated.set()
                await update(worker, 1)
                await worker.serve(1)
            return await plain(token_ids)

        monkeypatch.setattr(engine, "score", score)
        assert await worker.score(0, SEQUENCES) == Scored(None)
        agree(await worker.score(1, SEQUENCES), 1, seed=2)

    play(kind, untied_checkpoint, scenario)
