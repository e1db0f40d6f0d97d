"""Where answers are cut, what is asked for there, and what the cuts are worth."""

import math

import pytest
from pydantic import ValidationError

from actors.engine import Completion, Sampling, Segment
from actors.settings import ProbeSettings
from orchestrator.probes import ProbePlan, values_of

COMMON = Sampling(max_tokens=20, temperature=0.7, stop_token_ids=(0,))


def plan(*, ask: tuple[int, ...] = (), **settings: object) -> ProbePlan:
    return ProbePlan(ProbeSettings.model_validate(settings), COMMON, ask, most_tokens=20, seed=1)


def answer(length: int, *, unlikely: tuple[int, ...] = ()) -> Completion:
    logprobs = tuple(math.log(0.5 if place in unlikely else 0.95) for place in range(length))
    return Completion("0/0", (Segment(0, tuple(range(100, 100 + length)), logprobs),), "stop")


def test_answers_are_cut_every_so_many_tokens_and_never_at_their_end() -> None:
    assert plan(every=4).cuts(answer(12)) == (4, 8)
    assert plan(every=4).cuts(answer(13)) == (4, 8, 12)
    assert plan(every=4, most=2).cuts(answer(13)) == (4, 8)
    assert plan(every=4).cuts(answer(3)) == ()


def test_answers_are_cut_behind_their_unlikely_tokens() -> None:
    # Unlikely are the tokens 1, 3, 4, 8 and 9, counted from 0: behind every second of them are 4 and 9 tokens.
    found = answer(11, unlikely=(1, 3, 4, 8, 9))
    assert plan(unlikely=2).cuts(found) == (4, 9)
    assert plan(unlikely=1).cuts(found) == (2, 4, 5, 9, 10)
    assert plan(unlikely=1, below=0.4).cuts(found) == ()


def test_budgets_cut_where_there_is_an_answer_and_room_for_more() -> None:
    assert plan(at=(5, 10, 15)).cuts(answer(12)) == (5, 10)
    # Behind 15 tokens, 4 that ask leave one more; behind 17 there is no room.
    assert plan(at=(5, 15, 17), ask=(1, 2, 3, 4)).cuts(answer(19)) == (5, 15)


def test_each_cut_is_gone_on_from_with_a_seed_of_its_own() -> None:
    probes = plan(every=4, samples=2, ask=(7, 8), max_tokens=9).probes(3, [(1, 2), (1, 2, 3)], [answer(6), answer(10)])
    assert [(probe.sample, probe.cut) for probe in probes] == [(0, 4), (0, 4), (1, 4), (1, 4), (1, 8), (1, 8)]
    assert probes[0].begun == (100, 101, 102, 103, 7, 8)
    assert probes[0].request.prompt_ids == (1, 2, *probes[0].begun)
    assert probes[2].request.prompt_ids[:3] == (1, 2, 3)
    draws = [probe.request.sampling for probe in probes]
    assert {draw.max_tokens for draw in draws} == {9}
    assert {(draw.temperature, draw.stop_token_ids) for draw in draws} == {(0.7, (0,))}
    assert len({draw.seed for draw in draws}) == len({probe.request.request_id for probe in probes}) == 6
    whole = plan(every=4).probes(3, [(1, 2)], [answer(6)])
    assert {probe.request.sampling.max_tokens for probe in whole} == {16}


def test_a_cut_is_worth_the_mean_of_what_came_of_it() -> None:
    probes = plan(every=4, samples=2).probes(3, [(1, 2)] * 3, [answer(10), answer(3), answer(6)])
    assert values_of(probes, [1.0, 0.0, 1.0, 1.0, 0.0, 0.0], 3) == (((4, 0.5), (8, 1.0)), (), ((4, 0.0),))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({}, "none is given"),
        ({"every": 4, "at": (3,)}, "every and at are given"),
        ({"at": (4, 4)}, "must ascend"),
        ({"at": (0, 4)}, "from 1 on"),
    ],
)
def test_cuts_that_contradict_each_other_are_refused(settings: dict[str, object], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        ProbeSettings.model_validate(settings)
