"""Terms that ask, in a pool with real processes and a real server: what is slow, dead or silent holds up no other."""

import os
import re
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rewards import asking_pool
from rewards.child_pool import ChildPool
from rewards.entries import RewardSetupError
from rewards.models.address import Address
from rewards.response import Failure, Response, Score
from rewards.settings import RewardSettings
from tests.rewards.judging.scripted_server import Asked, Reply, ScriptedServer, chat, serving

SLOW_S = 2.0
RIGHT = {"name": "regex", "options": {"pattern": "#### 4"}, "label": "right"}
OWN = "tests.rewards.judging.own_terms"


def pool_of(server: ScriptedServer | None, *terms: object, key: str | None = None, **others: object) -> ChildPool:
    url = "http://127.0.0.1:9/v1" if server is None else server.url
    model = {"model": "m", "url": url, "retries": 0, "concurrency": 64}
    settings = RewardSettings.model_validate(
        {"terms": terms, "models": {"judge": model}, "deadline_s": 5.0, "fallback": -7.0, **others}
    )
    pool = ChildPool(settings, {"judge": Address(url, key)})
    pool.warm_up()
    return pool


def said(text: str, item: str = "p0") -> Response:
    return Response(f"{item}/0", f"question of {item}", text, "4", prompt_id=item)


def failed(score: Score) -> Failure:
    assert score.failure is not None
    return score.failure


def test_rules_and_models_make_one_total_in_the_order_of_the_recipe(server: ScriptedServer) -> None:
    server.saying("Score: 10")
    terms = ({"name": "judge", "weight": 0.5}, RIGHT, {"name": "shortest_correct", "options": {"of": "judge"}})
    with pool_of(server, *terms) as pool:
        long = Response("p/0", "q", "so #### 4", "4", response_tokens=9)
        short = Response("p/1", "q", "#### 5", "4", response_tokens=5)
        scores = pool.score_group([long, short])
    assert [list(score.terms.items()) for score in scores] == [
        [("judge", 1.0), ("right", 1.0), ("shortest_correct", 0.0)],
        [("judge", 1.0), ("right", 0.0), ("shortest_correct", 1.0)],
    ]
    assert [score.total for score in scores] == [1.5, 1.5]


def test_a_gate_keeps_the_judge_from_wrong_answers(server: ScriptedServer) -> None:
    with pool_of(server, RIGHT, {"name": "judge", "when": {"term": "right"}}) as pool:
        right, wrong = pool.score_group([said("#### 4"), said("#### 5")])
    assert (right.terms, wrong.terms) == ({"right": 1.0, "judge": 1.0}, {"right": 0.0})
    assert len(server.asked) == 1


def test_a_slow_judge_holds_up_its_own_group_and_nobody_else(server: ScriptedServer) -> None:
    """One child scores by rules. While a judge thinks for two seconds about each answer of eight groups, all of them
    are asked about at the same time, and groups that need no judge go through."""
    server.saying("Score: 10", after_s=SLOW_S)
    gated = {"name": "judge", "when": {"term": "right"}}
    with pool_of(server, RIGHT, gated, deadline_s=30.0) as pool, ThreadPoolExecutor(8) as threads:
        slow = [
            threads.submit(pool.score_group, [said("#### 4", f"p{n}"), said("so #### 4", f"p{n}")]) for n in range(8)
        ]
        while not server.asked:
            time.sleep(0.01)
        meanwhile = 0
        while not any(group.done() for group in slow):
            (score,) = pool.score_group([said("#### 5", "quick")])
            assert score.terms == {"right": 0.0}
            meanwhile += 1
        assert meanwhile > 5, "rule-based groups waited for the judge"
        assert [[score.total for score in group.result(60)] for group in slow] == [[2.0, 2.0]] * 8
    assert len(server.asked) == 16
    assert server.most_at_once > 8, "the answers were asked about one after another"


@pytest.mark.parametrize(
    ("script", "kind"),
    [
        (lambda asked: Reply(status=500), "unreachable"),
        (lambda asked: Reply(status=401), "refused"),
        (lambda asked: chat("Score: 10", after_s=3.0), "timeout"),
        (lambda asked: chat("I like it."), "malformed"),
        (lambda asked: chat("Score: 11"), "malformed"),
        (lambda asked: Reply(b"<html>"), "malformed"),
    ],
)
def test_what_a_model_fails_at_is_a_failure_of_its_kind_or_a_fallback_that_is_counted(
    server: ScriptedServer, script: Callable[[Asked], Reply], kind: str
) -> None:
    server.script = script
    strict, lenient = "judge", {"name": "judge", "fallback": 0.25}
    with pool_of(server, RIGHT, strict, deadline_s=1.0) as pool:
        (score,) = pool.score_group([said("#### 4")])
    assert (score.total, score.terms, failed(score)) == (-7.0, {"right": 1.0}, Failure(kind, "judge"))
    with pool_of(server, RIGHT, lenient, deadline_s=1.0) as pool:
        (score,) = pool.score_group([said("#### 4")])
    assert (score.total, score.error, score.troubles) == (1.25, None, (Failure(kind, "judge"),))


def test_a_term_of_ones_own_is_given_the_models_and_its_deadline(server: ScriptedServer) -> None:
    server.saying("four")
    with pool_of(server, f"{OWN}:length_of_reply") as pool:
        assert pool.score([said("x")])[0].total == 4.0
    with pool_of(server, f"{OWN}:sleeps", deadline_s=0.5) as pool:
        (score,) = pool.score([said("x")])
    assert failed(score) == Failure("timeout", "sleeps")
    assert "reward.deadline_s=0.5" in (score.error or "")


def test_a_process_that_dies_is_replaced_and_asks_once_more(server: ScriptedServer) -> None:
    server.saying("Score: 10", after_s=1.0)
    with pool_of(server, "judge") as pool, ThreadPoolExecutor(1) as threads:
        under_way = threads.submit(pool.score_group, [said("x")])
        while not server.asked:
            time.sleep(0.01)
        os.kill(pool.child_pids[-1], signal.SIGKILL)
        assert under_way.result(30)[0].total == 1.0
        assert len(server.asked) == 2


def test_what_ends_the_process_twice_fails_and_the_next_is_scored(server: ScriptedServer) -> None:
    with pool_of(server, f"{OWN}:obeys") as pool:
        (score,) = pool.score_group([said("exit")])
        assert (failed(score).kind, score.total) == ("died", -7.0)
        assert "exited with code 3" in (score.error or "")
        assert pool.score_group([said("pid")])[0].total > 0


def test_what_computes_without_end_is_killed_and_said(server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking_pool, "SILENT_S", 2.0)
    with pool_of(server, f"{OWN}:obeys") as pool:
        (score,) = pool.score_group([said("loop")])
        assert failed(score).kind == "timeout"
        assert pool.score_group([said("pid")])[0].total > 0


def test_a_model_that_moved_is_found_at_its_new_address() -> None:
    with serving() as first, serving() as second:
        first.saying("Score: 1")
        second.saying("Score: 10")
        with pool_of(first, "judge") as pool:
            assert pool.score([said("a")])[0].total == 0.0
            pool.readdress({"judge": Address(second.url)})
            assert pool.score([said("b")])[0].total == 1.0
            os.kill(pool.child_pids[-1], signal.SIGKILL)
            assert pool.score([said("c")])[0].total == 1.0, "the next process knows the address too"


def test_a_pool_that_is_closed_answers_who_waits(server: ScriptedServer) -> None:
    server.saying("Score: 10", after_s=4.0)
    pool = pool_of(server, "judge")
    with ThreadPoolExecutor(1) as threads:
        under_way = threads.submit(pool.score_group, [said("x")])
        while not server.asked:
            time.sleep(0.01)
        pid = pool.child_pids[-1]
        began = time.monotonic()
        pool.close()
        assert failed(under_way.result(10)[0]).kind == "closed"
        assert time.monotonic() - began < 3
    assert not Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize(
    ("term", "complaint"),
    [
        ({"name": "judge", "options": {"model": "nobody"}}, r"reward.models: judge asks 'nobody', and there is judge"),
        ({"name": "one_box", "fallback": 1}, r"reward.terms\[one_box\].fallback: one_box asks no model"),
        ({"name": "judge", "options": {"low": 3, "high": 3}}, r"reward.terms\[judge\].options: low=3 must be below"),
        ({"name": "judge", "options": {"models": 1}}, r"models"),
        ({"name": "judge", "options": {"rubrik": "x"}}, r"it takes: model, rubric, low"),
        ({"name": "fare", "options": {"opponents": -1}}, r"opponents=-1 must be at least 0"),
        ({"name": "sd_e2", "options": {"model": "judge", "diversity": 0.5}}, r"else wrong and diverse outranks right"),
    ],
)
def test_what_cannot_work_is_said_at_the_start(server: ScriptedServer, term: object, complaint: str) -> None:
    with pytest.raises(RewardSetupError, match=complaint):
        pool_of(server, RIGHT, term)
    assert not server.asked


def test_a_rule_cannot_wait_for_a_judge(server: ScriptedServer) -> None:
    with pytest.raises(RewardSetupError, match="judge asks a model and comes after right, which asks none"):
        pool_of(server, "judge", {**RIGHT, "when": {"term": "judge"}})


def test_without_models_nothing_can_be_asked() -> None:
    settings = RewardSettings.model_validate({"terms": [f"{OWN}:sleeps"]})
    with ChildPool(settings) as pool, pytest.raises(RewardSetupError, match=r"reward\.models is empty"):
        pool.warm_up()


def test_the_key_stays_with_the_call(server: ScriptedServer, capfd: pytest.CaptureFixture[str]) -> None:
    key = "sk-do-not-show-me"
    server.script = lambda asked: Reply({"error": asked.authorization}, status=401)
    with pool_of(server, "judge", key=key) as pool:
        (score,) = pool.score_group([said("x")])
        (pid,) = pool.child_pids[-1:]
        command = Path(f"/proc/{pid}/cmdline").read_text()
    assert server.asked[0].authorization == f"Bearer {key}"
    shown = capfd.readouterr()
    assert not re.search(key, repr(score) + command + shown.out + shown.err + repr(pool.__dict__))


def test_many_threads_ask_at_a_time(server: ScriptedServer) -> None:
    server.script = lambda asked: chat(f"Score: {1 + int(asked.text.split('item number ')[1].split()[0]) % 10}")
    with pool_of(server, "judge") as pool:
        found: dict[int, float] = {}

        def ask(number: int) -> None:
            found[number] = pool.score([said(f"item number {number} ", f"p{number}")])[0].total

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(40)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert found == {number: pytest.approx(number % 10 / 9) for number in range(40)}
