"""Runs a recipe whose learner is killed by SIGKILL after the gradient step of version 2 and before it is published."""

import asyncio
import os
import signal
import sys
from collections.abc import Sequence

from learners.weights import WeightTruth
from orchestrator.cli import main
from orchestrator.learner_group import LearnerGroup

FATAL_VERSION = 2
publish = LearnerGroup.publish


async def killed_publish(
    self: LearnerGroup, version: int, probe_ids: Sequence[int], *, keep: Sequence[int]
) -> WeightTruth:
    if version == FATAL_VERSION:
        pid = await asyncio.wait_for(self._ranks[0].__ray_call__.remote(lambda _: os.getpid()), 30)
        os.kill(pid, signal.SIGKILL)
    return await publish(self, version, probe_ids, keep=keep)


if __name__ == "__main__":
    LearnerGroup.publish = killed_publish  # type: ignore[method-assign]
    sys.argv[1:] = ["train", *sys.argv[1:]]
    main()
