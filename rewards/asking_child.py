"""An asking child: the program that a pool starts as `python -m rewards.asking_child SOCKET PARENT_PID`.

It runs the terms that ask models, for any number of prompts at a time, and says so often that it is alive: where it
falls silent, something in it computes without end, and the pool kills it.
"""

import asyncio
import os
import pickle
import socket
import sys
from collections.abc import Mapping

from rewards.asked_terms import AskedTerms
from rewards.confinement import die_with_parent, limit_memory
from rewards.entries import RewardSetupError, one_line
from rewards.models.address import Address
from rewards.models.asking import Model
from rewards.models.client import HttpModel
from rewards.settings import RewardSettings
from rewards.wire import LENGTH, AskRequest, Channel, ChannelClosedError, Reply, as_bytes

BEAT_S = 0.5


def main(control_fd: int, parent_pid: int) -> None:
    die_with_parent(parent_pid)
    # What a term prints belongs in the log, and stdout may be a pipe that somebody parses.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    control = socket.socket(fileno=control_fd)
    try:
        settings = RewardSettings.model_validate_json(Channel(control).receive())
        asyncio.run(_live(settings, control))
    except (ChannelClosedError, BrokenPipeError, ConnectionResetError):
        return  # the pool is gone


async def _live(settings: RewardSettings, control: socket.socket) -> None:
    where: dict[str, Address] = {}
    models: Mapping[str, Model] = {
        name: HttpModel(name, model, lambda name=name: where.get(name), settings.call_timeout_s(name))  # type: ignore[misc]
        for name, model in settings.models.items()
    }
    channel = Channel(control)
    try:
        terms = AskedTerms(settings, models)
        await terms.warm_up()
    except RewardSetupError as refusal:
        channel.send_reply(Reply("refused", reason=str(refusal)))
        return
    except Exception as raised:  # noqa: BLE001 - whatever a library's first use raises; the pool reports it
        channel.send_reply(Reply("refused", reason=one_line("reward.terms", raised)))
        return
    channel.send_reply(Reply("ready", groups=terms.sees_groups))
    limit_memory(settings.memory_mb)
    control.setblocking(False)
    reader, writer = await asyncio.open_connection(sock=control)
    await _Life(terms, where, reader, writer).serve()


class _Life:
    """Args: where: the models' addresses, which messages of the pool change."""

    def __init__(
        self, terms: AskedTerms, where: dict[str, Address], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._terms, self._where, self._reader, self._writer = terms, where, reader, writer
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self) -> None:
        beating = asyncio.create_task(self._beat())
        try:
            while True:
                # No deadline: an idle child waits for work as long as its parent lives, and dies with it.
                (length,) = LENGTH.unpack(await self._reader.readexactly(LENGTH.size))
                message = pickle.loads(await self._reader.readexactly(length))
                if isinstance(message, AskRequest):
                    task = asyncio.create_task(self._answer(message))
                    self._tasks.add(task)
                    task.add_done_callback(self._ended)
                else:
                    self._where.update(message)
        except asyncio.IncompleteReadError:
            return  # the pool is gone
        finally:
            beating.cancel()

    async def _answer(self, request: AskRequest) -> None:
        self._say(Reply("scores", await self._terms.score(request), ticket=request.ticket))

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            os._exit(1)  # out of memory: a fresh process is cheaper than a second failure

    async def _beat(self) -> None:
        while True:
            self._say(Reply("alive"))
            await asyncio.sleep(BEAT_S)

    def _say(self, reply: Reply) -> None:
        payload = as_bytes(reply)
        self._writer.write(LENGTH.pack(len(payload)) + payload)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]))
