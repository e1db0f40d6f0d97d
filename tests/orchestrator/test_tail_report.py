"""The tail report: losses and idle times computed by hand, and lines that a person can read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.analysis.lineage import Lineage
from orchestrator.analysis.tail_loss import tail_losses
from orchestrator.analysis.tail_report import idle_of, lengths_of, render_text, tail_report
from tests.orchestrator.event_builders import (
    START,
    Row,
    asynchronous_run,
    dispatched,
    learner,
    lineage_from,
    log_normal_lengths,
    run_started,
    sampled,
    synchronous_run,
    trained,
)

T = START


def run_of(answers: list[tuple[str, float, float, int]], *, engines: int = 1, **settings: object) -> Lineage:
    """Answers as (engine, from, to, tokens), each a group of its own."""
    names = [f"e{number}" for number in range(engines)]
    rows: list[Row] = [run_started(batch=1, group_size=1, steps=1, workers=names, **settings)]
    for group, (engine, began, ended, tokens) in enumerate(answers):
        rows.append(dispatched(T + began, group))
        rows.append(sampled(group, 0, [(engine, T + began, T + ended, tokens)]))
    return lineage_from(rows)


def lost(lineage: Lineage, share: float) -> float:
    (loss,) = tail_losses(lineage, [share])
    return loss.accelerator_s


def test_the_loss_to_the_longest_answer_is_what_stood_idle_while_it_ran_alone() -> None:
    # Two answers of two on one engine to 4 s, then one of two to 10 s: half of the engine for 6 s.
    lineage = run_of([("e0", 0, 4, 40), ("e0", 0, 10, 100)])
    assert lost(lineage, 0.0) == pytest.approx(3.0)
    assert tail_losses(lineage, [0.0])[0].fraction == pytest.approx(3.0 / 10.0)


def test_engines_that_have_nothing_left_count_as_lost_too() -> None:
    # Four answers on two engines; e1 ends at 4 s, e0 goes on with one answer from 5 s to 10 s: 2 * (1 - 1/4) * 5 s.
    lineage = run_of([("e0", 0, 5, 50), ("e0", 0, 10, 100), ("e1", 0, 4, 40), ("e1", 0, 4, 41)], engines=2)
    assert lost(lineage, 0.0) == pytest.approx(2 * 0.75 * 5)
    # The longest half are the two of e0: from 4 s to 5 s both run, 2 * (1 - 2/4) * 1 s more.
    assert lost(lineage, 0.5) == pytest.approx(2 * 0.75 * 5 + 2 * 0.5 * 1)


def test_an_engine_of_several_accelerators_loses_them_all() -> None:
    answers = [("e0", 0, 4, 40), ("e0", 0, 10, 100)]
    assert lost(run_of(answers, tensor_parallel=4), 0.0) == pytest.approx(12.0)


def test_every_stretch_has_longest_answers_of_its_own() -> None:
    first = [("e0", 0, 4, 40), ("e0", 0, 10, 100)]
    second = [("e0", 20, 21, 10), ("e0", 20, 23, 30)]
    assert lost(run_of([*first, *second]), 0.0) == pytest.approx(3.0 + 1.0)


def test_an_engine_that_is_refilled_loses_nothing_to_its_longest_answer() -> None:
    # The long answer runs from 0 to 10, beside others that follow each other without a gap.
    others = [("e0", float(at), float(at + 1), 10) for at in range(10) for _ in range(3)]
    assert lost(run_of([("e0", 0, 10, 100), *others]), 0.0) == 0.0


def test_what_the_refill_brings_is_not_blamed_for_the_tail_before_it() -> None:
    """Eight answers, of which one runs alone from 2 s; at 5 s comes a newcomer that will be longer than all, at 6 s the
    rest of the refill: lost to the longest answer are 7/8 of 3 s."""
    short = [("e0", 0.0, 2.0, 20)] * 7
    refill = [("e0", 5.0, 40.0, 350), *[("e0", 6.0, 40.0, 340)] * 7]
    lineage = run_of([*short, ("e0", 0.0, 7.0, 70), *refill])
    assert lost(lineage, 0.0) == pytest.approx(7 / 8 * 3)


def test_the_loss_does_not_hang_on_the_moment_a_run_began_to_fill() -> None:
    # The longest starts first, alone for 1 s; that second is not its tail.
    assert lost(run_of([("e0", 0, 4, 40), ("e0", 1, 4, 30)]), 0.0) == 0.0


@given(ends=st.lists(st.integers(1, 100), min_size=1, max_size=60))
def test_more_answers_never_lose_less_and_never_more_than_there_is(ends: list[int]) -> None:
    lineage = run_of([("e0", 0, float(end), end) for end in ends])
    one, some, half, everyone = (loss.fraction for loss in tail_losses(lineage, [0.0, 0.1, 0.5, 1.0]))
    assert 0 <= one <= some <= half <= everyone < 1


def test_idle_shares_leave_evaluations_out() -> None:
    rows = [
        run_started(batch=1, group_size=1, steps=1, workers=["e0", "e1"]),
        dispatched(T, 0),
        sampled(0, 0, [("e0", T, T + 4, 10)]),
        learner("waits", T, T + 5),
        learner("trains", T + 5, T + 8),
        learner("evaluates", T + 8, T + 18),
        learner("waits", T + 18, T + 19),
        trained(1, T + 19, T + 20, [(0, [0])]),
    ]
    idle = {actor.actor: actor.fraction for actor in idle_of(lineage_from(rows))}
    # Ten of the twenty seconds count: e0 works for four of them, the learner waits for six.
    assert idle == pytest.approx({"e0": 0.6, "e1": 1.0, "learner": 0.6})


def test_length_quantiles_are_those_of_nearest_rank() -> None:
    lineage = run_of([("e0", 0, float(tokens), tokens) for tokens in range(1, 101)])
    lengths = lengths_of(lineage.answers)
    assert lengths is not None
    assert (lengths.p50, lengths.p90, lengths.p99, lengths.max, lengths.cut) == (50, 90, 99, 100, 0)
    assert lengths.max_over_median == 2.0


def test_the_longest_answers_are_named_with_prompt_and_engine() -> None:
    report = tail_report(run_of([("e0", 0, 1, 10), ("e0", 0, 5, 500), ("e0", 0, 2, 20)]))
    assert [answer.tokens for answer in report.longest] == [500, 20, 10]
    line = next(line for line in render_text(report) if line.startswith("  1/0"))
    assert "500 tokens" in line
    assert "chain_sum/1 on e0" in line


@pytest.mark.parametrize(
    "rows",
    [
        synchronous_run(log_normal_lengths(96, seed=5), batch=4, group_size=4, engines=2),
        asynchronous_run(log_normal_lengths(192, seed=6), batch=4, group_size=4, engines=6, slots=4, max_staleness=2),
    ],
    ids=["synchronous", "asynchronous"],
)
def test_the_text_fits_a_terminal_and_names_every_policy(rows: list[Row]) -> None:
    report = tail_report(lineage_from(rows))
    lines = render_text(report)
    assert report.what_if is not None
    assert all(len(line) <= 100 for line in lines), max(lines, key=len)
    assert len(lines) < 32
    for row in report.what_if.rows:
        assert any(row.replayed.policy.name in line for line in lines)


def test_a_run_that_was_killed_before_its_first_step_still_has_a_report() -> None:
    report = tail_report(run_of([("e0", 0, 4, 40), ("e0", 0, 10, 100)]))
    assert report.what_if is None
    assert report.idle == ()
    assert report.losses[0].accelerator_s == pytest.approx(3.0)


def test_a_run_without_an_answer_says_so() -> None:
    assert render_text(tail_report(run_of([]))) == ["No answer was sampled: there is no tail to report."]
