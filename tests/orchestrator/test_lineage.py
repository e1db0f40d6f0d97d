"""The lineage: events joined to lives, from a log as a run leaves it."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from orchestrator.analysis.lineage import Lineage, lineage_of, read_lineage
from orchestrator.run_events import LogError, event_of
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
    scored,
    trained,
)

T = START


def write(path: Path, rows: Sequence[Row], *, tail: str = "") -> Path:
    text = "".join(json.dumps(row) + "\n" for row in rows) + tail
    (path / "events.jsonl").write_text(text, encoding="utf-8")
    return path


def interrupted_answer() -> list[Row]:
    """Two answers of one group; the second is suspended and goes on elsewhere, under newer weights."""
    return [
        run_started(batch=1, group_size=2, steps=1, workers=["a", "b"]),
        dispatched(T + 1, 0),
        sampled(0, 0, [("a", T + 1, T + 2, 10)]),
        {"time": T + 3, "event": "suspended", "group": 0, "action": "resume", "tokens": [10, 20]},
        {"time": T + 5, "event": "resumed", "group": 0, "version": 1},
        sampled(0, 1, [("a", T + 1, T + 3, 20), ("b", T + 5, T + 6, 7)], segments=[(0, 20), (1, 7)]),
        scored(0, T + 6, T + 6.5, [1.0, 0.0]),
        trained(2, T + 7, T + 9, [(0, [0, 1])]),
    ]


def test_a_life_is_told_from_dispatch_to_gradient_step() -> None:
    first, second = lineage_from(interrupted_answer()).answers
    assert second.name == "0/1"
    assert second.prompt == "chain_sum/0"
    assert [(leg.worker, leg.tokens) for leg in second.legs] == [("a", 20), ("b", 7)]
    assert [(segment.version, segment.tokens) for segment in second.segments] == [(0, 20), (1, 7)]
    assert second.tokens == 27
    assert second.sampling_s == pytest.approx(3.0)
    assert second.scored is not None
    assert second.scored.seconds == pytest.approx(0.5)
    assert (first.reward, second.reward) == (1.0, 0.0)
    assert (first.step, first.staleness, second.staleness, second.late) == (2, 0, 1, False)
    assert second.end == "trained"


def test_a_suspension_says_what_was_sampled_and_when_it_went_on() -> None:
    _, second = lineage_from(interrupted_answer()).answers
    (pause,) = second.suspensions
    assert (pause.at, pause.tokens, pause.resumed_at, pause.action) == (T + 3, 20, T + 5, "resume")


def test_a_leg_that_is_reported_twice_counts_once() -> None:
    again = sampled(0, 1, [("a", T + 1, T + 3, 20), ("b", T + 5, T + 6, 7)], segments=[(0, 20), (1, 7)])
    lineage = lineage_from([*interrupted_answer(), again])
    assert len(lineage.answers[1].legs) == 2


def test_every_group_ends_as_the_log_says() -> None:
    rows = [
        run_started(batch=1, group_size=1, steps=1, workers=["a"]),
        *(dispatched(T + 1, group) for group in range(5)),
        *(sampled(group, 0, [("a", T + 1, T + 2, 5)]) for group in (0, 1, 3)),
        sampled(4, 0, [("a", T + 1, T + 2, 5)], finish="abort"),
        scored(0, T + 2, T + 3, [1.0]),
        scored(1, T + 2, T + 3, [1.0], end="filtered"),
        {"time": T + 4, "event": "failed", "group": 2, "reason": "no worker took it"},
        trained(1, T + 4, T + 5, [(0, [0])]),
        {"time": T + 6, "event": "dropped", "group": 4, "reason": "cut"},
    ]
    lineage = lineage_from(rows)
    assert [group.end for group in lineage.groups] == ["trained", "filtered", "failed", "pending", "dropped"]
    assert lineage.groups[2].reason == "no worker took it"
    assert lineage.groups[4].answers[0].end == "cut"


def test_an_answer_that_was_cut_takes_no_others_reward_or_staleness() -> None:
    rows = [
        run_started(batch=1, group_size=2, steps=1, workers=["a"]),
        dispatched(T + 1, 0),
        sampled(0, 0, [("a", T + 1, T + 2, 5)]),
        sampled(0, 1, [("a", T + 1, T + 4, 50)], finish="abort"),
        sampled(0, 2, [("a", T + 1, T + 3, 6)]),
        scored(0, T + 4, T + 5, [0.25, 0.75]),
        trained(1, T + 5, T + 6, [(0, [3, 4])]),
    ]
    answers = lineage_from(rows).answers
    assert [answer.reward for answer in answers] == [0.25, None, 0.75]
    assert [answer.staleness for answer in answers] == [3, None, 4]
    assert answers[1].step is None


def test_a_log_is_read_back_from_a_run_directory(tmp_path: Path) -> None:
    rows = asynchronous_run(log_normal_lengths(64, seed=1), batch=4, group_size=2, engines=2, slots=4, max_staleness=1)
    assert read_lineage(write(tmp_path, rows)) == in_written_order(rows)


def in_written_order(rows: Sequence[Row]) -> Lineage:
    return lineage_of(event for row in rows if (event := event_of(row)) is not None)


def test_a_last_line_that_a_killed_run_left_torn_is_tolerated(tmp_path: Path) -> None:
    rows = interrupted_answer()
    lineage = read_lineage(write(tmp_path, rows, tail='{"time": 1000009.0, "event": "trai'))
    assert lineage == lineage_from(rows)


def test_damage_before_the_last_line_is_an_error_that_names_the_line(tmp_path: Path) -> None:
    write(tmp_path, interrupted_answer())
    path = tmp_path / "events.jsonl"
    lines = path.read_text().splitlines()
    lines[2] = lines[2][:20]
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(LogError, match="line 3"):
        read_lineage(tmp_path)


def test_an_event_of_the_wrong_shape_is_an_error_that_names_the_field(tmp_path: Path) -> None:
    rows = [*interrupted_answer(), {"time": T, "event": "dispatched", "group": "three", "prompt": "p", "version": 0}]
    with pytest.raises(LogError, match=r"line 9: .*group"):
        read_lineage(write(tmp_path, rows))


def test_unknown_kinds_and_unknown_facts_are_skipped(tmp_path: Path) -> None:
    rows = interrupted_answer()
    rows[0]["color"] = "blue"
    news = {"time": T + 1, "event": "drafter_trained", "acceptance": 3.1}
    assert read_lineage(write(tmp_path, [*rows, news])) == lineage_from(interrupted_answer())


def test_a_log_without_a_beginning_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LogError, match="run_started"):
        read_lineage(write(tmp_path, interrupted_answer()[1:]))


def test_a_run_directory_without_a_log_is_named(tmp_path: Path) -> None:
    with pytest.raises(LogError, match=r"events\.jsonl cannot be read"):
        read_lineage(tmp_path)


def test_a_streamed_step_is_busy_for_its_parts_and_its_end() -> None:
    row = trained(1, T, T + 10, [])
    row["parts"] = [[T, T + 2], [T + 6, T + 9]]
    lineage = lineage_from([run_started(batch=1, group_size=1, steps=1, workers=["a"]), row])
    assert lineage.steps[0].busy_s == pytest.approx(2 + 3 + 1)


def test_engines_that_come_and_go_are_counted() -> None:
    rows = [
        run_started(batch=1, group_size=1, steps=1, workers=["a", "b"]),
        {"time": T + 5, "event": "worker_lost", "worker": "b", "reason": "killed"},
        {"time": T + 9, "event": "worker_joined", "worker": "b2", "version": 3},
        learner("waits", T, T + 10),
    ]
    lineage = lineage_from(rows)
    assert lineage.engines == ("a", "b", "b2")
    assert [lineage.serving(T + at) for at in (1, 6, 10)] == [2, 1, 2]
