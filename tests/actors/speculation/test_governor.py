"""The governor against simulated engines: close to the best fixed choice, never behind not drafting, never blind."""

import math
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.speculation.arms import Arm, ArmTable, Bucket, everywhere, fixed
from actors.speculation.governor import Governor, GovernorRules, build_governor
from actors.speculation.step_cost import CostPrior
from actors.speculation.step_record import StepRecord
from learners.registry import UnknownNameError
from tests.actors.speculation.worlds import TLT_SPEED_UP, Outcome, World, cpu_world, play, tlt_world

SELECTORS = ("epsilon_greedy", "thompson", "model_based")
CPU_PRIOR = CostPrior(knee_tokens=40, draft_pass=0.3, draft_token=0.1)


def _governor(
    lengths: Sequence[int],
    selector: str,
    seed: int,
    *,
    prior: CostPrior | None = None,
    rules: GovernorRules | None = None,
    detachable: bool = False,
) -> Governor:
    table = everywhere([Arm(k) for k in lengths])
    return build_governor(table, selector, seed=seed, prior=prior, rules=rules, detachable=detachable)


def _best(world: World, running: int, lengths: Sequence[int], *, detachable: bool = False) -> tuple[float, float]:
    """Rates of the best fixed arm and of not drafting."""
    plain = world.rate(running, 0, 0.0, not detachable)
    return max(plain, *(world.rate(running, k, 0.0, True) for k in lengths)), plain


def _run(
    world: World,
    lengths: Sequence[int],
    selector: str,
    running: int,
    seed: int,
    steps: int,
    *,
    detachable: bool = False,
) -> tuple[float, float, Outcome]:
    """Rate against the best fixed arm and against not drafting."""
    governor = _governor(lengths, selector, seed, prior=CPU_PRIOR if max(lengths) < 16 else None, detachable=detachable)
    outcome = play(governor, world, lambda _: running, steps, seed)
    best, plain = _best(world, running, lengths, detachable=detachable)
    return outcome.rate / best, outcome.rate / plain, outcome


@pytest.mark.parametrize("running", [1, 2, 4, 8, 16, 32])
@pytest.mark.parametrize("selector", ["epsilon_greedy", "thompson"])
def test_on_the_published_surface_it_comes_close_to_the_best_fixed_choice(selector: str, running: int) -> None:
    for seed in range(2):
        of_best, of_plain, _ = _run(tlt_world(), tuple(TLT_SPEED_UP), selector, running, seed, 8000)
        assert of_best > 0.97
        assert of_plain > 1


@pytest.mark.parametrize("running", [1, 2, 4, 8, 16, 32])
def test_drafts_that_are_no_chains_cost_the_model_something(running: int) -> None:
    """The table's arms are trees: tokens to verify, made in few passes. The model takes them for chains."""
    for seed in range(2):
        of_best, _, _ = _run(tlt_world(), tuple(TLT_SPEED_UP), "model_based", running, seed, 4000)
        assert of_best > 0.87


@pytest.mark.parametrize("running", [1, 2, 4, 8, 16, 64])
@pytest.mark.parametrize("acceptance", [0.4, 0.75])
@pytest.mark.parametrize("selector", SELECTORS)
def test_on_the_measured_cpu_it_comes_close_to_the_best_fixed_choice(
    selector: str, acceptance: float, running: int
) -> None:
    for seed in range(2):
        of_best, of_plain, _ = _run(cpu_world(lambda _: acceptance), (1, 3, 5), selector, running, seed, 8000)
        assert of_best > 0.97
        assert of_plain > 0.98


@pytest.mark.parametrize("running", [1, 4, 16, 64])
@pytest.mark.parametrize("detachable", [False, True])
@pytest.mark.parametrize("selector", SELECTORS)
def test_a_useless_drafter_costs_less_than_a_twentieth(selector: str, detachable: bool, running: int) -> None:
    for seed in range(2):
        world = cpu_world(lambda _: 0.02)
        _, of_plain, outcome = _run(world, (1, 3, 5), selector, running, seed, 4000, detachable=detachable)
        assert of_plain > 0.95
        plain = world.rate(running, 0, 0.0, not detachable)
        worse = sum(t for k, t in outcome.by_k.items() if k and world.rate(running, k, 0.0, True) < 0.95 * plain)
        assert worse < 0.03 * outcome.seconds, "2 %, and the head start"
        assert not detachable or outcome.detached_s > 0.9 * outcome.seconds


@pytest.mark.parametrize("selector", SELECTORS)
def test_a_drafter_that_may_be_left_out_is_not_where_it_pays(selector: str) -> None:
    """Against not drafting without the drafter's pass, and with the catch-up paid after every step without it."""
    for running in (1, 4, 16):
        world = cpu_world(lambda _: 0.75)
        of_best, _, outcome = _run(world, (1, 3, 5), selector, running, 0, 8000, detachable=True)
        assert of_best > 0.97
        assert outcome.detached_s < 0.02 * outcome.seconds


@pytest.mark.parametrize("selector", SELECTORS)
def test_with_heavy_tails_it_neither_loses_nor_misses_the_gain(selector: str) -> None:
    for running in (1, 4, 16):
        world = cpu_world(lambda _: 0.75, noise=0.2, tail=0.01)
        of_best, _, _ = _run(world, (1, 3, 5), selector, running, 0, 8000)
        assert of_best > 0.94, "a tail of ten times the step moves the totals of a run by two in a hundred"
        world = cpu_world(lambda _: 0.02, noise=0.2, tail=0.01)
        _, of_plain, _ = _run(world, (1, 3, 5), selector, running, 0, 8000)
        assert of_plain > 0.94


@pytest.mark.parametrize("selector", SELECTORS)
@pytest.mark.parametrize("factor", [10.0, 0.2])
def test_first_steps_that_mislead_do_not_decide(selector: str, factor: float) -> None:
    for first, running in ((0, 4), (3, 4), (3, 16)):
        world = cpu_world(lambda _: 0.75)
        world.distort = lambda k, n, first=first: factor if k == first and n <= 5 else 1.0  # type: ignore[misc]
        of_best, _, _ = _run(world, (1, 3, 5), selector, running, 1, 8000)
        assert of_best > 0.95


@pytest.mark.parametrize("selector", SELECTORS)
def test_acceptance_that_is_lost_and_found_again(selector: str) -> None:
    def acceptance(now: float) -> float:
        return 0.75 if now < 20 or now > 60 else 0.02

    world = cpu_world(acceptance)
    governor = _governor((1, 3, 5), selector, 3, prior=CPU_PRIOR, rules=GovernorRules(fade_s=5.0))
    outcome = play(governor, world, lambda _: 4, 12000, 3)
    assert outcome.seconds > 70
    plain = 4 / world.seconds(4, 0, True)
    best = max(world.rate(4, k, 0.0, True) for k in (1, 3, 5))
    # Without drafts for the 40 s in the middle, and drafting for the rest.
    hindsight = 40 * plain + (outcome.seconds - 40) * best
    assert outcome.tokens > 0.93 * hindsight


@pytest.mark.parametrize("selector", SELECTORS)
def test_a_new_drafter_is_tried_though_the_old_one_was_useless(selector: str) -> None:
    good = False
    world = cpu_world(lambda _: 0.75 if good else 0.02)
    governor = _governor((1, 3, 5), selector, 0, prior=CPU_PRIOR)
    before = play(governor, world, lambda _: 16, 2000, 0)
    assert before.by_k[0] > 0.9 * before.seconds
    good = True
    governor.drafter_updated()
    after = play(governor, world, lambda _: 16, 4000, 1)
    assert after.rate > 0.93 * _best(world, 16, (1, 3, 5))[0]


@pytest.mark.parametrize("selector", SELECTORS)
def test_updates_of_the_target_every_second_do_not_make_it_lose(selector: str) -> None:
    for share, floor in ((0.75, 0.95), (0.02, 0.95)):
        world = cpu_world(lambda _, share=share: share)  # type: ignore[misc]
        governor = _governor((1, 3, 5), selector, 0, prior=CPU_PRIOR)
        tokens = seconds = 0.0
        for version in range(40):
            part = play(governor, world, lambda _: 8, 120, version)
            governor.target_updated()
            tokens, seconds = tokens + part.tokens, seconds + part.seconds
        assert tokens / seconds > floor * _best(world, 8, (1, 3, 5))[0]


@pytest.mark.parametrize("detachable", [False, True])
@pytest.mark.parametrize("selector", SELECTORS)
def test_a_batch_that_melts_away_is_followed(selector: str, detachable: bool) -> None:
    """Rollouts: 64 running, then the tail. Against the best arm at every batch size, catching up for nothing."""
    world = cpu_world(lambda _: 0.6)
    lengths, length = (1, 3, 5), 3000
    governor = _governor(lengths, selector, 0, prior=CPU_PRIOR, detachable=detachable)

    def running(step: int) -> int:
        return max(1, round(64 * math.exp(-(step % length) / (length / 5))))

    outcome = play(governor, world, running, 3 * length, 0, lengths=lengths, detachable=detachable)
    assert outcome.seconds < outcome.plain_s
    assert outcome.best_s > 0.92 * outcome.seconds


def test_large_batches_are_not_explored_blindly() -> None:
    """A large batch on a machine that computes slowly: nothing that drafts is ever tried."""
    governor = _governor((3, 5), "epsilon_greedy", 0, prior=CostPrior(knee_tokens=16))
    world = World(lambda n, k, attached: 0.01 * (1 + n * (k + 1) / 16), lambda k, _: 0.3 * k)
    outcome = play(governor, world, lambda _: 256, 3000, 0)
    assert set(outcome.by_k) == {0}
    assert governor.explored == 0


def test_evidence_from_small_batches_opens_large_ones() -> None:
    """The prior knows a slow machine; what small batches show says otherwise, and then large ones are tried."""
    governor = _governor((3,), "epsilon_greedy", 0, prior=CostPrior(knee_tokens=8))
    world = World(lambda n, k, attached: 0.01 * (1 + n * (k + 1) / 4000), lambda k, _: 0.9 * k)
    assert set(play(governor, world, lambda _: 128, 500, 0).by_k) == {0}
    play(governor, world, lambda _: 2, 1500, 0)
    assert play(governor, world, lambda _: 128, 1500, 0).by_k[3] > 0


def test_it_changes_office_only_for_a_margin_that_lasts() -> None:
    rules = GovernorRules(margin=0.1, patience=8)
    world = World(lambda n, k, attached: 0.01 * (1 + 0.93 * k), lambda k, _: float(k), noise=0.0)
    governor = _governor((1,), "epsilon_greedy", 0, rules=rules)
    assert play(governor, world, lambda _: 4, 3000, 0).by_k[0] > 20, "7 % faster is not enough for 10 %"
    assert all(standing.office == Arm(0) for standing in governor.standings())


def test_a_static_table_is_obeyed_from_the_first_step() -> None:
    governor = build_governor(fixed({1: Arm(5), 5: Arm(0)}), "epsilon_greedy", seed=0, detachable=True)
    chosen = [governor.choose(running, 0.0).k for running in (1, 4, 5, 900, 3)]
    assert chosen == [5, 5, 0, 0, 5]
    assert governor.attached


def test_buckets_may_hold_different_arms() -> None:
    table = ArmTable(
        [Arm(1), Arm(5)], [Bucket(1, 4, (0, 2)), Bucket(5, 16, (0, 1)), Bucket(17, None, (0,), static=True)]
    )
    governor = build_governor(table, "thompson", seed=0, prior=CPU_PRIOR)
    world = cpu_world(lambda _: 0.8)
    assert set(play(governor, world, lambda _: 2, 600, 0).by_k) == {0, 5}
    assert set(play(governor, world, lambda _: 8, 600, 0).by_k) == {0, 1}
    assert set(play(governor, world, lambda _: 64, 600, 0).by_k) == {0}


def test_the_better_of_two_drafters_wins() -> None:
    table = everywhere([Arm(3, "suffix"), Arm(3, "eagle")])
    governor = build_governor(table, "thompson", seed=0)
    chosen: dict[str, int] = {}
    for step in range(1500):
        arm = governor.choose(4, step * 0.01)
        chosen[str(arm)] = chosen.get(str(arm), 0) + 1
        accepted = {"eagle": 8, "suffix": 3, "": 0}[arm.drafter]
        seconds = {"eagle": 0.015, "suffix": 0.011, "": 0.01}[arm.drafter]
        governor.observe(StepRecord(4, arm.k, 4 * arm.k, accepted, 4 + accepted, seconds, drafter=arm.drafter))
    assert chosen["eagle k=3"] > 1200


def test_a_drafter_that_is_not_wanted_for_long_is_left_out_and_comes_back_for_the_tail() -> None:
    """Speculation loses at 16 running, wins at one: the drafter is detached in between, not before every step."""
    world = cpu_world(lambda _: 0.45)
    governor = _governor((1, 3), "model_based", 0, prior=CPU_PRIOR, detachable=True)
    attached: list[bool] = []

    def running(step: int) -> int:
        attached.append(governor.attached)
        return 16 if step % 1000 < 600 else 1

    play(governor, world, running, 8000, 0)
    large = [state for step, state in enumerate(attached) if step % 1000 in range(300, 600) and step > 3000]
    small = [state for step, state in enumerate(attached) if step % 1000 in range(800, 1000) and step > 3000]
    assert sum(large) < 0.1 * len(large)
    assert sum(small) > 0.9 * len(small)
    changes = sum(before != after for before, after in pairwise(attached[4000:]))
    assert changes < 120


@given(
    sizes=st.lists(st.integers(1, 200), min_size=1, max_size=300),
    seed=st.integers(0, 9),
    selector=st.sampled_from(SELECTORS),
    times=st.lists(st.floats(1e-4, 10.0), min_size=1, max_size=50),
)
@settings(deadline=None, max_examples=60)
def test_whatever_happens_the_budget_holds(sizes: list[int], seed: int, selector: str, times: list[float]) -> None:
    """Batches and step times out of the air: at no time is more charged than the share, the head start and a turn."""
    rules = GovernorRules(budget=0.05)
    governor = _governor((1, 4), selector, seed, rules=rules)
    total, first, largest = 0.0, None, 0.0
    for step, running in enumerate(sizes * 3):
        arm = governor.choose(running, float(step))
        seconds = times[step % len(times)]
        accepted = (step * 7919) % (running * arm.k + 1)
        governor.observe(StepRecord(running, arm.k, running * arm.k, accepted, running + accepted, seconds))
        total, first, largest = total + seconds, first or seconds, max(largest, seconds)
        if arm.k == 0 and governor.explored == 0:
            continue
        assert governor.explored * total <= 0.05 * total + (rules.head_start + 1) * largest


def test_the_same_seed_makes_the_same_choices() -> None:
    chosen = []
    for _ in range(2):
        governor, world = _governor((1, 3, 5), "thompson", 7, prior=CPU_PRIOR), cpu_world(lambda _: 0.6)
        chosen.append(play(governor, world, lambda step: 1 + step % 5, 800, 7).by_k)
    assert chosen[0] == chosen[1]


def test_what_does_not_exist_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'thompson'"):
        _governor((1,), "tompson", 0)
    with pytest.raises(KeyError):
        _governor((1,), "thompson", 0).observe(StepRecord(4, 2, 8, 1, 5, 0.01))
    with pytest.raises(ValueError, match="budget"):
        GovernorRules(budget=1.0)
