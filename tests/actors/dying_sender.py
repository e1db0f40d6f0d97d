"""A sender of weights in a process of its own that is killed (SIGKILL) when each receiver has half of an update."""

import multiprocessing
import os
import signal
import time
from multiprocessing.connection import Connection

import torch

from actors.engine import ChannelAddress
from actors.gloo_group import join_gloo_group
from actors.weight_broadcast import broadcast
from actors.weight_rendezvous import Rendezvous
from actors.weight_wire import BUFFER_BYTES, plan_buffers
from learners.weights import TensorSpec, WeightManifest

_START_S = 60.0
"""The process imports torch."""


def two_buffers(version: int = 1) -> WeightManifest:
    """An update that takes two transfers."""
    size = (BUFFER_BYTES // 2 + 1,)
    return WeightManifest(version, (TensorSpec("a", "uint8", size), TensorSpec("b", "uint8", size)))


class DyingSender:
    """One channel to each of `addresses`; receivers join them and receive `two_buffers(version)`."""

    def __init__(self, channels: int, timeout_s: float, version: int = 1) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_send_half, args=(theirs, channels, timeout_s, version), daemon=True)
        self._process.start()
        assert self._pipe.poll(_START_S)
        self.addresses: list[ChannelAddress] = self._pipe.recv()

    def kill_halfway(self) -> None:
        """Wait until every receiver has the first buffer, then kill the process with the second still to come."""
        assert self._pipe.poll(_START_S)
        assert self._pipe.recv() == "half"
        pid = self._process.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        self._process.join(_START_S)
        assert self._process.exitcode == -signal.SIGKILL


def _send_half(pipe: Connection, channels: int, timeout_s: float, version: int) -> None:
    rendezvous = [Rendezvous.serve("gloo", "127.0.0.1", 1, timeout_s) for _ in range(channels)]
    pipe.send([channel.address for channel in rendezvous])
    groups = [join_gloo_group(channel, rank=0) for channel in rendezvous]
    first = plan_buffers(two_buffers(version))[0]
    for channel, group in zip(rendezvous, groups, strict=True):
        channel.announce(two_buffers(version))
        broadcast(group, torch.zeros(first.nbytes, dtype=torch.uint8), time.monotonic() + timeout_s)
    pipe.send("half")
    time.sleep(_START_S)
