"""The rollout worker's mailbox, and the gate that holds back tokens of a version nobody attested."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from actors.engine import EngineSettings, GenerationRequest, Sampling
from actors.rollout import Collected, RolloutWorker
from actors.weight_channel import listen
from learners.weights import TensorSpec, WeightManifest, checksum
from tests.actors.tiny_model import model_of

PROBE = tuple(range(40, 60))


def request(name: str, tokens: int = 6) -> GenerationRequest:
    return GenerationRequest(name, (5, 6, 7), Sampling(max_tokens=tokens, seed=1))


async def collect(worker: RolloutWorker, count: int) -> list[str]:
    """Ids of the next `count` answers."""
    names: list[str] = []
    async with asyncio.timeout(30):
        while len(names) < count:
            names += [t.completion.request_id for t in (await worker.collect(0.2)).trajectories]
    return names


def play(folder: Path, scenario: Callable[[RolloutWorker], Awaitable[None]]) -> None:
    async def conduct() -> None:
        worker = RolloutWorker("w", "torch", EngineSettings(str(folder), "float32", 256, 8))
        await worker.start()
        try:
            await scenario(worker)
        finally:
            await worker.shutdown()

    asyncio.run(conduct())


async def update(worker: RolloutWorker, version: int) -> dict[str, int]:
    """Send the worker other weights; returns the checksums that it reports."""
    model = model_of(version, tied=False)
    tensors = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    manifest = WeightManifest(
        version, tuple(TensorSpec(name, "float32", tuple(tensor.shape)) for name, tensor in tensors.items())
    )
    sender = listen("gloo", workers=1, timeout_s=30)
    await asyncio.gather(worker.open_channel(sender.address), asyncio.to_thread(sender.connect))
    arrival, _ = await asyncio.gather(worker.update(manifest, PROBE), asyncio.to_thread(sender.send, manifest, tensors))
    assert arrival.version == version
    assert arrival.checksums == {name: checksum(tensor) for name, tensor in tensors.items()}
    sender.close()
    return dict(arrival.checksums)


def test_each_answer_is_collected_once(untied_checkpoint: Path) -> None:
    async def scenario(worker: RolloutWorker) -> None:
        await worker.submit([request("a"), request("b"), request("c")])
        assert sorted(await collect(worker, 3)) == ["a", "b", "c"]
        assert (await worker.collect(0.1)).trajectories == ()

    play(untied_checkpoint, scenario)


def test_collect_waits_no_longer_than_asked(untied_checkpoint: Path) -> None:
    async def scenario(worker: RolloutWorker) -> None:
        async with asyncio.timeout(5):
            collected = await worker.collect(0.2)
        assert collected == Collected((), collected.load)

    play(untied_checkpoint, scenario)


def test_tokens_of_an_unattested_version_never_leave(untied_checkpoint: Path) -> None:
    async def scenario(worker: RolloutWorker) -> None:
        await worker.submit([request("before")])
        assert await collect(worker, 1) == ["before"]
        await update(worker, 1)
        await worker.submit([request("after")])
        for _ in range(5):
            assert (await worker.collect(0.3)).trajectories == ()
        await worker.serve(1)
        assert await collect(worker, 1) == ["after"]

    play(untied_checkpoint, scenario)


def test_an_answer_across_an_update_waits_for_the_newer_version(untied_checkpoint: Path) -> None:
    async def scenario(worker: RolloutWorker) -> None:
        await worker.submit([request("long", tokens=200)])
        await asyncio.sleep(0.1)
        await update(worker, 1)
        await asyncio.sleep(2)
        assert (await worker.collect(0.3)).trajectories == ()
        await worker.serve(1)
        async with asyncio.timeout(30):
            while not (found := (await worker.collect(0.5)).trajectories):
                pass
        assert sorted(set(found[0].completion.versions)) == [0, 1]
        assert len(found[0].completion.token_ids) == 200

    play(untied_checkpoint, scenario)


def test_a_request_that_cannot_run_is_an_error_not_a_silence(untied_checkpoint: Path) -> None:
    async def scenario(worker: RolloutWorker) -> None:
        await worker.submit([GenerationRequest("huge", tuple([5] * 400), Sampling(max_tokens=4))])
        with pytest.raises(ValueError, match="400"):
            await collect(worker, 1)

    play(untied_checkpoint, scenario)
