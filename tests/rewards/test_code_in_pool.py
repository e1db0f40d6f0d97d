"""A code term in a pool: the sandbox lives within the sample's deadline, and dies with the child that asked for it."""

import os
import threading
import time
from collections.abc import Iterator

import pytest

from rewards.child_pool import ChildPool
from rewards.response import Response
from rewards.sandbox.choice import BACKENDS, NoSandboxError, sandbox
from rewards.settings import RewardSettings
from tests.rewards.sandbox.programs import alive, descendants, happens

ADD = "print(sum(map(int, input().split())))"
SLEEP = "import os, time\nos.fork()\ntime.sleep(600)"
HOSTILE = "import os\nos.kill(os.getppid(), 9)\nos.kill(1, 9)\nos.kill(-1, 9)"


@pytest.fixture(scope="module", params=[name for name in BACKENDS if name != "nsjail"])
def pool(request: pytest.FixtureRequest) -> Iterator[ChildPool]:
    try:
        sandbox(request.param)
    except NoSandboxError as error:
        pytest.skip(str(error))
    # A program may take longer than the sample: then the pool's deadline ends both.
    options = {"run_s": 60.0, "job_s": 60.0, "sandbox": request.param}
    settings = {"terms": [{"name": "python_stdio", "options": options}], "deadline_s": 2.0, "fallback": -7.0}
    settings["memory_mb"] = 64
    with ChildPool(RewardSettings.model_validate(settings)) as made:
        made.warm_up()
        yield made


def said(program: str) -> Response:
    return Response("s", "q", f"```python\n{program}\n```", metadata={"tests": [{"input": "1 2", "output": "3"}]})


def test_verdicts_come_in_order_from_one_child(pool: ChildPool) -> None:
    (child,) = pool.child_pids
    scores = pool.score([said(ADD), said("print(4)"), said(HOSTILE), said(ADD)])
    assert [(score.total, score.error) for score in scores] == [(1.0, None), (0.0, None), (0.0, None), (1.0, None)]
    assert pool.child_pids == [child]


def test_the_samples_deadline_ends_the_sandbox_with_its_child(pool: ChildPool) -> None:
    (child,) = pool.child_pids
    seen: set[int] = set()

    def look() -> None:
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            seen.update(descendants(child))
            time.sleep(0.05)

    looking = threading.Thread(target=look)
    looking.start()
    late, good = pool.score([said(SLEEP), said(ADD)])
    looking.join(10)
    assert (late.total, late.error) == (-7.0, "python_stdio: no verdict within reward.deadline_s=2")
    assert (good.total, good.error) == (1.0, None)
    assert len(seen) >= 4, "launcher, first process, program and its fork"
    assert happens(lambda: not any(alive(pid) for pid in {child, *seen}))


def test_a_program_has_its_own_memory_limit_and_not_its_childs(pool: ChildPool) -> None:
    reserve = "import mmap\nmmap.mmap(-1, {} << 20)\n" + ADD
    fits, does_not = pool.score([said(reserve.format(400)), said(reserve.format(600))])
    assert (fits.total, fits.error) == (1.0, None)
    assert (does_not.total, does_not.error) == (0.0, None)


def test_what_a_sandbox_takes_is_gone_after_many_samples(pool: ChildPool) -> None:
    (child,) = pool.child_pids
    pool.score([said(ADD)] * 3)
    before = len(os.listdir(f"/proc/{child}/fd"))
    pool.score([said(ADD), said("print('x' * (2 << 20))")] * 5)
    assert pool.child_pids == [child]
    assert len(os.listdir(f"/proc/{child}/fd")) == before
    assert happens(lambda: len(descendants(child)) <= 2), "a template, and perhaps its last job's builder, unreaped"
