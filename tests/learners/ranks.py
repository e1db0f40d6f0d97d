"""Runs a function on the ranks of a real gloo group, one process each, with a deadline."""

import multiprocessing
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp

from learners.process_group import join_process_group, leave_process_group

CPU = torch.device("cpu")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def single_rank(device: torch.device = CPU) -> Iterator[None]:
    """A group of one, in this process."""
    join_process_group(0, 1, "127.0.0.1", free_port(), device, timeout_s=60)
    try:
        yield
    finally:
        leave_process_group()


def run_ranks(
    world_size: int, work: Callable[..., object], *arguments: object, folder: Path, deadline_s: float = 120.0
) -> list[Any]:
    """`work(rank, world_size, *arguments)` on every rank; returns the results by rank.

    `work` must be importable by name. Processes that outlive the deadline are killed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # Ranks fork from a server that has imported torch once and done nothing else.
    multiprocessing.set_forkserver_preload(["learners.learner"])
    context = mp.start_processes(
        _enter,
        args=(world_size, free_port(), folder, work, arguments),
        nprocs=world_size,
        join=False,
        start_method="forkserver",
    )
    until = time.monotonic() + deadline_s
    try:
        while not context.join(timeout=1.0):
            assert time.monotonic() < until, f"ranks did not finish within {deadline_s} s"
    finally:
        for process in context.processes:
            process.kill()
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(world_size)]


def _enter(
    rank: int,
    world_size: int,
    port: int,
    folder: Path,
    work: Callable[..., object],
    arguments: tuple[object, ...],
) -> None:
    torch.set_num_threads(1)
    join_process_group(rank, world_size, "127.0.0.1", port, CPU, timeout_s=60)
    try:
        torch.save(work(rank, world_size, *arguments), folder / f"{rank}.pt")
    finally:
        leave_process_group()
