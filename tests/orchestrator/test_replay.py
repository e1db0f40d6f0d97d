"""The replay: it reproduces the run it was recorded from, and follows each policy as computed by hand."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.settings import OverSamplingSettings
from actors.trajectory import Leg
from orchestrator.analysis.recording import RecordedGroup, Recording, recording_of
from orchestrator.analysis.replay import POLICIES, ReplayPolicy, recorded_policy, replay
from orchestrator.analysis.speed_model import SpeedModel, fit_speed
from orchestrator.run_events import RunStarted, Span
from tests.orchestrator.event_builders import (
    KnownModel,
    asynchronous_run,
    lineage_from,
    log_normal_lengths,
    synchronous_run,
)

SYNCHRONOUS = ReplayPolicy("synchronous", 0)


def recording(
    lengths: list[int],
    *,
    batch: int = 1,
    group_size: int = 1,
    max_running: int = 8,
    engines: int = 1,
    step_s: float = 2.0,
    publish_s: float = 0.0,
    sync_s: float = 0.0,
    pause_s: float = 0.0,
    score_s: float = 0.0,
) -> Recording:
    """A run whose engines need 0.1 s for a token, however many answers they run."""
    groups = [tuple(lengths[at : at + group_size]) for at in range(0, len(lengths), group_size)]
    run = RunStarted(
        time=0.0,
        batch=batch,
        group_size=group_size,
        max_staleness=0,
        steps=len(groups) // batch,
        workers=tuple(f"rollout-{number}" for number in range(engines)),
        max_running=max_running,
    )
    return Recording(
        run=run,
        groups=tuple(RecordedGroup(group, score_s, signal=True) for group in groups),
        speed=SpeedModel(0.1, 0.0),
        steps=len(groups) // batch,
        step_s=step_s,
        publish_s=publish_s,
        sync_s=sync_s,
        pause_s=pause_s,
        wall_s=1.0,
    )


# --- against runs made from a known model -------------------------------------------------------------------------


@pytest.mark.parametrize(("engines", "seed"), [(1, 1), (2, 2), (3, 3)])
def test_the_speed_of_a_known_engine_is_found_again(engines: int, seed: int) -> None:
    """The log holds the model's own times, so the fit is exact up to the rounding of times near 1e6 s (1e-10 s)."""
    model = KnownModel(base_s=0.02, per_answer_s=0.0005)
    rows = synchronous_run(log_normal_lengths(96, seed=seed), batch=4, group_size=4, engines=engines, model=model)
    recorded = recording_of(lineage_from(rows))
    assert recorded is not None
    assert recorded.speed.base_s == pytest.approx(0.02, rel=1e-8)
    assert recorded.speed.per_answer_s == pytest.approx(0.0005, rel=1e-8)
    assert recorded.speed.error < 1e-8


@given(
    seed=st.integers(0, 1000),
    engines=st.integers(1, 3),
    base_s=st.floats(0.005, 0.05),
    per_answer_s=st.floats(0.0005, 0.005),
    sync_s=st.floats(0.0, 1.0),
)
@settings(max_examples=20, deadline=None)
def test_the_replay_of_a_synchronous_run_takes_as_long_as_the_run(
    seed: int, engines: int, base_s: float, per_answer_s: float, sync_s: float
) -> None:
    """The log follows the replay's model without noise, so only the fit's last digits can differ."""
    model = KnownModel(base_s, per_answer_s, sync_s=sync_s, pause_s=sync_s / 4)
    rows = synchronous_run(log_normal_lengths(48, seed=seed), batch=4, group_size=4, engines=engines, model=model)
    lineage = lineage_from(rows)
    recorded = recording_of(lineage)
    assert recorded is not None
    replayed = replay(recorded, recorded_policy(recorded))
    assert replayed.wall_s == pytest.approx(recorded.wall_s, rel=1e-6)
    waited = sum(event.span.seconds for event in lineage.learner if event.doing == "waits")
    assert replayed.learner_idle == pytest.approx(waited / recorded.wall_s, abs=1e-6)


def test_the_replay_of_an_asynchronous_run_differs_by_less_than_its_order_of_batches_can() -> None:
    """The synthetic run trains groups strictly in order of dispatch, the dispatcher the oldest that are finished: a
    step may come earlier or later by what one batch takes, a learner step and the longest answer of it."""
    rows = asynchronous_run(
        log_normal_lengths(384, seed=2), batch=8, group_size=4, engines=2, slots=16, max_staleness=2
    )
    recorded = recording_of(lineage_from(rows))
    assert recorded is not None
    assert recorded.speed.per_answer_s == pytest.approx(0.0, abs=1e-6)
    longest = max(max(group.lengths) for group in recorded.groups) * recorded.speed.base_s
    replayed = replay(recorded, recorded_policy(recorded))
    assert abs(replayed.wall_s - recorded.wall_s) < recorded.step_s + longest / 2


# --- the policies, by hand: 0.1 s a token, 2 s a step -------------------------------------------------------------


def test_a_synchronous_run_waits_for_each_answer_in_turn() -> None:
    # 1 + 2, 5 + 2, 1 + 2, 1 + 2 s
    replayed = replay(recording([10, 50, 10, 10]), SYNCHRONOUS)
    assert replayed.wall_s == pytest.approx(16.0)
    assert replayed.engine_idle == pytest.approx(8 / 16)
    assert replayed.learner_idle == pytest.approx(8 / 16)


def test_an_asynchronous_run_trains_while_it_samples() -> None:
    # Groups 0 and 1 start at 0. Step 1 takes group 0 at 1 s and ends at 3 s, when group 2 starts. Group 1 must be
    # trained at version 1 and ends at 5 s: step 2 until 7 s. Then group 2, and 3 (started at 7 s): until 9 s, 11 s.
    replayed = replay(recording([10, 50, 10, 10]), ReplayPolicy("asynchronous", 1))
    assert replayed.wall_s == pytest.approx(11.0)
    assert replayed.learner_idle == pytest.approx((1 + 2) / 11)


def test_a_streaming_learner_computes_on_what_is_there() -> None:
    # Two groups a batch: at 1 s the first half (1 s), at 5 s the second: 6 s in place of 5 + 2 s.
    lengths = [10, 50]
    assert replay(recording(lengths, batch=2), SYNCHRONOUS).wall_s == pytest.approx(7.0)
    streaming = replay(recording(lengths, batch=2), replace(SYNCHRONOUS, stream=True))
    assert streaming.wall_s == pytest.approx(6.0)
    assert streaming.learner_idle == pytest.approx((1 + 3) / 6)


def test_without_partial_rollouts_an_engine_finishes_its_answers_before_it_takes_weights() -> None:
    # Staleness 1: groups 0 (1 s) and 1 (5 s) start; step 1 ends at 3 s. Without partial rollouts version 1 waits for
    # group 1 until 5 s, so group 2 (10 tokens) starts then, not at 3 s; group 3 starts with version 2.
    lengths = [10, 50, 45]
    partial_on, partial_off = ReplayPolicy("on", 1), ReplayPolicy("off", 1, partial=False)
    # On: step 2 from 5 s to 7 s, group 2 from 3 s to 7.5 s, step 3 until 9.5 s.
    assert replay(recording(lengths), partial_on).wall_s == pytest.approx(9.5)
    # Off: group 2 from 5 s to 9.5 s, step 3 until 11.5 s.
    assert replay(recording(lengths), partial_off).wall_s == pytest.approx(11.5)


def test_weights_that_arrive_take_their_time_and_pause_the_engine() -> None:
    # Group 1 runs from 0; version 1 is published at 3.5 s and arrives until 4.5 s, the last 0.25 s of it with a pause.
    # It ends at 5.25 s, its step at 7.25 s, published at 7.75 s.
    timed = recording([10, 50], publish_s=0.5, sync_s=1.0, pause_s=0.25)
    assert replay(timed, ReplayPolicy("asynchronous", 1)).wall_s == pytest.approx(7.25)


def test_what_is_left_over_from_a_round_goes_on_where_it_was() -> None:
    # Both groups start; group 1 completes the batch at 1 s, group 0 is taken off with 10 tokens, step until 3 s; then
    # its other 90 tokens: 9 s and a step.
    policy = ReplayPolicy("resumed", 1, rounds=OverSamplingSettings(prompts=2.0, leftovers="resume"))
    assert replay(recording([100, 10]), policy).wall_s == pytest.approx(3 + 9 + 2)


def test_a_long_round_starts_its_answers_again() -> None:
    policy = ReplayPolicy("long rounds", 0, rounds=OverSamplingSettings(prompts=2.0, leftovers="long_round"))
    assert replay(recording([100, 10]), policy).wall_s == pytest.approx(3 + 10 + 2)


def test_an_engine_decodes_no_more_than_it_may_at_a_time() -> None:
    # Two answers of a group on one engine: side by side in 1 s, one after the other in 2 s.
    assert replay(recording([10, 10], group_size=2, max_running=2), SYNCHRONOUS).wall_s == pytest.approx(3.0)
    assert replay(recording([10, 10], group_size=2, max_running=1), SYNCHRONOUS).wall_s == pytest.approx(4.0)


def test_answers_are_spread_over_engines() -> None:
    alone = recording([10, 10], group_size=2, max_running=1)
    assert replay(alone, SYNCHRONOUS).wall_s == pytest.approx(4.0)
    together = recording([10, 10], group_size=2, max_running=1, engines=2)
    assert replay(together, SYNCHRONOUS).wall_s == pytest.approx(3.0)


def test_a_filtered_group_is_sampled_and_replaced() -> None:
    recorded = recording([10, 30])
    groups = (replace(recorded.groups[0], signal=False), recorded.groups[1])
    # Group 0 is filtered at 1 s, group 1 takes its place until 4 s, and the step ends at 6 s.
    assert replay(replace(recorded, groups=groups, steps=1), SYNCHRONOUS).wall_s == pytest.approx(6.0)


@given(
    lengths=st.lists(st.integers(1, 300), min_size=24, max_size=24),
    policy=st.sampled_from(POLICIES),
    group_size=st.sampled_from([1, 2]),
    engines=st.integers(1, 3),
    sync_s=st.sampled_from([0.0, 0.7]),
)
@settings(max_examples=60, deadline=None)
def test_every_policy_ends_and_takes_no_less_than_its_work(
    lengths: list[int], policy: ReplayPolicy, group_size: int, engines: int, sync_s: float
) -> None:
    recorded = recording(
        lengths, batch=3, group_size=group_size, engines=engines, max_running=4, sync_s=sync_s, pause_s=sync_s / 2
    )
    replayed = replay(recorded, policy)
    assert replayed.wall_s >= recorded.steps * recorded.step_s + min(lengths) * 0.1 - 1e-6
    if policy.rounds is None:  # Rounds may leave a long answer to a run's last prompts untouched; these train all.
        assert replayed.wall_s >= max(sum(lengths) * 0.1 / (4 * engines), max(lengths) * 0.1) - 1e-6
    assert 0 <= replayed.engine_idle < 1
    assert 0 <= replayed.learner_idle < 1
    assert replayed == replay(recorded, policy)


# --- the fit where there is little to fit -------------------------------------------------------------------------


def test_a_run_at_one_load_cannot_tell_the_terms_apart_and_calls_it_all_base() -> None:
    speed = fit_speed({"a": [Leg("a", 0.0, 1.0, 10), Leg("a", 0.0, 1.0, 10)]}, {}, max_running=8)
    assert speed is not None
    assert (speed.base_s, speed.per_answer_s) == (pytest.approx(0.1), 0.0)


def test_a_run_without_a_token_has_no_speed() -> None:
    assert fit_speed({"a": [Leg("a", 0.0, 1.0, 0)], "b": []}, {}, max_running=8) is None


def test_pauses_are_not_counted_as_decoding() -> None:
    speed = fit_speed({"a": [Leg("a", 0.0, 3.0, 10)]}, {"a": [Span(1.0, 3.0)]}, max_running=8)
    assert speed is not None
    assert speed.base_s == pytest.approx(0.1)


def test_time_in_an_engines_queue_is_not_counted_as_decoding() -> None:
    # One at a time, 0.1 s a token: the second waits until 1 s and the third, which came with it, until 3 s.
    legs = [Leg("a", 0.0, 1.0, 10), Leg("a", 0.5, 3.0, 20), Leg("a", 0.5, 3.5, 5)]
    speed = fit_speed({"a": legs}, {}, max_running=1)
    assert speed is not None
    assert (speed.base_s, speed.error) == (pytest.approx(0.1), pytest.approx(0.0))


def test_a_run_without_a_step_cannot_be_replayed() -> None:
    rows = synchronous_run(log_normal_lengths(16, seed=1), batch=4, group_size=4, engines=1)
    assert recording_of(lineage_from([row for row in rows if row["event"] != "trained"])) is None
