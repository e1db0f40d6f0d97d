"""The speculation report from a log written by hand."""

from orchestrator.analysis.speculation_report import (
    PARTS,
    SpeculationEvents,
    render_speculation,
    speculation_report,
)
from orchestrator.run_events import DrafterStudied, Phase, Speculated, SpeculationFailed, event_of

NOTHING = SpeculationEvents((), (), (), (), ())


def speculated(time: float, *phases: Phase) -> Speculated:
    return Speculated(time, "rollout-0", phases)


def test_a_run_without_speculation_has_no_report() -> None:
    assert speculation_report(NOTHING) is None


def test_the_course_and_the_batches() -> None:
    first = speculated(0.0, Phase(1, 2, 10, 10, 2, 12, 1.0), Phase(9, 0, 10, 0, 0, 100, 2.0))
    last = speculated(10.0, Phase(1, 4, 10, 10, 18, 28, 3.0))
    report = speculation_report(SpeculationEvents((first, last), (), (), (), ()))
    assert report is not None
    assert report.course == (1.2, *[None] * (PARTS - 2), 2.8)
    small, large = report.batches
    assert (small.first, small.share, small.by_length) == (1, 4 / 6, ((2, 0.25), (4, 0.75)))
    assert small.acceptance_length == 2.0
    assert (large.first, large.by_length, large.acceptance_length) == (9, ((0, 1.0),), None)


def test_it_says_where_the_drafter_learned_and_what_it_cost() -> None:
    study = DrafterStudied(1.0, 0.0, 1.0, "learner", "no accelerator is idle", "new", 20, 4.0, 1)
    events = SpeculationEvents((speculated(0.0),), (study, study), (), (), ())
    report = speculation_report(events)
    assert report is not None
    text = "\n".join(render_speculation(report))
    assert "2 sessions, 40 micro-steps, 8.0 s; 2 versions published" in text
    assert "beside the learner 2 times (no accelerator is idle)" in text


def test_an_engine_that_went_on_without_says_why() -> None:
    failed = SpeculationFailed(1.0, "rollout-0", "the drafter's logits are not finite")
    report = speculation_report(SpeculationEvents((), (), (), (failed,), ()))
    assert report is not None
    assert render_speculation(report) == ["without speculation: rollout-0: the drafter's logits are not finite"]


def test_phases_are_read_from_rows() -> None:
    row = {"event": "speculated", "time": 1.0, "worker": "rollout-0", "phases": [[1, 2, 3, 4, 5, 6, 0.5]]}
    assert event_of(row) == Speculated(1.0, "rollout-0", (Phase(1, 2, 3, 4, 5, 6, 0.5),))
