"""The weight bus over real Ray actors: drill, delivery, quarantine, slow engines, and the trap of the tied head."""

import asyncio
import contextlib
import signal
from pathlib import Path

import psutil
import pytest

from orchestrator.errors import RunError
from tests.orchestrator.stage import SYNC_TIMEOUT_S, Stage, play

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("cluster")]


def test_drill_then_versions_are_attested_and_served(tied_model: Path) -> None:
    async def scenario(stage: Stage) -> None:
        await stage.bus.drill()
        assert stage.fleet.version == 0
        await stage.learners.perturb(3, 0.05)
        await stage.bus.deliver(await stage.bus.snapshot(1))
        assert stage.fleet.version == 1
        answer = await stage.sample(0, 0, tokens=4)
        assert answer.completion.versions == (1, 1, 1, 1)

    witness = play(scenario, tied_model, engines={"one": "torch"})
    assert [(r.version, r.failure) for r in witness.reports] == [(-1, None), (0, None), (1, None)]
    assert max(r.gap.max for r in witness.reports if r.gap) < 1e-3


def test_the_drill_catches_a_tied_head_that_was_not_renewed(tied_model: Path) -> None:
    async def scenario(stage: Stage) -> None:
        with pytest.raises(RunError, match="all bytes arrived, yet probe logprobs differ"):
            await stage.bus.drill()
        assert stage.fleet.members == ()
        assert not stage.fleet.recruiting, "another engine of that kind would not follow the drill either"

    witness = play(scenario, tied_model, engines={"trapped": "vllm"}, remedy=False)
    assert [worker for worker, _ in witness.lost] == ["trapped"]


def test_a_hanging_engine_stalls_neither_the_learner_nor_the_other_and_is_replaced(tied_model: Path) -> None:
    async def scenario(stage: Stage) -> None:
        await stage.bus.drill()
        slow = await stage.process_of("slow")
        slow.send_signal(signal.SIGSTOP)
        try:
            for version in (1, 2):
                stage.bus.publish(await asyncio.wait_for(stage.bus.snapshot(version), SYNC_TIMEOUT_S / 2))
                await stage.until(lambda v=version: stage.member("quick").version == v, "the quick one goes on", 10)
            assert stage.member("slow").version == 0
            answer = await asyncio.wait_for(stage.sample(0, 0, tokens=3, version=2), 10)
            assert answer.worker == "quick", "an answer that needs version 2 does not go to an engine without it"
            await stage.bus.settle()
        finally:
            with contextlib.suppress(psutil.NoSuchProcess):
                slow.send_signal(signal.SIGCONT)
        assert stage.member("slow").version == 2, "its replacement serves the newest version"
        assert stage.fleet.version == 2

    witness = play(scenario, tied_model, engines={"slow": "torch", "quick": "torch"})
    assert [worker for worker, _ in witness.lost] == ["slow"]
    assert witness.joined == [("slow", 2)]


def test_an_engine_killed_in_a_sync_is_replaced_and_attested(tied_model: Path) -> None:
    async def scenario(stage: Stage) -> None:
        await stage.bus.drill()
        victim = await stage.process_of("victim")
        truth = await stage.bus.snapshot(1)
        stage.bus.publish(truth)
        victim.kill()
        await stage.bus.settle()
        assert {m.link.name: m.version for m in stage.fleet.members} == {"victim": 1, "survivor": 1}

    witness = play(scenario, tied_model, engines={"victim": "torch", "survivor": "torch"})
    assert [worker for worker, _ in witness.lost] == ["victim"]
    assert witness.joined == [("victim", 1)]


def test_without_partial_rollouts_an_engine_finishes_its_answers_before_an_update(tied_model: Path) -> None:
    async def scenario(stage: Stage) -> None:
        await stage.bus.drill()
        running = [asyncio.ensure_future(stage.sample(n, 0, tokens=150)) for n in range(2)]
        await stage.until(lambda: stage.member("one").running, "answers run")
        stage.bus.publish(await stage.bus.snapshot(1))
        await asyncio.sleep(0)
        late = asyncio.ensure_future(stage.sample(9, 0, tokens=5))
        old = await asyncio.wait_for(asyncio.gather(*running), 60)
        assert {version for answer in old for version in answer.completion.versions} == {0}
        assert set((await asyncio.wait_for(late, 60)).completion.versions) == {1}

    play(scenario, tied_model, engines={"one": "torch"}, partial=False)
