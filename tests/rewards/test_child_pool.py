"""The pool with real children: real loops, real allocations, real kills."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import reasoning_gym

from rewards.child_pool import ChildPool
from rewards.compose import RewardSetupError
from rewards.response import Response, Score
from rewards.settings import RewardSettings

OBEY = {"name": "tests.rewards.misbehaving:obey"}
DEADLINE_S = 1.0


def settings(*terms: dict[str, object], **others: object) -> RewardSettings:
    values: dict[str, object] = {"deadline_s": DEADLINE_S, "fallback": -7.0, "memory_mb": 256, **others}
    return RewardSettings.model_validate({"terms": terms, **values})


def said(text: str, reference: str | None = None) -> Response:
    return Response("s", "q", text, reference=reference)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def dies(pid: int, within_s: float = 5.0) -> bool:
    until = time.monotonic() + within_s
    while alive(pid) and time.monotonic() < until:
        time.sleep(0.02)
    return not alive(pid)


@pytest.fixture(scope="module")
def obedient() -> Iterator[ChildPool]:
    with ChildPool(settings(OBEY)) as pool:
        pool.warm_up()
        yield pool


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("loop", "no verdict within reward.deadline_s=1"),
        ("power", "no verdict within reward.deadline_s=1"),
        ("allocate", "out of memory at reward.memory_mb=256"),
        ("exit 3", "exited with code 3"),
        ("exit 0", "exited with code 0"),
        ("sys.exit 4", "exited with code 4"),
        ("abort", "was killed by SIGABRT"),
        ("raise", "obey: KeyError"),
        ("nan", "not a finite number"),
    ],
)
def test_a_bad_answer_gets_the_fallback_and_its_neighbours_their_scores(
    obedient: ChildPool, text: str, reason: str
) -> None:
    started = time.perf_counter()
    before, bad, after = obedient.score([said("abc"), said(text), said("abcde")])
    assert (before.total, before.error) == (3.0, None)
    assert (after.total, after.error) == (5.0, None)
    assert bad.total == -7.0
    assert bad.error is not None
    assert reason in bad.error
    assert "\n" not in bad.error
    assert bad.seconds < DEADLINE_S + 2.0
    assert time.perf_counter() - started < DEADLINE_S + 10.0


def test_a_child_that_missed_its_deadline_is_dead_and_its_children_too(obedient: ChildPool, tmp_path: Path) -> None:
    (pid,) = obedient.child_pids
    noted = tmp_path / "grandchild"
    (verdict,) = obedient.score([said(f"spawn {noted}")])
    assert verdict.error is not None
    assert dies(pid)
    assert dies(int(noted.read_text()))


def test_a_child_that_dies_between_samples_costs_nobody_a_verdict(obedient: ChildPool) -> None:
    obedient.score([said("a")])
    (pid,) = obedient.child_pids
    os.kill(pid, signal.SIGKILL)
    assert dies(pid)
    assert obedient.score([said("abcd")])[0] == Score(4.0, {"obey": 4.0}, None, pytest.approx(0, abs=DEADLINE_S))


def test_scoring_goes_on_in_one_child_while_nothing_goes_wrong(obedient: ChildPool) -> None:
    pids = {score.total for score in obedient.score([said("pid")] * 20)}
    assert pids == {float(obedient.child_pids[0])}


def test_the_child_holds_neither_torch_nor_ray_nor_vllm(obedient: ChildPool) -> None:
    assert obedient.score([said("torch")])[0].total == 0.0


def test_what_a_term_prints_does_not_disturb(obedient: ChildPool) -> None:
    assert [score.total for score in obedient.score([said("print"), said("x")])] == [5.0, 1.0]


def test_text_of_any_size_and_character_comes_through(obedient: ChildPool) -> None:
    texts = ["", "\x00", "\ud800 lone surrogate", "é" * 3_000_000]
    assert [score.total for score in obedient.score([said(text) for text in texts])] == [len(text) for text in texts]


def test_no_responses_give_no_scores(obedient: ChildPool) -> None:
    assert obedient.score([]) == []


def test_two_children_score_at_the_same_time_and_keep_the_order() -> None:
    with ChildPool(settings(OBEY, workers=2)) as pool:
        pool.warm_up()
        assert len(set(pool.child_pids)) == 2
        started = time.perf_counter()
        scores = pool.score([said("loop"), said("loop"), *[said("a" * n) for n in range(50)]])
        assert time.perf_counter() - started < 2 * DEADLINE_S + 5.0
        assert [score.total for score in scores[2:]] == [float(n) for n in range(50)]
        assert all(score.seconds < 1.5 * DEADLINE_S for score in scores[:2])


def test_several_threads_may_score_at_a_time(obedient: ChildPool) -> None:
    results: dict[int, list[Score]] = {}

    def work(number: int) -> None:
        results[number] = obedient.score([said("a" * (number + n)) for n in range(30)])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert {number: [s.total for s in scores] for number, scores in results.items()} == {
        number: [float(number + n) for n in range(30)] for number in range(4)
    }


def test_close_ends_the_children_and_a_sample_in_progress() -> None:
    pool = ChildPool(settings(OBEY, deadline_s=60.0))
    pool.warm_up()
    pids = pool.child_pids
    scores: list[Score] = []
    thread = threading.Thread(target=lambda: scores.extend(pool.score([said("loop"), said("abc")])))
    thread.start()
    time.sleep(0.3)
    started = time.perf_counter()
    pool.close()
    thread.join(timeout=10)
    assert time.perf_counter() - started < 5.0
    assert [score.total for score in scores] == [-7.0, -7.0]
    assert all(score.error for score in scores)
    assert all(dies(pid) for pid in pids)
    assert pool.child_pids == []
    pool.close()
    with pytest.raises(RuntimeError, match="closed"):
        pool.score([said("abc")])


@pytest.mark.parametrize(
    ("term", "others", "complaint"),
    [
        ({"name": "format", "options": {"patern": "a"}}, {}, "it takes: pattern"),
        ({"name": "tests.rewards.misbehaving:nothing"}, {}, "no function 'nothing'"),
        ({"name": "tests.rewards.slow_to_import:score"}, {"start_timeout_s": 1.0}, "reward.start_timeout_s"),
        ({"name": "tests.rewards.dies_on_import:score"}, {}, "exited with code 9 while it loaded its terms"),
    ],
)
def test_a_reward_that_cannot_start_says_why_in_one_line(
    term: dict[str, object], others: dict[str, object], complaint: str
) -> None:
    with ChildPool(settings(term, **others)) as pool:
        with pytest.raises(RewardSetupError) as refusal:
            pool.warm_up()
        assert complaint in str(refusal.value)
        assert "\n" not in str(refusal.value)
        (verdict,) = pool.score([said("abc")])
        assert verdict.total == -7.0
        assert complaint in str(verdict.error)


def test_children_die_with_a_parent_that_is_killed() -> None:
    program = textwrap.dedent("""
        import threading, time
        from rewards.child_pool import ChildPool
        from rewards.response import Response
        from rewards.settings import RewardSettings
        terms = [{"name": "tests.rewards.misbehaving:obey"}]
        pool = ChildPool(RewardSettings.model_validate({"terms": terms, "workers": 2, "deadline_s": 600}))
        pool.warm_up()
        threading.Thread(target=pool.score, args=([Response("s", "q", "loop")],), daemon=True).start()
        time.sleep(0.3)
        print(*pool.child_pids, flush=True)
        time.sleep(600)
    """)
    parent = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path)},
    )
    assert parent.stdout is not None
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 2
    assert all(alive(pid) for pid in pids)
    parent.kill()
    parent.wait(timeout=10)
    parent.stdout.close()
    assert all(dies(pid) for pid in pids), "one busy child and one idle one"


def test_slow_libraries_load_before_the_first_deadline_runs() -> None:
    with ChildPool(settings({"name": "math"}, {"name": "reasoning_gym"}, deadline_s=0.5)) as pool:
        entry = reasoning_gym.create_dataset("chain_sum", seed=1, size=1)[0]
        response = Response("s", "q", f"#### {entry['answer']}", entry["answer"], {"task": "chain_sum", "entry": entry})
        (verdict,) = pool.score([response])
    assert verdict.error is None
    assert verdict.terms == {"math": 1.0, "reasoning_gym": 1.0}


@pytest.mark.parametrize("monster", [r"\boxed{9^{9^{9^{9}}}}", r"\boxed{10^{10^{10}}}", r"\boxed{(10^{9})!}"])
def test_a_gigabyte_number_costs_one_deadline_at_most(monster: str) -> None:
    with ChildPool(settings({"name": "math"})) as pool:
        pool.warm_up()
        bad, good = pool.score([said(monster, "72"), said(r"\boxed{72}", "72")])
    assert bad.total in (0.0, -7.0)
    assert bad.seconds < DEADLINE_S + 2.0
    assert (good.total, good.error) == (1.0, None)


ATTACKS = (
    "__import__('os').system('touch {path}')",
    "__import__('subprocess').run(['touch', '{path}'])",
    "open('{path}', 'w').write('x')",
    "__import__('pathlib').Path('{path}').touch()",
    "__import__('os').fork()",
    "__import__('socket').create_connection(('127.0.0.1', 9))",
)


@pytest.mark.parametrize("attack", ATTACKS)
def test_code_in_an_answer_that_a_scorer_evaluates_does_nothing(attack: str, tmp_path: Path) -> None:
    path = tmp_path / "touched"
    entry = reasoning_gym.create_dataset("string_insertion", seed=1, size=1)[0]
    answer = "[str(" + attack.format(path=path) + ")]"
    response = Response("s", "q", "#### " + answer, None, {"task": "string_insertion", "entry": entry})
    # The same answer outside a child does what it says, or the test would prove nothing.
    reached = "fork" not in attack and "socket" not in attack
    if reached:
        reasoning_gym.get_score_answer_fn("string_insertion")(answer, entry)
        assert path.exists()
        path.unlink()
    with ChildPool(settings({"name": "reasoning_gym"})) as pool:
        pool.warm_up()
        (pid,) = pool.child_pids
        (verdict,) = pool.score([response])
        assert verdict.total <= 0.0
        assert not path.exists()
        assert pool.child_pids == [pid]
