"""What one optimizer step would be made from, before anything divides or clips it."""

from collections.abc import Sequence

import torch
from torch.distributed.tensor import DTensor

from learners.batch import TrainSequence
from learners.learner import Learner


def gradient_sums(learner: Learner, sequences: Sequence[TrainSequence], version: int = 3) -> dict[str, torch.Tensor]:
    """Full gradients by the parameters' names in the model; the learner is left as it was. A collective."""
    learner.begin_step(version)
    learner.add(tuple(sequences))
    sums = {
        name: (grad.full_tensor() if isinstance(grad, DTensor) else grad).clone()
        for name, grad in ((name, value.grad) for name, value in learner._policy.model.named_parameters())
        if grad is not None
    }
    learner.abandon_step()
    return sums


def assert_same_gradients(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], tolerance: float) -> None:
    """Equal up to a share of each tensor's largest entry."""
    assert one.keys() == other.keys()
    for name, value in one.items():
        size = other[name].abs().max().item()
        assert size > 0, f"{name} has no gradient at all: nothing is compared"
        torch.testing.assert_close(value, other[name], atol=tolerance * size, rtol=0, msg=lambda m, n=name: f"{n}: {m}")
