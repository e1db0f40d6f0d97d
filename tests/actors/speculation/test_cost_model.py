"""The cost model recovers what it was generated from, is not led astray by single steps, and knows what it has not
seen."""

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.speculation.acceptance import Acceptance, spread
from actors.speculation.arms import Arm
from actors.speculation.cost_model import CostModel, CostModels
from actors.speculation.nonnegative import solve, solve_linear
from actors.speculation.step_cost import CostPrior, StepCost
from actors.speculation.step_record import StepRecord
from tests.actors.speculation.worlds import CPU_ATTACHED_MS, CPU_MS

VALUES = st.floats(-3, 3).map(lambda value: round(value, 3))


@given(rows=st.lists(st.lists(VALUES, min_size=3, max_size=3), min_size=4, max_size=8), target=st.data())
@settings(deadline=None)
def test_the_solution_is_optimal_among_those_without_negative_parts(
    rows: list[list[float]], target: st.DataObject
) -> None:
    times = target.draw(st.lists(VALUES, min_size=len(rows), max_size=len(rows)))
    normal = [[sum(r[i] * r[j] for r in rows) + (0.1 if i == j else 0.0) for j in range(3)] for i in range(3)]
    right = [sum(r[i] * t for r, t in zip(rows, times, strict=True)) for i in range(3)]
    x = solve(normal, right)
    slopes = [right[i] - sum(normal[i][j] * x[j] for j in range(3)) for i in range(3)]
    # Karush-Kuhn-Tucker: nothing can be gained by more of anything, nor by less of what is there.
    assert min(x) >= 0
    assert all(slope < 1e-6 for slope in slopes)
    assert all(abs(slope) < 1e-6 for slope, part in zip(slopes, x, strict=True) if part > 0)


def test_linear_systems_are_solved_with_zeros_on_the_diagonal() -> None:
    assert solve_linear([[0.0, 2.0], [4.0, 0.0]], [6.0, 8.0]) == [2.0, 3.0]


def _time(running: int, k: int, attached: bool) -> float:
    return 0.01 + 0.0002 * running * (k + 1) + (0.002 + 0.0001 * running + 0.001 * k if attached else 0.0)


def _fitted(noise: float, outliers: float = 0.0, records: int = 3000) -> StepCost:
    cost, source = StepCost(CostPrior()), random.Random(1)
    for _ in range(records):
        running, k = source.choice([1, 2, 4, 8, 16, 32, 64]), source.choice([0, 0, 1, 3, 5])
        attached = k > 0 or source.random() < 0.5
        factor = 10.0 if source.random() < outliers else source.lognormvariate(0, noise)
        cost.observe(running, k, attached, _time(running, k, attached) * factor)
    return cost


@pytest.mark.parametrize(("noise", "outliers", "tolerance"), [(0.0, 0.0, 0.01), (0.1, 0.0, 0.03), (0.1, 0.02, 0.06)])
def test_the_fit_finds_the_times_it_was_made_from(noise: float, outliers: float, tolerance: float) -> None:
    cost = _fitted(noise, outliers)
    for running in (1, 4, 16, 64):
        for k, attached in ((0, False), (0, True), (1, True), (5, True)):
            assert cost.seconds(running, k, attached) == pytest.approx(_time(running, k, attached), rel=tolerance)


def test_slow_first_steps_do_not_set_the_scale() -> None:
    cost = StepCost(CostPrior())
    for step in range(16):
        cost.observe(4, 0, True, 1.0 if step < 5 else 0.01)
    assert cost.seconds(4, 0, True) == pytest.approx(0.01, rel=0.15)


def test_a_line_through_the_measured_cpu_table_keeps_the_order_of_what_pays() -> None:
    cost = StepCost(CostPrior(knee_tokens=40, draft_pass=0.3))
    for _ in range(60):
        for index, running in enumerate((1, 2, 4, 16)):
            cost.observe(running, 0, True, CPU_ATTACHED_MS[index] / 1000)
            for k, row in CPU_MS.items():
                cost.observe(running, k, k > 0, row[index] / 1000)
    # Table: 1.7 kept of 3 drafts break even at 16 requests, 0.4 at one (milliseconds of k=3 over none, less 1).
    assert cost.ratio(16, 3, True, base_attached=False)[0] == pytest.approx(16.0 / 7.8, rel=0.15)
    assert cost.ratio(1, 3, True, base_attached=False)[0] == pytest.approx(7.4 / 5.3, rel=0.15)
    assert cost.draft_seconds(16, 0) > cost.draft_seconds(1, 0) > 0


def test_doubt_shrinks_where_it_was_measured() -> None:
    cost = StepCost(CostPrior())
    _, before = cost.ratio(16, 3, True, base_attached=True)
    for step in range(64):
        cost.observe(16, 3 * (step % 2), True, _time(16, 3 * (step % 2), True))
    _, after = cost.ratio(16, 3, True, base_attached=True)
    assert after < before / 5


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 64), st.floats(0, 1)), min_size=1, max_size=60))
@settings(deadline=None)
def test_expected_acceptance_is_possible_and_never_falls_with_length(steps: list[tuple[int, int, float]]) -> None:
    acceptance = Acceptance(6, 0.7)
    for k, drafts, share in steps:
        acceptance.observe(k, drafts, round(share * k * drafts), ())
    expected = [acceptance.expected(k) for k in range(7)]
    assert expected[0] == 0
    assert all(low <= high <= low + 1 for low, high in itertools.pairwise(expected))
    assert all(acceptance.log_deviation(k) >= 0 for k in range(7))


def test_shares_by_position_are_found_and_carried_on_to_longer_drafts() -> None:
    acceptance, source = Acceptance(6, 0.7), random.Random(0)
    for _ in range(400):
        kept = [0, 0, 0]
        for _ in range(8):
            for position, share in enumerate((0.9, 0.6, 0.5)):
                if source.random() >= share:
                    break
                kept[position] += 1
        acceptance.observe(3, 8, sum(kept), kept)
    assert acceptance.by_position == pytest.approx((0.9, 0.6, 0.5, 0.5, 0.5, 0.5), abs=0.05)
    assert acceptance.expected(3) == pytest.approx(0.9 + 0.54 + 0.27, abs=0.08)


def test_old_acceptance_is_forgotten_at_once_when_discounted_and_slowly_otherwise() -> None:
    acceptance = Acceptance(1, 0.7)
    for _ in range(1000):
        acceptance.observe(1, 8, 8, (8,))
    acceptance.discount(0.0)
    assert acceptance.expected(1) == pytest.approx(0.7)
    for _ in range(1000):
        acceptance.observe(1, 8, 8, (8,))
    for _ in range(2000):
        acceptance.observe(1, 8, 0, (0,))
    assert acceptance.expected(1) < 0.05


@given(k=st.integers(1, 64), drafts=st.integers(1, 500), share=st.floats(0, 1))
def test_spread_tokens_add_up(k: int, drafts: int, share: float) -> None:
    counts = spread(k, drafts, share * k * drafts)
    assert sum(counts) == pytest.approx(share * k * drafts, abs=0.02 * k * drafts)
    assert all(0 <= later <= earlier <= drafts for earlier, later in itertools.pairwise(counts))


def test_the_prediction_is_tokens_over_seconds() -> None:
    model = CostModel(5, CostPrior(), 0.5)
    for step in range(400):
        k = (0, 1, 3)[step % 3]
        kept = round(8 * sum(0.8**i for i in range(1, k + 1)))
        by_position = tuple(round(8 * 0.8**i) for i in range(1, k + 1))
        model.observe(StepRecord(8, k, 8 * k, kept, 8 + kept, _time(8, k, True), by_position=by_position))
    predicted = model.predict(8, 3)
    emitted = 1 + 0.8 + 0.64 + 0.512
    assert predicted.tokens_per_s == pytest.approx(8 * emitted / _time(8, 3, True), rel=0.05)
    assert predicted.speed_up == pytest.approx(emitted * _time(8, 0, True) / _time(8, 3, True), rel=0.06)
    assert model.predict(8, 5).log_deviation > predicted.log_deviation, "a length that was never tried is less certain"


def test_what_catching_up_costs_follows_the_last_times() -> None:
    model = CostModel(3, CostPrior(), 0.5)
    for _ in range(64):
        model.observe(StepRecord(4, 0, 0, 0, 4, _time(4, 0, True)))
    assert model.catch_up.predict(0) == 0
    assert 0 < model.catch_up.predict(1000) < 0.05, "from the drafter's pass before the first time"
    for tokens, seconds in ((1000, 9.0), (1000, 0.1), (2000, 0.2), (4000, 0.4)):
        model.catch_up.observe(tokens, seconds)
    assert model.catch_up.predict(500) == pytest.approx(0.05)
    assert model.catch_up.typical == pytest.approx(0.7 / 3)


def test_steps_without_drafts_teach_the_models_of_all_drafters() -> None:
    models = CostModels([Arm(2, "suffix"), Arm(3, "eagle")])
    for _ in range(16):
        models.observe(StepRecord(4, 0, 0, 0, 4, 0.01))
    models.observe(StepRecord(4, 3, 12, 12, 16, 0.02, drafter="eagle"))
    for drafter, k in (("suffix", 2), ("eagle", 3)):
        assert models.of(Arm(k, drafter)).step.seconds(4, 0, True) == pytest.approx(0.01, rel=0.1)
    assert models.of(Arm(3, "eagle")).acceptance.expected(1) > models.of(Arm(2, "suffix")).acceptance.expected(1)


def test_drafts_of_different_lengths_keep_acceptance_a_share() -> None:
    """A suffix drafter drafts for some answers, and short: two of eight answers kept all of their one or two tokens."""
    model = CostModel(3, CostPrior(), 0.7)
    for _ in range(200):
        model.observe(StepRecord(8, 3, drafted=3, accepted=3, emitted=11, seconds=0.01, by_position=(2, 1, 0)))
    assert model.emitted(3) == pytest.approx(11 / 8, rel=0.02)
    assert all(0 <= share <= 1 for share in model.acceptance.by_position)
