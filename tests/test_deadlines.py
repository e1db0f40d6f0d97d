"""Nothing waits for ever: every wait in the packages has a deadline, or stands below with who ends it."""

from pathlib import Path

import pytest

from tests.unbounded_waits import unbounded_waits

ROOT = Path(__file__).parent.parent
PACKAGES = ("orchestrator", "actors", "learners", "rewards", "deploy")

_WATCHED = "the watchdog: it retries the answer, restarts its worker or stops the run, which fails all answers"
_SHORT = "whoever holds the lock does a few statements that do not wait"
_STEP = "whoever holds the lock computes: one decoding step, one scoring, or one loading of weights that have arrived"
_SENDS = "whoever holds the lock sends one message, within `_SEND_S`"
_CALL = "the timeout in `Connection._tried`, which bounds a call and its repetitions"
_LINE = "every call before it in the line, which `Connection._tried` bounds; it is set however the call ends"
_POOL = "the pool: the child that waits for its word, or for its own fork's end, dies with it"

BOUNDED_ELSEWHERE: dict[tuple[str, str, str], str] = {
    ("orchestrator/deadline.py", "all_within.every", "calls"): "`within`, which awaits it two lines below",
    ("orchestrator/reward_client.py", "RewardClient._score_on", "call.result()"): "it is done: the loop above ended",
    ("orchestrator/rollout_fleet.py", "RolloutFleet.sample", "answer"): _WATCHED,
    ("orchestrator/rollout_plane.py", "RolloutPlane._sample", "tasks"): _WATCHED,
    ("orchestrator/rollout_plane.py", "RolloutPlane._probe", "tasks"): _WATCHED,
    (
        "orchestrator/rollout_plane.py",
        "RolloutPlane._first",
        "asyncio.wait(open_tasks, return_when=asyncio.FIRST_COMPLETED)",
    ): _WATCHED,
    ("actors/torch_engine.py", "TorchEngine.generate", "running.ended"): _WATCHED,
    ("actors/torch_engine.py", "TorchEngine.abort", "self._model_lock"): _STEP,
    ("actors/torch_engine.py", "TorchEngine.pause", "self._model_lock"): _STEP,
    ("actors/torch_engine.py", "TorchEngine.receive_weights", "self._model_lock"): _STEP,
    ("actors/torch_engine.py", "TorchEngine.score", "self._model_lock"): _STEP,
    ("actors/torch_engine.py", "TorchEngine.speculation_stats", "self._model_lock"): _STEP,
    ("actors/torch_engine.py", "TorchEngine._step_for_ever", "self._model_lock"): _STEP,
    (
        "actors/torch_engine.py",
        "TorchEngine._step_for_ever",
        "self._resumed.wait()",
    ): "`shutdown`, which cancels the task; nobody waits for an idle engine",
    (
        "actors/torch_engine.py",
        "TorchEngine._step_for_ever",
        "self._work.wait()",
    ): "`shutdown`, which cancels the task; nobody waits for an idle engine",
    ("actors/vllm_engine.py", "VllmEngine._sample", "outputs.get()"): _WATCHED + "; vLLM fails it if its process dies",
    (
        "actors/vllm_engine.py",
        "VllmEngine._prompt_logprobs",
        "self._alive.generate(prompt, params, request_id)",
    ): "`VllmEngine._call`, through which alone it is awaited",
    ("actors/vllm_engine.py", "VllmEngine._call", "task.result()"): "it is done: the loop above ended",
    (
        "actors/vllm_worker.py",
        "NcclTransferEngine.init_transfer_engine",
        "uid_init_process_group(token, self.rank(), init_info.world_size, device)",
    ): "`VllmEngine.open_channel` gives the engine up after the channel's timeout",
    (
        "actors/weight_broadcast.py",
        "broadcast",
        "group.broadcast([packed], options).wait()",
    ): "the timeout in `options`, set in the line before",
    (
        "actors/weight_channel.py",
        "NcclSender.connect.join",
        "uid_init_process_group(token, 0, self.address.world_size, device)",
    ): "`NcclSender._within_timeout`, which gives its thread up",
    (
        "rewards/asked_terms.py",
        "_called",
        "answer",
    ): "`patience` in `AskedTerms._asked`; a term's example waits for nobody",
    ("rewards/asked_terms.py", "_all", "scorings"): "`patience` in `AskedTerms._asked`, for each of them",
    ("rewards/asking_pool.py", "AskingPool.score", "self._lock"): _SENDS,
    ("rewards/asking_pool.py", "AskingPool.readdress", "self._lock"): _SENDS,
    ("rewards/asking_pool.py", "AskingPool._kill", "self._lock"): _SENDS,
    ("rewards/asking_pool.py", "AskingPool._one_life", "self._lock"): _SENDS,
    ("rewards/asking_pool.py", "AskingPool._listen", "self._lock"): _SENDS,
    ("rewards/asking_pool.py", "AskingPool._given_up", "self._lock"): _SENDS,
    ("rewards/models/client.py", "HttpModel._reply", "known.begun.wait()"): _LINE,
    ("rewards/models/client.py", "HttpModel._reply", "known.reply"): _CALL,
    ("rewards/models/connection.py", "Connection._once", "reply.aiter_bytes()"): _CALL,
    ("rewards/child_pool.py", "ChildPool.cancel", "self._count_lock"): _SHORT,
    ("rewards/child_pool.py", "ChildPool._waiting_for", "self._count_lock"): _SHORT,
    ("rewards/child_pool.py", "ChildPool._cancellable", "self._count_lock"): _SHORT,
    ("rewards/compose.py", "Reward._called.awaited", "answer"): "the pool, which kills the child at its deadline",
    ("rewards/lives.py", "_outlive", "select.select(watched, [], [], None)"): _POOL,
    ("rewards/lives.py", "_outlive", "control.recv(PID.size)"): "it is there: `select` said so",
    ("rewards/lives.py", "_end", "os.waitpid(pid, 0)"): "the SIGKILL in the lines before",
    (
        "rewards/sandbox/probe_program.py",
        "has_more_processes",
        "signal.pause()",
    ): "the probe, which kills it, and the time of its run",
    (
        "rewards/sandbox/probe_program.py",
        "has_more_processes",
        "os.waitpid(pid, 0)",
    ): "the line above, which killed it, and the time of the run",
    (
        "rewards/sandbox/template.py",
        "_build_and_serve",
        "os.waitpid(first, 0)",
    ): "the time of the job, which the first process keeps inside and `supervise` outside",
    ("rewards/scoring_child.py", "ScoringChild.start", "self._lock"): _SHORT + ", or starts a process",
    ("rewards/scoring_child.py", "ScoringChild.kill", "self._lock"): _SHORT + ", or starts a process",
    ("rewards/scoring_child.py", "ScoringChild.retire", "self._lock"): _SHORT + ", or starts a process",
    ("rewards/scoring_child.py", "ScoringChild._end_life", "self._lock"): _SHORT + ", or starts a process",
    ("rewards/scoring_child.py", "ScoringChild._wait_born", "self._lock"): _SHORT + ", or starts a process",
    (
        "rewards/wire.py",
        "Channel._exactly",
        "self._socket.recv(min(size - len(received), 1 << 20))",
    ): "`receive_reply`, whose timeout is not optional; the child that waits for work dies with its parent",
}
"""(file, function, wait): who ends it."""


def waits_in_the_packages() -> dict[tuple[str, str, str], int]:
    """Every wait without a deadline of its own, and its line."""
    return {
        (path.relative_to(ROOT).as_posix(), wait.function, wait.text): wait.line
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
        for wait in unbounded_waits(path.read_text(encoding="utf-8"))
    }


def test_every_wait_has_a_deadline_or_somebody_who_ends_it() -> None:
    unexplained = [
        f"{file}:{line} {function}: {text}"
        for (file, function, text), line in waits_in_the_packages().items()
        if (file, function, text) not in BOUNDED_ELSEWHERE
    ]
    assert unexplained == []


def test_no_explanation_outlives_its_wait() -> None:
    assert BOUNDED_ELSEWHERE.keys() - waits_in_the_packages().keys() == set()


FOR_EVER = [
    "import ray\nray.get(ref)",
    "import ray\nray.get(ref, timeout=None)",
    "import ray\nray.wait(refs, num_returns=2)",
    "from ray import get as fetch\nfetch(ref)",
    "await worker.step.remote()",
    "await worker.step.options(num_cpus=1).remote()",
    "import asyncio\nawait asyncio.gather(a.step.remote(), work())",
    "import asyncio\nawait asyncio.gather(*[a.step.remote() for a in actors])",
    "import asyncio\nawait asyncio.gather(*tasks)",
    "import asyncio\nawait asyncio.gather(*[*self.tasks])",
    "import asyncio\nawait asyncio.shield(task)",
    "import asyncio\nawait asyncio.wait(tasks)",
    "import asyncio\nawait asyncio.wait(tasks, timeout=None)",
    "import asyncio\nawait asyncio.wait_for(work(), None)",
    "import asyncio\nfor done in asyncio.as_completed(tasks): print(done)",
    "await task",
    "await self.task",
    "await self.tasks['a']",
    "await (first if ready else work())",
    "await event.wait()",
    "await queue.get()",
    "await queue.join()",
    "async for token in stream(): print(token)",
    "tokens = [token async for token in stream()]",
    "async with self._lock: pass",
    "with self._lock: pass",
    "import threading\nwith threading.Lock(): pass",
    "async with TaskGroup() as group: pass",
    "with ThreadPoolExecutor() as pool: pass",
    "import subprocess\nwith subprocess.Popen(['ls']) as process: pass",
    "future.result()",
    "future.result(timeout=None)",
    "thread.join()",
    "process.wait()",
    "process.communicate(b'text')",
    "event.wait(None if patience is None else 5)",
    "condition.wait_for(is_ready)",
    "lock.acquire()",
    "lock.acquire(True)",
    "queue.get()",
    "queue.get(True)",
    "queue.get(timeout=None)",
    "import subprocess\nsubprocess.run(['ls'], check=True)",
    "from subprocess import check_output\ncheck_output(['ls'])",
    "import os\nos.system('ls')",
    "import os\nos.waitpid(pid, 0)",
    "import torch.distributed as dist\ndist.init_process_group('gloo')",
    "import torch.distributed as dist\ndist.new_group([0, 1])",
    "import socket\nsocket.create_connection(address)",
    "import urllib.request\nurllib.request.urlopen(url)",
    "listener.accept()",
    "connection.recv()",
    "connection.poll(None)\nconnection.recv()",
    "end.settimeout(None)\nend.recv(4)",
    "import asyncio\nasync with asyncio.timeout(None):\n    await task",
    "import asyncio\nasync with asyncio.timeout(5):\n    future.result()",
    "import asyncio\nasync with asyncio.timeout(5):\n    async def later():\n        await task",
    "def poll():\n    end.settimeout(5)\nend.recv(4)",
]

IN_TIME = [
    "import ray\nray.get(ref, timeout=5)",
    "import ray\nray.wait(refs, timeout=patience)",
    "await within(5, worker.step.remote(), 'worker')",
    "await all_within(5, [a.step.remote() for a in actors], 'workers')",
    "await deadline.within(5, task, 'task')",
    "import asyncio\nawait asyncio.gather(a(), self.b(), *[c(x) for x in xs])",
    "import asyncio\nawait asyncio.gather(within(5, a.step.remote(), 'a'), b())",
    "import asyncio\nawait asyncio.wait(tasks, timeout=5)",
    "import asyncio\nawait asyncio.wait_for(event.wait(), 5)",
    "import asyncio\nawait asyncio.wait_for(queue.get(), timeout=left)",
    "import asyncio\nasync with asyncio.timeout(5):\n    await task\n    async with lock: pass",
    "import asyncio\nawait asyncio.to_thread(work)",
    "import asyncio\nawait asyncio.sleep(1)",
    "await work()",
    "await self.work()",
    "await (first() if ready else work())",
    "future.result(5)",
    "thread.join(timeout=5)",
    "process.wait(5)",
    "process.communicate(b'text', 5)",
    "process.communicate(timeout=5)",
    "condition.wait_for(is_ready, 5)",
    "lock.acquire(timeout=5)",
    "lock.acquire(blocking=False)",
    "lock.acquire(False)",
    "queue.get(timeout=5)",
    "queue.get(block=False)",
    "queue.get(True, 5)",
    "table.get(key)",
    "table.get(key, None)",
    "', '.join(names)",
    "separator.join(names)",
    "import os\nos.path.join('a', 'b')",
    "import os\nos.waitpid(pid, os.WNOHANG)",
    "import subprocess\nsubprocess.run(['ls'], timeout=5)",
    "import subprocess\nsubprocess.Popen(['ls'])",
    "import torch.distributed as dist\ndist.init_process_group('gloo', timeout=limit)",
    "import socket\nsocket.create_connection(address, 5)",
    "import urllib.request\nurllib.request.urlopen(url, timeout=5)",
    "end.settimeout(5)\nend.recv(4)",
    "if connection.poll(5): connection.recv()",
    "import select\nselect.select([end], [], [], 5)\nend.recv(4)",
    "with open(path) as file: pass",
    "with self._clock: pass",
    "for token in tokens: pass",
]


def inside_a_function(snippet: str) -> str:
    body = "\n".join(f"        {line}" for line in snippet.splitlines())
    return f"class Owner:\n    async def wait_here(self):\n{body}\n"


@pytest.mark.parametrize("snippet", FOR_EVER)
def test_a_wait_without_a_deadline_is_found_once(snippet: str) -> None:
    (found,) = unbounded_waits(inside_a_function(snippet))
    assert found.function.startswith("Owner.wait_here")
    assert found.text in snippet


@pytest.mark.parametrize("snippet", IN_TIME)
def test_a_wait_in_time_is_accepted(snippet: str) -> None:
    assert unbounded_waits(inside_a_function(snippet)) == []


def test_the_packages_are_read() -> None:
    assert all(any((ROOT / package).rglob("*.py")) for package in PACKAGES)
