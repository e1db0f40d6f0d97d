"""The reward worker as a plain object, and as what it is for: a Ray actor."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from actors.reward import RewardWorker
from orchestrator.launch import ASKING_GROUPS
from rewards.compose import RewardSetupError
from rewards.models.address import Address
from rewards.response import Response
from rewards.settings import RewardSettings
from tests.rewards.judging.scripted_server import serving

TIMEOUT_S = 120.0
OBEY = {"name": "tests.rewards.misbehaving:obey"}
SETTINGS = RewardSettings.model_validate({"terms": [{"name": "math"}, OBEY], "deadline_s": 1.0, "fallback": -7.0})


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray.init(num_cpus=1, include_dashboard=False, object_store_memory=100 << 20, log_to_driver=False)
    yield
    ray.shutdown()


def test_a_plain_worker_scores_and_closes() -> None:
    worker = RewardWorker(SETTINGS)
    worker.warm_up()
    scores = worker.score([Response("s/0", "q", "#### 5", "5"), Response("s/1", "q", "loop", "5")])
    worker.close()
    assert scores[0].terms == {"math": 1.0, "obey": 6.0}
    assert scores[1].total == -7.0
    with pytest.raises(RuntimeError, match="closed"):
        worker.score([])


def test_an_actor_scores_concurrent_calls_whatever_the_answers_do(cluster: None) -> None:
    worker = ray.remote(num_cpus=0, max_concurrency=4)(RewardWorker).remote(SETTINGS)
    try:
        ray.get(worker.warm_up.remote(), timeout=TIMEOUT_S)
        texts = [["#### 5", "loop"], ["exit 3", "#### 5"], ["#### 6"]]
        calls = [worker.score.remote([Response("s", "q", text, "5") for text in group]) for group in texts]
        groups = ray.get(calls, timeout=TIMEOUT_S)
        assert [[score.total for score in group] for group in groups] == [[7.0, -7.0], [-7.0, 7.0], [6.0]]
        assert "exited with code 3" in groups[1][0].error
    finally:
        ray.kill(worker)


def test_groups_that_wait_for_a_model_stand_in_nobodys_way(cluster: None) -> None:
    with serving() as server:
        server.saying("Score: 10", after_s=20.0)  # so long that a busy machine scores the others meanwhile
        right = {"name": "regex", "label": "right", "options": {"pattern": "right"}}
        judge = {"name": "judge", "when": {"term": "right"}}
        model = {"model": "m", "url": server.url, "concurrency": 100}
        settings = RewardSettings.model_validate(
            {"terms": [right, judge], "models": {"judge": model}, "deadline_s": 60.0}
        )
        worker = ray.remote(num_cpus=0, max_concurrency=ASKING_GROUPS)(RewardWorker).remote(settings)
        try:
            ray.get(worker.warm_up.remote(), timeout=TIMEOUT_S)
            ray.get(worker.readdress.remote({"judge": Address(server.url)}), timeout=TIMEOUT_S)
            slow = [worker.score.remote([Response("s", f"q{n}", "right")]) for n in range(30)]
            quick = [worker.score.remote([Response("s", f"q{n}", "wrong")]) for n in range(30)]
            ended, _ = ray.wait([*slow, *quick], num_returns=30, timeout=TIMEOUT_S)
            assert set(ended) == set(quick), "groups without a judge end before those with one"
            assert [scores[0].total for scores in ray.get(slow, timeout=TIMEOUT_S)] == [2.0] * 30
            assert server.most_at_once > 8, "more groups wait at a time than are scored by rules"
        finally:
            ray.kill(worker)


def test_the_children_die_with_a_killed_actor(cluster: None) -> None:
    worker = ray.remote(num_cpus=0)(RewardWorker).remote(SETTINGS)
    ray.get(worker.warm_up.remote(), timeout=TIMEOUT_S)
    (score,) = ray.get(worker.score.remote([Response("s", "q", "pid", "5")]), timeout=TIMEOUT_S)
    child = Path(f"/proc/{int(score.terms['obey'])}")
    assert child.exists()
    ray.kill(worker)
    until = time.monotonic() + 10.0
    while child.exists() and time.monotonic() < until:
        time.sleep(0.05)
    assert not child.exists()


def test_a_reward_that_cannot_work_says_so_at_warm_up(cluster: None) -> None:
    wrong = RewardSettings.model_validate({"terms": [{"name": "math", "options": {"tolerance": 1}}]})
    worker = ray.remote(num_cpus=0)(RewardWorker).remote(wrong)
    with pytest.raises(RewardSetupError, match="it takes: none"):
        ray.get(worker.warm_up.remote(), timeout=TIMEOUT_S)
    ray.kill(worker)
