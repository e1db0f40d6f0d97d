"""A run that is asked to stop: what it waits for is given up, what it computes is finished, twice asked it ends."""

import asyncio
import os
import signal

import pytest

from orchestrator import stopping as stopping_module
from orchestrator.stopping import Stopped, Stopping


class Driver:
    """Waits, then computes, as a run does; notes how far it came."""

    def __init__(self, patience_s: float = 5.0) -> None:
        self.said: list[str] = []
        self.done: list[str] = []
        self.stopping = Stopping(patience_s, self.said.append)

    async def run(self, *, waits_s: float = 5.0, computes_s: float = 0.0, ask_after_s: float = 0.02) -> str:
        loop = asyncio.get_running_loop()
        with self.stopping.heeded():
            loop.call_later(ask_after_s, os.kill, os.getpid(), signal.SIGTERM)
            self.stopping.guard()
            try:
                async with self.stopping.waiting():
                    await asyncio.sleep(waits_s)
                    self.done.append("waited")
                await asyncio.sleep(computes_s)
                self.done.append("computed")
                self.stopping.boundary()
                return "went on"
            except Stopped:
                return "stopped"
            except asyncio.CancelledError:
                return "cancelled"


def test_a_wait_is_given_up_at_once() -> None:
    driver = Driver()
    assert asyncio.run(driver.run()) == "stopped"
    assert driver.done == []
    assert driver.said == ["stopping at the end of this step, within 5 s; ask again to stop at once"]


def test_a_step_is_finished() -> None:
    driver = Driver()
    assert asyncio.run(driver.run(waits_s=0, computes_s=0.1)) == "stopped"
    assert driver.done == ["waited", "computed"]


def test_patience_has_an_end() -> None:
    assert asyncio.run(Driver(patience_s=0.05).run(waits_s=0, computes_s=5)) == "cancelled"


def test_whoever_has_none_is_cancelled_at_once() -> None:
    driver = Driver(patience_s=0)
    assert asyncio.run(driver.run(waits_s=0, computes_s=5)) == "cancelled"
    assert driver.said == []


def test_one_request_that_comes_twice_is_one() -> None:
    driver = Driver()

    async def twice() -> str:
        asyncio.get_running_loop().call_later(0.03, os.kill, os.getpid(), signal.SIGTERM)
        return await driver.run(waits_s=0, computes_s=0.2)

    assert asyncio.run(twice()) == "stopped"
    assert driver.done == ["waited", "computed"]


def test_asked_again_it_ends_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping_module, "AGAIN_S", 0.01)
    driver = Driver()

    async def twice() -> str:
        asyncio.get_running_loop().call_later(0.06, os.kill, os.getpid(), signal.SIGINT)
        return await driver.run(waits_s=0, computes_s=5)

    assert asyncio.run(twice()) == "cancelled"


def test_as_long_as_nothing_was_made_the_first_word_counts() -> None:
    stopping = Stopping(5.0, print)

    async def starting() -> None:
        with stopping.heeded():
            asyncio.get_running_loop().call_later(0.01, os.kill, os.getpid(), signal.SIGTERM)
            await asyncio.sleep(5)

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(starting())
    assert not stopping.asked


def test_a_timeout_of_what_is_waited_for_stays_one() -> None:
    async def late() -> None:
        async with Stopping(5.0, print).waiting():
            raise TimeoutError("its own")

    with pytest.raises(TimeoutError, match="its own"):
        asyncio.run(late())


def test_nobody_begins_to_wait_once_asked() -> None:
    async def asked() -> bool:
        stopping = Stopping(5.0, lambda _: None)
        stopping.guard()
        task = asyncio.current_task()
        assert task is not None
        with stopping.heeded():
            stopping.ask(task)
            async with stopping.waiting():
                return True

    with pytest.raises(Stopped):
        asyncio.run(asked())
