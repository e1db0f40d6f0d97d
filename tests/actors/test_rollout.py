"""The rollout worker's mailbox, and the gate that holds back tokens of a version nobody attested."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from actors.engine import EngineSettings, GenerationRequest, Sampling, Segment
from actors.rollout import Arrival, Collected, RolloutWorker, UpdatePolicy
from actors.trajectory import Trajectory
from actors.weight_channel import listen
from actors.weight_rendezvous import WeightTransferError
from learners.weights import TensorSpec, WeightManifest, checksum
from tests.actors.dying_sender import DyingSender, two_buffers
from tests.actors.oracle import fresh_kv_logits, gaps, kept_kv_logits
from tests.actors.tiny_model import model_of

PROBE = tuple(range(40, 60))
CONTEXT_LENGTH = 256
SLOTS = 8


def request(name: str, tokens: int = 6) -> GenerationRequest:
    return GenerationRequest(name, (5, 6, 7), Sampling(max_tokens=tokens, seed=1))


async def trajectories(worker: RolloutWorker, count: int) -> list[Trajectory]:
    """The next `count` answers."""
    found: list[Trajectory] = []
    async with asyncio.timeout(30):
        while len(found) < count:
            found += (await worker.collect(0.2)).trajectories
    return found


async def collect(worker: RolloutWorker, count: int) -> list[str]:
    """Ids of the next `count` answers."""
    return [t.completion.request_id for t in await trajectories(worker, count)]


async def until_held(worker: RolloutWorker, tokens: int) -> None:
    """Wait until the answers in progress hold so many tokens of KV; none may finish meanwhile."""
    async with asyncio.timeout(30):
        while (collected := await worker.collect(0.001)).load.kv_use * SLOTS * CONTEXT_LENGTH < tokens:
            assert not collected.trajectories


def play(folder: Path, scenario: Callable[[RolloutWorker], Awaitable[None]]) -> None:
    async def conduct() -> None:
        worker = RolloutWorker("w", "torch", EngineSettings(str(folder), "float32", CONTEXT_LENGTH, SLOTS))
        await worker.start()
        try:
            await scenario(worker)
        finally:
            await worker.shutdown()

    asyncio.run(conduct())


async def update(worker: RolloutWorker, version: int, kv_policy: UpdatePolicy = "keep") -> Arrival:
    """Send the worker other weights, and check what it reports of them."""
    model = model_of(version + 1, tied=False)
    tensors = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    manifest = WeightManifest(
        version, tuple(TensorSpec(name, "float32", tuple(tensor.shape)) for name, tensor in tensors.items())
    )
    sender = listen("gloo", workers=1, timeout_s=30)
    await asyncio.gather(worker.open_channel(sender.address), asyncio.to_thread(sender.connect))
    before = time.time()
    arrival, _ = await asyncio.gather(
        worker.update(manifest, PROBE, kv_policy), asyncio.to_thread(sender.send, manifest, tensors)
    )
    assert arrival.version == version
    assert before <= arrival.paused_at <= arrival.paused_at + arrival.paused_s <= time.time()
    assert arrival.checksums == {name: checksum(tensor) for name, tensor in tensors.items()}
    sender.close()
    return arrival


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


def test_an_abort_gives_each_partial_answer_once(untied_checkpoint: Path) -> None:
    """One under way, one that was submitted just before, one that is not known."""

    async def scenario(worker: RolloutWorker) -> None:
        await worker.submit([request("under way", 240), request("goes on", 200)])
        await until_held(worker, 40)
        await worker.submit([request("just begun", 240)])
        await worker.abort(["under way", "just begun", "unknown"])
        await worker.abort(["under way"])
        answers = {t.completion.request_id: t for t in await trajectories(worker, 3)}
        assert (await worker.collect(0.1)).trajectories == ()
        reasons = {name: t.completion.finish_reason for name, t in answers.items()}
        assert reasons == {"under way": "abort", "just begun": "abort", "goes on": "length"}
        assert 0 < len(answers["under way"].completion.token_ids) < 240
        for trajectory in answers.values():
            (leg,) = trajectory.legs
            assert (leg.worker, leg.tokens) == ("w", len(trajectory.completion.token_ids))
            assert leg.submitted_at <= leg.finished_at <= time.time()

    play(untied_checkpoint, scenario)


def test_an_update_that_aborts_gives_all_answers_back_to_be_continued(untied_checkpoint: Path) -> None:
    async def scenario(worker: RolloutWorker) -> None:
        await worker.submit([request("a", 200), request("b", 240)])
        await until_held(worker, 40)
        await update(worker, 1, "abort_resume")
        partial = await trajectories(worker, 2)  # before `serve`: no token of theirs is new
        assert {t.completion.finish_reason for t in partial} == {"abort"}
        await worker.serve(1)
        wanted = {"a": 200, "b": 240}
        rest = []
        for t in partial:
            name, prefix = t.completion.request_id, t.completion.segments
            sampling = Sampling(max_tokens=wanted[name], seed=1)
            rest.append(GenerationRequest(f"{name} again", (5, 6, 7), sampling, prefix))
        await worker.submit(rest)
        for whole in await trajectories(worker, 2):
            name = whole.completion.request_id.removesuffix(" again")
            (before,) = [t for t in partial if t.completion.request_id == name]
            assert [segment.version for segment in whole.completion.segments] == [0, 1]
            assert whole.completion.segments[0] == before.completion.segments[0]
            assert whole.legs[0].tokens + before.legs[0].tokens == len(whole.completion.token_ids) == wanted[name]

    play(untied_checkpoint, scenario)


@pytest.mark.parametrize("policy", ["keep", "recompute"])
def test_the_worker_hands_its_kv_policy_to_the_engine(untied_checkpoint: Path, policy: UpdatePolicy) -> None:
    async def scenario(worker: RolloutWorker) -> None:
        await worker.submit([request("long", 240)])
        await until_held(worker, 20)
        await update(worker, 1, policy)
        await worker.serve(1)
        (answer,) = await trajectories(worker, 1)
        models = {0: model_of(0, tied=False), 1: model_of(2, tied=False)}
        segments = answer.completion.segments
        assert [segment.version for segment in segments] == [0, 1]
        fresh = gaps(segments, fresh_kv_logits(models, (5, 6, 7), segments))[1]
        kept = gaps(segments, kept_kv_logits(models, (5, 6, 7), segments))[1]
        promised, other = (kept, fresh) if policy == "keep" else (fresh, kept)
        assert float(promised.max()) < 1e-3
        assert float(other.mean()) > 0.1

    play(untied_checkpoint, scenario)


def test_a_prefix_of_a_newer_version_leaves_with_the_answer(untied_checkpoint: Path) -> None:
    """It was sampled by a worker that is a version ahead, and attested there."""

    async def scenario(worker: RolloutWorker) -> None:
        prefix = (Segment(1, (8, 9), (-1.0, -2.0)),)
        await worker.submit([GenerationRequest("ahead", (5, 6, 7), Sampling(max_tokens=6, seed=1), prefix)])
        (answer,) = await trajectories(worker, 1)
        assert answer.completion.versions == (1, 1, 0, 0, 0, 0)
        assert answer.legs[0].tokens == 4

    play(untied_checkpoint, scenario)


def test_a_version_that_arrives_twice_is_attested_twice(untied_checkpoint: Path) -> None:
    async def scenario(worker: RolloutWorker) -> None:
        first = await update(worker, 1)
        await worker.serve(1)
        second = await update(worker, 1)
        assert second.checksums == first.checksums
        assert second.probe_logprobs == first.probe_logprobs
        await worker.submit([request("between")])
        for _ in range(3):
            assert (await worker.collect(0.2)).trajectories == ()
        await worker.serve(1)
        assert await collect(worker, 1) == ["between"]

    play(untied_checkpoint, scenario)


def test_a_version_older_than_the_one_served_is_refused(untied_checkpoint: Path) -> None:
    async def scenario(worker: RolloutWorker) -> None:
        await update(worker, 2)
        await worker.serve(2)
        for older in (1, 0, -1):
            with pytest.raises(WeightTransferError, match=f"version {older} .* older than version 2, which w serves"):
                await worker.update(WeightManifest(older, ()), PROBE)
        await worker.submit([request("goes on")])
        (answer,) = await trajectories(worker, 1)
        assert set(answer.completion.versions) == {2}

    play(untied_checkpoint, scenario)


def test_the_drill_before_the_first_prompt_goes_back_to_version_0(untied_checkpoint: Path) -> None:
    async def scenario(worker: RolloutWorker) -> None:
        await update(worker, -1)
        await update(worker, 0)
        await worker.serve(0)
        await worker.submit([request("first")])
        assert await collect(worker, 1) == ["first"]

    play(untied_checkpoint, scenario)


def test_an_update_that_arrives_half_leaves_the_worker_serving_its_old_version(untied_checkpoint: Path) -> None:
    """The sender is killed between two buffers."""

    async def scenario(worker: RolloutWorker) -> None:
        await update(worker, 1)
        await worker.serve(1)
        sender = await asyncio.to_thread(DyingSender, channels=1, timeout_s=20, version=2)
        await worker.open_channel(sender.addresses[0])
        await worker.submit([request("in progress", 200)])
        await until_held(worker, 20)
        updating = asyncio.create_task(worker.update(two_buffers(2), PROBE))
        await asyncio.to_thread(sender.kill_halfway)
        async with asyncio.timeout(5):
            with pytest.raises(WeightTransferError, match="the sender stopped"):
                await updating
        (answer,) = await trajectories(worker, 1)
        assert answer.completion.finish_reason == "length"
        assert set(answer.completion.versions) == {1}
        await worker.submit([request("afterwards")])
        assert await collect(worker, 1) == ["afterwards"]
        await update(worker, 2)
        await worker.serve(2)

    play(untied_checkpoint, scenario)
