"""Anything may be an answer, or a model's verdict on one: no parser raises on it, or takes longer than a small part of
its deadline."""

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rewards.child_pool import ChildPool
from rewards.response import Response
from rewards.settings import RewardSettings
from tests.rewards.any_text import HARD, LISTENERS, PIECES, READERS, WORDS_OF_VERDICTS, extract, hear, judge

ROOT = Path(__file__).parents[2]
TEXTS = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=4)), max_size=30).map("".join)
VERDICTS = st.lists(st.one_of(st.sampled_from(WORDS_OF_VERDICTS), TEXTS), max_size=8).map(" ".join)


@pytest.mark.parametrize("name", READERS)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(text=TEXTS)
def test_no_text_upsets_a_term(name: str, text: str) -> None:
    judge(name, text)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("text", HARD, ids=range(len(HARD)))
# How long a recipe's own pattern takes is the recipe's affair.
@pytest.mark.parametrize("name", [name for name in READERS if name != "regex"])
def test_no_text_made_to_take_long_does(name: str, text: str) -> None:
    judge(name, text)


@pytest.mark.parametrize("name", LISTENERS)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(text=TEXTS, verdict=st.one_of(TEXTS, VERDICTS))
def test_no_text_upsets_a_term_that_asks_and_no_verdict_does(name: str, text: str, verdict: str) -> None:
    hear(name, text, verdict)


@pytest.mark.parametrize("verdict", HARD, ids=range(len(HARD)))
@pytest.mark.parametrize("name", LISTENERS)
def test_no_verdict_made_to_take_long_does(name: str, verdict: str) -> None:
    hear(name, verdict, verdict)


@settings(max_examples=300, deadline=None)
@given(text=TEXTS)
def test_no_text_upsets_the_extraction_of_answers(text: str) -> None:
    extract(text)


def guided(target: str, runs: int, artifacts: Path) -> "subprocess.CompletedProcess[str]":
    pytest.importorskip("atheris", reason="atheris has wheels for Linux on x86-64 alone")
    command = [sys.executable, "-W", "ignore", "-m", "tests.rewards.guided_fuzz", target]
    options = [f"-runs={runs}", "-seed=1", "-len_control=0", "-max_len=48", f"-artifact_prefix={artifacts}/"]
    return subprocess.run(
        [*command, *options], cwd=ROOT, capture_output=True, text=True, errors="replace", timeout=280, check=False
    )


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("target", "runs"), [("extraction", 50_000), ("readers", 100_000), ("listeners", 20_000)])
def test_no_text_that_reaches_new_branches_upsets_a_term(target: str, runs: int, tmp_path: Path) -> None:
    done = guided(target, runs, tmp_path)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    first, last = (re.search(rf"{when} +cov: (\d+)", done.stderr) for when in ("INITED", "DONE"))
    assert first is not None
    assert last is not None
    assert int(last[1]) > 1.5 * int(first[1]), "the runs reached branches that the empty text did not"


@pytest.mark.timeout(300)
def test_a_text_that_chance_would_not_find_is_found_and_kept(tmp_path: Path) -> None:
    done = guided("tests.rewards.misbehaving:upset", 300_000, tmp_path)
    assert done.returncode != 0
    assert "KeyError" in done.stdout + done.stderr
    assert [found.name.partition("-")[0] for found in tmp_path.iterdir()] == ["crash"]


DEADLINE_S = 2.0


@pytest.fixture(scope="module")
def pool() -> Iterator[ChildPool]:
    settings = {"terms": ["math"], "deadline_s": DEADLINE_S, "fallback": -7.0}
    with ChildPool(RewardSettings.model_validate(settings)) as made:
        made.warm_up()
        yield made


def in_time(pool: ChildPool, text: str) -> None:
    started = time.monotonic()
    (score,) = pool.score([Response("s", "q", text, "\\frac{1}{2} + x^2")])
    assert time.monotonic() - started < 10 * DEADLINE_S  # with the child's restart, on a busy machine
    if score.failure is None:
        assert score.total in (0.0, 1.0)
    else:
        assert (score.failure.kind, score.total) == ("timeout", -7.0), score.error


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=TEXTS)
def test_mathematics_is_judged_or_runs_into_its_deadline(pool: ChildPool, text: str) -> None:
    in_time(pool, text)


@pytest.mark.parametrize("text", HARD, ids=range(len(HARD)))
def test_mathematics_made_to_take_long_ends(pool: ChildPool, text: str) -> None:
    in_time(pool, text)
