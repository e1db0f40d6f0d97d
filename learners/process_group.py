"""Joining and leaving the learner's process group, and sums over it. One per process; gloo on the CPU, NCCL on GPUs.

Every collective of the group inherits its timeout, so a lost rank ends the others with an error, never a hang.
"""

import os
from contextlib import ExitStack
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from learners.own_address import own_interface

INTERFACE = "GLOO_SOCKET_IFNAME"
"""Where gloo looks up the network it takes, for this group and those made from it; a user's own choice stands."""
_on_leaving = ExitStack()
"""Takes back what joining set."""


def join_process_group(
    rank: int, world_size: int, host: str, port: int, device: torch.device, timeout_s: float, *, offload: bool = False
) -> None:
    """Meet the other ranks at rank 0's address; blocks until all are there.

    Args:
        host, port: where rank 0 listens; the port must be free there.
        timeout_s: deadline of the meeting, and of every collective after it.
        offload: tensors in main memory take part in collectives beside those on the GPU.

    Raises:
        RuntimeError: this process has joined a group already.
        torch.distributed.DistError: a rank did not come in time.
    """
    if dist.is_initialized():
        raise RuntimeError("this process is in a process group already: leave it first")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if INTERFACE not in os.environ and (interface := own_interface(host, port)) is not None:
        os.environ[INTERFACE] = interface
        _on_leaving.callback(os.environ.pop, INTERFACE, None)
    dist.init_process_group(
        backend=("cpu:gloo,cuda:nccl" if offload else "nccl") if device.type == "cuda" else "gloo",
        init_method=f"tcp://{host}:{port}",
        rank=rank,
        world_size=world_size,
        timeout=timedelta(seconds=timeout_s),
        device_id=device if device.type == "cuda" else None,
    )


def leave_process_group() -> None:
    """Idempotent. What this process starts afterwards may lie on another network: it inherits no interface."""
    if dist.is_initialized():
        dist.destroy_process_group()
    _on_leaving.close()


def sum_over_ranks(values: Tensor) -> Tensor:
    """The sum of every rank's tensor, on the device where the argument lies, which it leaves alone; a collective."""
    if dist.get_world_size() == 1:
        return values
    total = values.cuda() if dist.get_backend() == "nccl" else values.clone()
    dist.all_reduce(total)
    return total.to(values.device)
