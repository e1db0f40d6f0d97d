"""A whole run watched from outside: its metrics are scraped as long as it goes on, and compared with its files."""

import json
import subprocess
from collections.abc import Callable
from contextlib import suppress
from itertools import chain
from pathlib import Path

import pytest

from orchestrator.monitoring import catalogue as of
from orchestrator.monitoring.exporter import MOST_SERIES
from tests.end_to_end.conftest import RunFolder, start, wait_for
from tests.end_to_end.test_faults import process_of
from tests.orchestrator.monitoring.scraping import Seen, free_port, known, queried, scrape, values

pytestmark = pytest.mark.slow
WriteRecipe = Callable[..., Path]
SUFFIX = {"drafter": "suffix", "lengths": [0, 2], "governor": "fixed", "governor_options": {"1": 2}}
RARE = {
    metric.series for metric in (of.REWARD_FALLBACKS, of.WATCHDOG, of.QUARANTINED, of.DRAFTERS, of.DRAFTS, of.ACCEPTED)
}
"""What this run may have no cause to tell: no judge, nothing overdue, no prompt that hangs, perhaps no draft."""
PATIENCE_S = 400.0
"""Engines start, and start again."""


@pytest.mark.timeout(1000)
def test_a_run_with_a_killed_worker_and_failing_rewards_is_seen_from_outside(
    write_recipe: WriteRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_metrics_report_interval_ms", "1000")
    port = free_port()
    recipe = write_recipe(
        rollout={"max_response_tokens": 40, "max_staleness": 1},
        reward={"terms": [{"name": "tests.end_to_end.own_rewards:raises_on_the_last"}]},
        algorithm={"drop_zero_variance": False},
        trainer={"steps": 60, "prompts_per_step": 4},
        speculation=SUFFIX,
        ray={"metrics_port": port},
    )
    process, folder = start(recipe), RunFolder(tmp_path / "run")
    scrapes: list[list[Seen]] = []

    def scraped(enough: Callable[[], object]) -> bool:
        scrapes.append(scrape(port))
        return bool(enough())

    wait_for(lambda: scraped(lambda: folder.path.exists() and values(scrapes[-1], of.LOSS)), process, PATIENCE_S)
    process_of(process, "RolloutWorker").kill()
    wait_for(lambda: scraped(lambda: values(scrapes[-1], of.JOINED)), process, PATIENCE_S)
    while process.poll() is None:
        scrapes.append(scrape(port))
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.3)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, out + err

    names = {one.name for one in chain.from_iterable(scrapes)}
    assert names <= known()
    assert queried() - names <= RARE
    last = next(seen for seen in reversed(scrapes) if values(seen, of.STEP))
    assert {one.labels["run"] for one in last} == {"run"}
    assert {one.labels["recipe"] for one in last} == {"tiny"}
    assert max(sum(one.name == name for one in last) for name in names) <= MOST_SERIES
    assert_as_written(last, folder)


def assert_as_written(seen: list[Seen], folder: RunFolder) -> None:
    """The endpoint said what the files say, as of a moment near the end."""
    rows = [json.loads(line) for line in (folder.path / "metrics.jsonl").read_text().splitlines()]
    (step,) = values(seen, of.STEP)
    # A scrape may fall between two figures of one step.
    near = (rows[int(step) - 1], rows[int(step) - 2])
    assert values(seen, of.LOSS)[0] in [row["learner/loss"] for row in near]
    assert values(seen, of.REWARD)[0] in [row["reward"] for row in near]
    assert values(seen, of.ACCURACY, set="held_out")[0] in [e["accuracy"] for e in folder.events("evaluated")]
    assert values(seen, of.LOST, worker="rollout-0") == values(seen, of.JOINED, worker="rollout-0") == [1]
    trained = 4 * step
    assert trained - 4 <= values(seen, of.PROMPTS, end="trained")[0] <= trained + 4
    failures = values(seen, of.REWARD_FAILURES, kind="raised")
    assert 0 < failures[0] <= len(folder.events("reward_error"))
    # One answer of each group of four fails.
    scored = values(seen, of.REWARD_SECONDS)[0]
    assert scored == pytest.approx(4 * failures[0], abs=8)
    attested = [event for event in folder.events("sync") if event["failure"] is None and event["stream"] == "target"]
    # While the only engine was away, the learner may have gone on with what was buffered.
    assert step - 4 <= values(seen, of.SYNCS, stream="target", verdict="attested")[0] <= len(attested)
