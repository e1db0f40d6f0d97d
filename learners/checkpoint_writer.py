"""Checkpoints beside training: the state is copied while nothing trains, and written while the next steps are made.

Invariants:
- `begin` and `finish` are called on all ranks alike (the learner's caller guarantees it), `begin` between two steps:
  what is written is the state of that moment, whatever training does afterwards;
- the write's collectives go through a process group of their own, so that they never meet those of training;
- one write at a time: `begin` waits for the one before, whose failure it raises;
- what is written appears whole or not at all (`learners.checkpoint`).
"""

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist
from torch import Tensor

from learners.checkpoint import save_sharded
from learners.errors import CheckpointError


class CheckpointWriter:
    """Made on all ranks together: it founds a group.

    Args:
        timeout_s: deadline of each collective of a write, and of the wait for one.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        # The copies are the host's, on GPUs too.
        self._group = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_s))
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None

    def begin(self, state: Mapping[str, Tensor], folder: Path) -> None:
        """Copy `state` to the host, and write the copy to `folder` beside whatever comes next.

        Raises:
            CheckpointError: the write before this one failed.
        """
        self.finish()
        copies = {name: tensor.detach().to("cpu", copy=True) for name, tensor in state.items()}
        self._writing = self._thread.submit(save_sharded, copies, folder, self._group)

    def finish(self) -> None:
        """Until the last write has ended. Other threads may wait here while this rank trains.

        Raises:
            CheckpointError: it failed; the next call knows nothing of it.
        """
        writing = self._writing
        if writing is None:
            return
        try:
            writing.result(timeout=self._timeout_s)
        except TimeoutError as error:
            raise CheckpointError(f"the checkpoint was not written within {self._timeout_s:g} s") from error
        finally:
            if self._writing is writing and writing.done():
                self._writing = None
