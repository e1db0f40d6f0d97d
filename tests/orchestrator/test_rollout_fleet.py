"""The fleet over real engines in real processes: what comes back when workers die, hang, or are told to stop."""

import asyncio
import time
from collections import Counter
from pathlib import Path

import pytest

from orchestrator.errors import RunError
from orchestrator.growth import Growth
from orchestrator.policies.growth import GrowthRule
from tests.actors.tiny_model import write_checkpoint
from tests.orchestrator.stage import Stage, play

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("cluster")]


def test_a_worker_killed_mid_answer_costs_no_answer_and_comes_back(tied_model: Path) -> None:
    async def scenario(stage: Stage) -> None:
        await stage.bus.drill()
        victim = await stage.process_of("victim")
        answers = [asyncio.ensure_future(stage.sample(n, s, tokens=120)) for n in range(4) for s in range(3)]
        await stage.until(lambda: stage.member("victim").running, "the victim runs answers")
        victim.kill()
        found = await asyncio.wait_for(asyncio.gather(*answers), 120)
        assert [answer.completion.request_id for answer in found] == [f"{n}/{s}" for n in range(4) for s in range(3)]
        assert all(len(answer.completion.token_ids) == 120 for answer in found)
        assert all(answer.completion.finish_reason == "length" for answer in found)
        await stage.until(lambda: len(stage.fleet.members) == 2, "the replacement has joined", 120)

    witness = play(scenario, tied_model, engines={"victim": "torch", "other": "torch"})
    assert [name for name, _ in witness.lost] == ["victim"]
    assert witness.joined == [("victim", 0)]


def test_the_only_worker_killed_delays_its_answers_and_loses_none(tied_model: Path) -> None:
    async def scenario(stage: Stage) -> None:
        await stage.bus.drill()
        only = await stage.process_of("only")
        answers = [asyncio.ensure_future(stage.sample(0, s, tokens=100)) for s in range(4)]
        await stage.until(lambda: stage.member("only").running, "it runs answers")
        only.kill()
        found = await asyncio.wait_for(asyncio.gather(*answers), 120)
        assert all(len(answer.completion.token_ids) == 100 for answer in found)

    play(scenario, tied_model, engines={"only": "torch"})


def test_a_fleet_grows_while_answers_wait_and_lets_go_who_stands_idle(tied_model: Path) -> None:
    def hurried() -> float:
        return 50 * time.monotonic()

    async def scenario(stage: Stage) -> None:
        await stage.bus.drill()
        growth = Growth(stage.fleet, GrowthRule(1, 2), hurried)
        growth.begin()
        answers = [asyncio.ensure_future(stage.sample(n, s, tokens=400)) for n in range(60) for s in range(4)]
        await stage.until(lambda: len(stage.fleet.members) == 2, "a second engine has joined", 120)
        found = await asyncio.wait_for(asyncio.gather(*answers), 200)
        assert {leg.worker for answer in found for leg in answer.legs} == {"rollout-0", "rollout-1"}
        await stage.until(lambda: len(stage.fleet.members) == 1, "it was let go again", 60)
        growth.close()
        assert len((await stage.sample(99, 0, tokens=20)).completion.token_ids) == 20

    witness = play(scenario, tied_model, engines={"rollout-0": "torch"})
    assert witness.joined == [("rollout-1", 0)]
    [(let_go, why)] = witness.lost
    assert let_go in {"rollout-0", "rollout-1"}, "whichever had its last answer first"
    assert "stood idle" in why
    assert not witness.faults


def test_a_worker_that_keeps_dying_ends_the_wait_with_its_reasons(tied_model: Path) -> None:
    async def scenario(stage: Stage) -> None:
        await stage.bus.drill()
        answer = asyncio.ensure_future(stage.sample(0, 0, tokens=450))
        for _ in range(2):
            await stage.until(lambda: stage.fleet.members, "a worker serves", 120)
            (await stage.process_of("mortal")).kill()
            await stage.until(lambda: not stage.fleet.members, "it is noticed", 10)
        with pytest.raises(RunError, match=r"no rollout worker is left .*mortal.*replaced 1 times"):
            await asyncio.wait_for(answer, 30)

    witness = play(scenario, tied_model, engines={"mortal": "torch"}, max_restarts=1)
    assert len(witness.faults) == 1


def test_recalled_answers_come_back_as_they_are_and_go_on_elsewhere(tied_model: Path) -> None:
    async def scenario(stage: Stage) -> None:
        await stage.bus.drill()
        answers = [asyncio.ensure_future(stage.sample(0, s, tokens=400)) for s in range(10)]
        await stage.until(lambda: len(stage.member("one").running) == 8, "eight run, two wait")
        await asyncio.sleep(0.3)
        stage.fleet.recall([f"0/{s}" for s in range(10)])
        found = await asyncio.wait_for(asyncio.gather(*answers), 30)
        assert Counter(answer.completion.finish_reason for answer in found) == {"abort": 10}
        tokens = [len(answer.completion.token_ids) for answer in found]
        assert min(tokens[:8]) > 0
        assert tokens[8:] == [0, 0], "those that waited had not begun"

    play(scenario, tied_model, engines={"one": "torch"})


def test_the_tail_is_gathered_so_that_whole_engines_fall_idle(tmp_path: Path) -> None:
    slow_model = write_checkpoint(tmp_path, tied=True, layers=12)

    async def scenario(stage: Stage) -> None:
        await stage.bus.drill()
        lengths = {0: 450, 1: 450, **dict.fromkeys(range(2, 12), 10)}
        answers = [asyncio.ensure_future(stage.sample(n, 0, tokens=tokens)) for n, tokens in lengths.items()]
        await stage.until(lambda: stage.witness.moved, "an answer moves", 30)
        await stage.until(lambda: any(not member.running for member in stage.fleet.members), "an engine is idle", 10)
        found = await asyncio.wait_for(asyncio.gather(*answers), 120)
        assert [len(answer.completion.token_ids) for answer in found] == list(lengths.values())
        moved = [answer for answer in found if len(answer.legs) > 1]
        assert len(moved) == 1
        assert {leg.worker for leg in moved[0].legs} == {"one", "two"}
        assert sum(leg.tokens for leg in moved[0].legs) == 450

    play(scenario, slow_model, engines={"one": "torch", "two": "torch"})


def test_answers_of_a_group_share_an_engine_and_groups_are_spread(tied_model: Path) -> None:
    async def scenario(stage: Stage) -> None:
        await stage.bus.drill()
        groups = [asyncio.gather(*[stage.sample(n, s, tokens=5) for s in range(4)]) for n in range(4)]
        found = await asyncio.wait_for(asyncio.gather(*groups), 60)
        homes = [{answer.worker for answer in group} for group in found]
        assert all(len(home) == 1 for home in homes)
        assert Counter(next(iter(home)) for home in homes) == {"one": 2, "two": 2}

    play(scenario, tied_model, engines={"one": "torch", "two": "torch"})
