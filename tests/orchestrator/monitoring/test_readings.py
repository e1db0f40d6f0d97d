"""What becomes of rows, events and scenes: one of each in, readings out."""

from dataclasses import dataclass, field

import pytest

from orchestrator.monitoring import catalogue as of
from orchestrator.monitoring.catalogue import CATALOGUE, Metric
from orchestrator.monitoring.monitor import Monitor
from orchestrator.monitoring.readings import Reading
from orchestrator.monitoring.scene import EngineScene, Scene, lines

SCENE = Scene(
    (EngineScene("rollout-0", 3, 16, 0.25, 7), EngineScene("rollout-1", 0, 8, 0.0, 6)),
    waiting=5,
    to_score=2,
    buffered=4,
    in_flight=9,
    aside=1,
    learner="waits for a batch",
    idle={"learner": 0.5, "rollout-0": 0.125},
)
ROW = {
    "reward": 0.75,
    "reward/math": 0.5,
    "reward_failed": 2.0,
    "response_tokens/mean": 12.0,
    "response_tokens/max": 30.0,
    "truncated": 0.125,
    "staleness/mean": 0.5,
    "staleness/max": 2.0,
    "late/answers": 0.25,
    "length_bias/mean_ratio": 0.9,
    "speculation/acceptance_length": 1.5,
    "speculation/acceptance_length_all": 1.25,
    "seconds": 3.0,
    "waited_s": 1.0,
    "tokens_per_s": 80.0,
    "samples_per_s": 8.0,
    "learner/loss": 0.1,
    "learner/grad_norm": 1.0,
    "learner/entropy": 2.0,
    "learner/learning_rate": 1e-4,
    "learner/engine_gap": 0.001,
    "learner/something/else": 1.0,
}
EVENTS: tuple[dict[str, object], ...] = (
    {
        "event": "run_started",
        "batch": 1,
        "group_size": 2,
        "max_staleness": 0,
        "steps": 1,
        "workers": [],
        "max_running": 1,
    },
    {"event": "dispatched", "group": 0, "prompt": "p0", "version": 0},
    {
        "event": "sampled",
        "group": 0,
        "sample": 1,
        "legs": [["rollout-0", 10.0, 12.0, 5], ["rollout-1", 13.0, 17.5, 4]],
        "segments": [(0, 5), (1, 4)],
        "finish": "length",
    },
    {
        "event": "scored",
        "group": 0,
        "from": 1.0,
        "to": 2.0,
        "rewards": [1.0],
        "end": "filtered",
        "seconds": [0.25, 0.5],
    },
    {"event": "scored", "group": 1, "from": 1.0, "to": 2.0, "rewards": [1.0], "end": "buffered", "seconds": [0.125]},
    {"event": "failed", "group": 2, "reason": "a message that no label may hold"},
    {"event": "dropped", "group": 3, "reason": "late"},
    {
        "event": "trained",
        "step": 1,
        "version": 0,
        "from": 1.0,
        "to": 2.0,
        "parts": [(1.0, 2.0)],
        "groups": [{"group": 4, "staleness": [0]}, {"group": 5, "staleness": [1]}],
    },
    {"event": "reward_error", "sample": "0/1", "error": "boom", "kind": "timeout", "term": "math"},
    {"event": "reward_fallback", "sample": "0/1", "kind": "malformed", "term": "judge"},
    {"event": "quarantined", "prompt": "p0", "reason": "hung"},
    {
        "event": "sync",
        "worker": "rollout-0",
        "version": 1,
        "stream": "target",
        "from": 5.0,
        "to": 5.5,
        "paused": (5.25, 5.375),
        "gap_mean": 0.002,
        "gap_max": 0.01,
        "failure": None,
    },
    {
        "event": "sync",
        "worker": "rollout-1",
        "version": 1,
        "from": 5.0,
        "to": 6.0,
        "paused": None,
        "failure": "damaged",
    },
    {"event": "worker_lost", "worker": "rollout-0", "reason": "died"},
    {"event": "worker_joined", "worker": "rollout-0", "version": 1},
    {"event": "watchdog", "group": 1, "age_s": 3.0, "action": "retry"},
    {"event": "learner", "doing": "waits", "from": 1.0, "to": 3.5},
    {"event": "speculated", "worker": "rollout-0", "phases": [[1, 0, 4, 0, 0, 4, 0.1], [1, 3, 6, 6, 9, 15, 0.2]]},
    {
        "event": "drafter_studied",
        "from": 1.0,
        "to": 2.0,
        "place": "learner",
        "why_there": "",
        "why": "",
        "steps": 1,
        "seconds": 1.0,
        "published": None,
    },
    {"event": "warning", "message": "nobody counts these"},
)


@dataclass
class Shown:
    """An exporter that keeps what it is shown."""

    readings: list[Reading] = field(default_factory=list)
    closed: bool = False

    def show(self, reading: Reading) -> None:
        self.readings.append(reading)

    def close(self) -> None:
        self.closed = True

    def of(self, metric: Metric) -> dict[tuple[str, ...], float]:
        """What a counter adds up to, what a gauge shows at the end, how often a histogram observed."""
        found: dict[tuple[str, ...], float] = {}
        for reading in (one for one in self.readings if one.metric is metric):
            before = found.get(reading.labels, 0.0)
            by_kind = {"gauge": reading.value, "counter": before + reading.value, "histogram": before + 1}
            found[reading.labels] = by_kind[metric.kind]
        return found


@pytest.fixture
def shown() -> Shown:
    shown = Shown()
    monitor = Monitor(shown)
    monitor.log(3, ROW)
    monitor.log(3, {"eval/held_out": 0.875})
    for row in EVENTS:
        monitor.happened({"time": 20.0, **row})
    monitor.looked(SCENE)
    return shown


def test_every_metric_is_read_from_something_with_its_labels(shown: Shown) -> None:
    assert {one.metric.name for one in shown.readings} == {metric.name for metric in CATALOGUE}
    assert all(len(one.labels) == len(one.metric.labels) for one in shown.readings)


def test_a_step_shows_its_row(shown: Shown) -> None:
    assert shown.of(of.STEP) == {(): 3}
    assert shown.of(of.REWARD) == {(): 0.75}
    assert shown.of(of.REWARD_TERM) == {("math",): 0.5}, "reward_failed is no term"
    assert shown.of(of.ACCURACY) == {("held_out",): 0.875}
    assert shown.of(of.GRAD_NORM) == {(): 1.0}


def test_prompts_are_counted_by_end_as_the_ledger_counts_them(shown: Shown) -> None:
    ends = {("dispatched",): 1, ("trained",): 2, ("filtered",): 1, ("failed",): 1, ("dropped",): 1}
    assert shown.of(of.PROMPTS) == ends


def test_an_answer_is_counted_with_its_tokens_and_its_whole_time(shown: Shown) -> None:
    assert shown.of(of.ANSWERS) == {("length",): 1}
    assert shown.of(of.SAMPLED_TOKENS) == {(): 9}
    assert [one.value for one in shown.readings if one.metric is of.ANSWER_SECONDS] == [7.5]


def test_rewards_are_timed_one_by_one_and_failures_told_apart(shown: Shown) -> None:
    assert [one.value for one in shown.readings if one.metric is of.REWARD_SECONDS] == [0.25, 0.5, 0.125]
    assert shown.of(of.REWARD_FAILURES) == {("timeout", "math"): 1}
    assert shown.of(of.REWARD_FALLBACKS) == {("malformed", "judge"): 1}


def test_a_sync_is_timed_judged_and_compared(shown: Shown) -> None:
    assert shown.of(of.SYNCS) == {("target", "attested"): 1, ("target", "failed"): 1}
    assert shown.of(of.SYNC_SECONDS) == {("target",): 2}
    assert [one.value for one in shown.readings if one.metric is of.PAUSE_SECONDS] == [0.125]
    assert shown.of(of.PROBE_GAP) == {("rollout-0",): 0.002}


def test_speculation_is_counted_by_k(shown: Shown) -> None:
    assert shown.of(of.DECODING_STEPS) == {("0",): 4, ("3",): 6}
    assert (shown.of(of.DRAFTS), shown.of(of.ACCEPTED)) == ({(): 6}, {(): 9})
    assert shown.of(of.DRAFTERS) == {("kept",): 1}


def test_a_scene_shows_every_engine_and_actor(shown: Shown) -> None:
    assert shown.of(of.RUNNING) == {("rollout-0",): 3, ("rollout-1",): 0}
    assert shown.of(of.WEIGHTS_VERSION) == {("rollout-0",): 7, ("rollout-1",): 6}
    assert shown.of(of.IDLE) == {("learner",): 0.5, ("rollout-0",): 0.125}
    assert lines(SCENE)["buffer"] == "4 groups ready, 9 in flight, 1 set aside"


def test_what_names_a_prompt_a_sample_or_a_message_is_no_label(shown: Shown) -> None:
    labels = {value for one in shown.readings for value in one.labels}
    assert not labels & {"p0", "0/1", "boom", "hung", "damaged", "died", "a message that no label may hold"}


def test_an_end_of_the_run_is_handed_on() -> None:
    shown = Shown()
    Monitor(shown).close()
    assert shown.closed
