"""Who steps back gets what another leaves of a core that both want, also where sessions are scheduled as groups."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rewards.child_process import cpu_clock
from rewards.priority import come_back, step_back

pytestmark = pytest.mark.skipif(not Path("/proc/self/sched").exists(), reason="Linux's scheduler")
BURN = "while True: pass"
WATCHED_S = 1.0


@pytest.fixture
def burning() -> Iterator[list["subprocess.Popen[bytes]"]]:
    """Two processes on one core, each the leader of a session, as lives are."""
    core = min(os.sched_getaffinity(0))
    both = [subprocess.Popen([sys.executable, "-S", "-c", BURN], start_new_session=True) for _ in range(2)]
    try:
        for one in both:
            os.sched_setaffinity(one.pid, {core})
        yield both
    finally:
        for one in both:
            one.kill()
            one.wait(timeout=30)


def share_of_the_first(both: list["subprocess.Popen[bytes]"]) -> float:
    """Of what both compute in a while."""
    before = [time.clock_gettime(cpu_clock(one.pid)) for one in both]
    time.sleep(WATCHED_S)
    first, second = (time.clock_gettime(cpu_clock(one.pid)) - was for one, was in zip(both, before, strict=True))
    return first / (first + second)


def test_who_steps_back_gets_a_tenth_and_may_come_back(burning: list["subprocess.Popen[bytes]"]) -> None:
    assert step_back(burning[0].pid)
    assert share_of_the_first(burning) < 0.25
    if not come_back(burning[0].pid):
        pytest.skip("only root may come back here")
    assert share_of_the_first(burning) > 0.3


def test_who_has_ended_neither_steps_back_nor_comes_back() -> None:
    gone = subprocess.Popen([sys.executable, "-S", "-c", ""])
    gone.wait(timeout=30)
    assert not step_back(gone.pid)
    assert not come_back(gone.pid)
