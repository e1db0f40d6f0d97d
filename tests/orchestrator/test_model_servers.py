"""The servers of a run as real Ray actors: started, killed, replaced, and given up at the end of a budget."""

import asyncio
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path

import psutil
import pytest
from ray.exceptions import RayError

from orchestrator.model_servers import ModelServers
from orchestrator.policies.restart_budget import RestartBudget
from orchestrator.reservation import Reservation
from orchestrator.topology import JudgePlaces
from rewards.models.address import Address
from rewards.models.asking import Message
from rewards.models.client import HttpModel
from rewards.models.settings import ModelSettings
from tests.actors.tiny_model import write_checkpoint

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("cluster")]
PATIENCE_S = 90.0
TINY = ModelSettings(model="tiny", engine="torch", dtype="float32", context_length=128)


class Heard:
    """What the servers told: addresses in order, and the listener's words."""

    def __init__(self) -> None:
        self.addresses: list[Address] = []
        self.words: list[tuple[str, str]] = []

    def tell(self, addresses: Mapping[str, Address]) -> None:
        self.addresses += addresses.values()

    def worker_lost(self, worker: str, reason: str) -> None:
        self.words.append(("lost", worker))

    def model_serves(self, worker: str) -> None:
        self.words.append(("serves", worker))

    def warned(self, message: str) -> None:
        self.words.append(("warned", message))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("model"), tied=True)


def servers(folder: Path, heard: Heard, restarts: int) -> ModelServers:
    return ModelServers(
        {"judge": (TINY, JudgePlaces(), folder)},
        Reservation(),
        tell=heard.tell,
        listener=heard,
        budget=RestartBudget(restarts, 600.0),
        start_timeout_s=PATIENCE_S,
    )


async def says(address: Address) -> str:
    model = HttpModel("judge", ModelSettings(model="tiny", url=address.url), lambda: address, 30.0)
    (said,) = await model.generate([Message("user", "hello")], max_tokens=4)
    await model.close()
    return said


def kill_server() -> None:
    (victim,) = (process for process in psutil.process_iter(["cmdline"]) if _is_ours(process, "ray::ModelServer"))
    os.kill(victim.pid, signal.SIGKILL)


def _is_ours(process: psutil.Process, name: str) -> bool:
    try:
        mine = os.getpid() in [parent.pid for parent in process.parents()]
        return mine and name in " ".join(process.info["cmdline"] or ())
    except psutil.Error:
        return False


async def until(condition: object) -> None:
    assert callable(condition)
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)


def test_a_killed_server_is_replaced_and_the_last_restart_is_the_last(folder: Path) -> None:
    async def run() -> None:
        heard = Heard()
        held = servers(folder, heard, restarts=1)
        try:
            await held.start()
            (first,) = heard.addresses
            assert first.url.startswith("http://127.0.0.1:")
            assert first.key is not None
            assert len(first.key) > 40
            greedy = await says(first)
            kill_server()
            await until(lambda: len(heard.addresses) == 2)
            assert await says(heard.addresses[1]) == greedy
            assert heard.addresses[1].key == first.key
            kill_server()
            await until(lambda: len(heard.words) == 3)
            assert heard.words[:2] == [("lost", "model-judge"), ("serves", "model-judge")]
            assert heard.words[2][0] == "warned"
            assert "go on with their fallbacks" in heard.words[2][1]
        finally:
            await held.close()

    asyncio.run(run())


def test_a_model_that_does_not_load_says_so(folder: Path, tmp_path: Path) -> None:
    async def run() -> None:
        held = servers(tmp_path, Heard(), restarts=1)
        try:
            with pytest.raises(RayError):
                await held.start()
        finally:
            await held.close()

    asyncio.run(run())
