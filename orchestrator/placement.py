"""Which accelerators each actor gets, and over what weights travel between them. Pure: a recipe and a count in.

With enough GPUs each learner rank has one and each engine `tensor_parallel` of them, and weights travel over NCCL. On
a machine with a single GPU one engine and one rank share it; NCCL cannot join two processes on one GPU, so weights
then take the way through main memory (gloo).
"""

import math
from dataclasses import dataclass
from typing import Literal

from orchestrator.config import Recipe
from orchestrator.errors import SettingError

Device = Literal["cpu", "gpu"]
SHARED_MEMORY_SHARE = 0.45
"""Of a shared GPU's memory, at most what the engine takes; the learner needs the rest."""


@dataclass(frozen=True, slots=True)
class Placement:
    """GPUs of one engine and of one learner rank (fractions share a GPU), and the weights' way between them."""

    device: Device
    engine_gpus: float
    rank_gpus: float
    transfer: Literal["gloo", "nccl"]
    gpu_memory_utilization: float


def place(recipe: Recipe, *, gpus: int) -> Placement:
    """Args:
    gpus: how many this machine has; not looked at where the recipe joins a cluster.

    Raises:
        SettingError: the recipe asks for more than there is.
    """
    rollout = recipe.rollout
    memory = rollout.gpu_memory_utilization
    joins_cluster = recipe.ray.address is not None
    if recipe.device == "gpu" and not gpus and not joins_cluster:
        fix = "set device=cpu or ray.address=..."
        raise SettingError("device", "the recipe asks for a GPU and this machine has none", fix)
    if recipe.device == "cpu" or (recipe.device == "auto" and not gpus):
        if recipe.trainer.cpu_offload:
            raise SettingError("trainer.cpu_offload", "the learner runs on the CPU already", "leave it out")
        return Placement("cpu", 0, 0, "gloo", memory)
    gpus -= math.ceil(sum(model.gpus for model in recipe.reward.models.values() if model.served))
    needed = rollout.workers * rollout.tensor_parallel + recipe.trainer.ranks
    if joins_cluster or needed <= gpus:
        return Placement("gpu", rollout.tensor_parallel, 1, "nccl", memory)
    if needed == 2:
        return Placement("gpu", 0.5, 0.5, "gloo", min(memory, SHARED_MEMORY_SHARE))
    raise SettingError(
        "rollout.workers",
        f"{rollout.workers} engines of {rollout.tensor_parallel} GPUs and {recipe.trainer.ranks} learner ranks need "
        f"{needed} GPUs, this machine has {max(gpus, 0)} for them",
        "use fewer, or set ray.address to a cluster",
    )
