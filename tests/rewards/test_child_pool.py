"""The pool with real children: real loops, real allocations, real kills."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import reasoning_gym

from rewards import scoring_child
from rewards.child_pool import ChildPool
from rewards.compose import RewardSetupError
from rewards.response import Fact, Failure, Response, Score
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
    assert bad.failure is not None
    assert bad.failure.term == "obey"
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


KINDS = {"loop": "timeout", "allocate": "memory", "exit 3": "died", "raise": "raised"}


@pytest.mark.parametrize(("text", "kind"), KINDS.items())
def test_a_failure_names_what_happened_and_the_term_at_work(text: str, kind: str) -> None:
    with ChildPool(settings({"name": "format", "options": {"pattern": ".*"}}, OBEY)) as pool:
        pool.warm_up()
        (verdict,) = pool.score([said(text)])
    assert verdict.failure == Failure(kind, "obey")
    assert str(verdict.error).startswith("obey: ")


def test_what_a_child_answered_before_it_died_counts(obedient: ChildPool) -> None:
    texts = ["a" * n for n in range(1, 9)] + ["exit 3", "abc", "loop", "abcd"]
    scores = obedient.score([said(text) for text in texts])
    assert [score.total for score in scores] == [*map(float, range(1, 9)), -7.0, 3.0, -7.0, 4.0]
    assert [score.failure.kind if score.failure else None for score in scores[8:]] == ["died", None, "timeout", None]


GROUPED = (OBEY, {"name": "laser", "options": {"target": 10, "correct_at": 3}})


def counted(text: str, tokens: int) -> Response:
    return Response("s", "q", text, response_tokens=tokens, prompt_id="row1@0")


def test_a_groups_answers_are_scored_each_by_itself_and_then_together() -> None:
    with ChildPool(settings(*GROUPED, workers=2)) as pool:
        pool.warm_up()
        assert pool.sees_groups
        answers = [counted("abcd", 5), counted("loop", 5), counted("abc", 11), counted("ab", 5)]
        scores = pool.score_group(answers)
        assert [score.total for score in scores] == [5.0, -7.0, 3.0, 2.0]
        assert [score.terms.get("laser") for score in scores] == [1.0, None, 0.0, 0.0]
        assert scores[1].failure == Failure("timeout", "obey")
        alone = pool.score_group([counted("loop", 1)])
        assert alone[0].failure == Failure("timeout", "obey")


def test_a_group_term_that_hangs_costs_its_group_one_deadline() -> None:
    with ChildPool(settings(OBEY, {"name": "tests.rewards.misbehaving:hang_together"})) as pool:
        pool.warm_up()
        started = time.perf_counter()
        scores = pool.score_group([said("abc"), said("raise"), said("abcd")])
        assert time.perf_counter() - started < DEADLINE_S + 10.0
        assert [score.failure for score in scores] == [
            Failure("timeout", "hang_together"),
            Failure("raised", "obey"),
            Failure("timeout", "hang_together"),
        ]
        assert [score.terms for score in scores] == [{"obey": 3.0}, {}, {"obey": 4.0}]
        assert [score.total for score in pool.score_group([said("fine"), said("ok")])] == [5.0, 3.0]


def test_what_is_remembered_reaches_the_terms_and_their_facts_come_back() -> None:
    with ChildPool(settings(OBEY, {"name": "hapo", "options": {"correct_at": 3}})) as pool:
        pool.warm_up()
        (score,) = pool.score_group([counted("abc", 100)], {"hapo/length": 100.0})
    assert score.terms["hapo"] == pytest.approx(0.0, abs=1e-9)
    assert score.facts == (Fact("hapo/length", 100.0, "least"),)


def test_a_call_that_nobody_waits_for_is_called_off() -> None:
    with ChildPool(settings(OBEY, deadline_s=2.0)) as pool:
        pool.warm_up()
        scores: list[Score] = []
        busy = [said("loop")] * 16
        first = threading.Thread(target=lambda: pool.score(busy[:1]))
        second = threading.Thread(target=lambda: scores.extend(pool.score(busy, "group 7")))
        first.start()
        time.sleep(0.3)
        second.start()
        time.sleep(0.3)
        pool.cancel("group 7")
        pool.cancel("a name that nobody has")
        second.join(timeout=10)
        first.join(timeout=10)
    assert [score.failure for score in scores] == [Failure("cancelled")] * 16


def test_an_async_reward_of_the_users_own_is_awaited_under_the_deadline() -> None:
    with ChildPool(settings({"name": "tests.rewards.misbehaving:sleepy"})) as pool:
        pool.warm_up()
        scores = pool.score([said("0.01"), said("60"), said("0")])
    assert [score.total for score in scores] == [0.01, -7.0, 0.0]
    assert scores[1].failure == Failure("timeout", "sleepy")


def test_the_next_life_is_there_at_once_without_loading_anything_again() -> None:
    with ChildPool(settings({"name": "tests.rewards.takes_its_time:score"}, start_timeout_s=60.0)) as pool:
        pool.warm_up()
        (pid,) = pool.child_pids
        os.kill(pid, signal.SIGKILL)
        assert dies(pid)
        started = time.perf_counter()
        (verdict,) = pool.score([said("abc")])
        assert verdict.error is None
        assert time.perf_counter() - started < 2.0, "the import alone takes 4 s"


def test_a_module_with_threads_is_loaded_anew_for_each_life() -> None:
    with ChildPool(settings({"name": "tests.rewards.keeps_a_thread:score"})) as pool:
        pool.warm_up()
        (pid,) = pool.child_pids
        scores = pool.score([said(text) for text in ("abc", "loop", "exit 3", "abcd")])
        assert [score.total for score in scores] == [3.5, -7.0, -7.0, 4.5]
        assert "exited with code 3" in str(scores[2].error)
        assert dies(pid)
        pids = pool.child_pids
    assert all(dies(pid) for pid in pids)


@pytest.mark.parametrize("may_come_back", [True, False])
def test_an_answer_that_burns_a_core_steps_back_behind_the_others_until_it_is_scored(
    may_come_back: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A life that may not come back to its place, which the system may keep to root, makes room for another."""
    if not may_come_back:
        monkeypatch.setattr(scoring_child, "come_back", lambda pid: False)
    elif os.geteuid() != 0:
        pytest.skip("needs root")
    with ChildPool(settings({"name": "tests.rewards.misbehaving:busy"}, deadline_s=60.0)) as pool:
        pool.warm_up()
        (pid,) = pool.child_pids
        before = os.getpriority(os.PRIO_PROCESS, pid)
        seen: set[int] = set()
        done = threading.Event()

        def watch() -> None:
            while not done.wait(0.02):
                with suppress(ProcessLookupError):
                    seen.add(os.getpriority(os.PRIO_PROCESS, pid))

        watching = threading.Thread(target=watch)
        watching.start()
        slow, quick = pool.score([said("1.5"), said("0.01")])
        done.set()
        watching.join(timeout=5)
        assert (slow.error, quick.error) == (None, None)
        assert max(seen) == min(19, before + 10)
        (verdict,) = pool.score([said("0.0")])
        assert verdict.error is None
        assert (pool.child_pids == [pid]) == may_come_back
        assert os.getpriority(os.PRIO_PROCESS, pool.child_pids[0]) == before


def test_an_answer_that_only_waits_stands_in_nobodys_way_and_keeps_its_place() -> None:
    with ChildPool(settings({"name": "tests.rewards.misbehaving:sleepy"}, deadline_s=60.0)) as pool:
        pool.warm_up()
        (pid,) = pool.child_pids
        (verdict,) = pool.score([said("1.0")])
        assert verdict.error is None
        assert pool.child_pids == [pid]
