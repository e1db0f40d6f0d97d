"""One packed buffer on its way from the sender (rank 0) to every worker of a gloo channel, within a deadline."""

import time
from datetime import timedelta

import torch
from torch.distributed import BroadcastOptions, ProcessGroupGloo

_LEAST_S = 0.001
"""Gloo takes a timeout of 0 for none given."""


def broadcast(group: ProcessGroupGloo, packed: torch.Tensor, deadline: float) -> None:
    """Send (on rank 0) or fill (elsewhere) this buffer; blocks.

    Args:
        packed: [bytes] uint8.
        deadline: in seconds of `time.monotonic`.

    Raises:
        RuntimeError: another rank died, or did not take part in time.
    """
    options = BroadcastOptions()
    options.rootRank = 0
    options.timeout = timedelta(seconds=max(_LEAST_S, deadline - time.monotonic()))
    group.broadcast([packed], options).wait()
