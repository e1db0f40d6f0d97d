"""The process behind the vLLM engine: what starting leaves behind, and what its death does."""

import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from actors.engine import EngineError, Sampling
from actors.vllm_launch import parse_cores
from actors.weight_channel import listen
from tests.actors.subject import WAIT_S, Subject


@pytest.mark.slow
def test_an_engine_process_serves_in_bfloat16_and_its_death_ends_every_call(untied_checkpoint: Path) -> None:
    environment, cores = dict(os.environ), os.sched_getaffinity(0)
    children_before = set(psutil.Process().children(recursive=True))
    subject = Subject("vllm", untied_checkpoint, tied=False, dtype="bfloat16")
    assert dict(os.environ) == environment
    assert os.sched_getaffinity(0) == cores
    # Python's own resource tracker serves the whole test process, and lives as long.
    started = set(psutil.Process().children(recursive=True)) - children_before
    children = {child for child in started if "resource_tracker" not in " ".join(child.cmdline())}

    # The very first request is a short one, alone: nothing has readied the processor's matrix unit (AMX) in passing.
    assert len(subject.generate((5, 6, 7), Sampling(max_tokens=3)).token_ids) == 3

    sampling = Sampling(max_tokens=490)
    calls = [subject.begin(subject.engine.generate(subject.request((5, 6, 7), sampling))) for _ in range(4)]
    subject.until_running(4)
    # A control call that blocks in the engine's process: vLLM itself would leave it waiting for ever.
    deaf = listen("gloo", workers=1, timeout_s=WAIT_S)
    calls.append(subject.begin(subject.engine.open_channel(deaf.address)))
    time.sleep(0.2)
    engine_processes = [child for child in children if "EngineCore" in " ".join(child.cmdline())]
    assert len(engine_processes) == 1
    engine_processes[0].send_signal(signal.SIGKILL)
    killed = time.monotonic()
    for call in calls:
        with pytest.raises(EngineError, match="died"):
            call.result(WAIT_S)
    for late in (subject.engine.pause, subject.engine.resume, lambda: subject.engine.score((5, 6, 7))):
        with pytest.raises(EngineError):
            subject.run(late())
    with pytest.raises(EngineError):
        subject.generate((5, 6, 7), sampling)
    assert time.monotonic() - killed < 5

    subject.close()
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive


def test_cores_are_read_as_a_list_of_spans() -> None:
    assert parse_cores("0") == {0}
    assert parse_cores("0,2-4") == {0, 2, 3, 4}
    with pytest.raises(ValueError, match="cpu_cores='all'"):
        parse_cores("all")
