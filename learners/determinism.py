"""The switch that makes a process compute the same bits from the same inputs."""

import os

import torch


def repeat_to_the_bit(seed: int) -> None:
    """From now on every operation gives the same bits each time, or raises; and random draws come from `seed`.

    To be called before the first use of a GPU. The number of threads and of ranks belongs to the inputs: sums in
    another order are other sums.
    """
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # what cuBLAS needs for it
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    torch.manual_seed(seed)
