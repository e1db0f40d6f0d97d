"""What the optimizer sees of a summed gradient; AdamW's own arithmetic hides its scale, its first moment does not."""

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from learners.optimizer import ShardedAdamW
from learners.settings import TrainerSettings
from tests.learners.ranks import single_rank


@pytest.fixture(autouse=True)
def group() -> Iterator[None]:
    with single_rank():
        yield


@pytest.mark.parametrize(
    ("divisor", "limit", "norm", "seen"),
    [
        # Summed gradient (3, 4): divided, then clipped to the limit.
        (1, 10.0, 5.0, (3.0, 4.0)),
        (4, 10.0, 1.25, (0.75, 1.0)),
        (4, 0.5, 1.25, (0.3, 0.4)),
    ],
)
def test_gradients_are_divided_before_they_are_clipped(
    divisor: int, limit: float, norm: float, seen: tuple[float, float]
) -> None:
    weight = nn.Parameter(torch.zeros(1, 2))
    optimizer = ShardedAdamW({"w": weight}, TrainerSettings(max_grad_norm=limit, betas=(0.9, 0.95)))
    weight.grad = torch.tensor([[3.0, 4.0]])
    optimizer.begin_step()
    assert optimizer.update(divisor) == pytest.approx(norm)
    assert optimizer.state()["exp_avg.w"][0].tolist() == pytest.approx([0.1 * value for value in seen], rel=1e-5)
    assert weight.grad is None


def test_a_gradient_of_zero_is_an_update_like_any_other() -> None:
    weight = nn.Parameter(torch.ones(1, 2))
    optimizer = ShardedAdamW({"w": weight}, TrainerSettings())
    weight.grad = torch.zeros(1, 2)
    assert optimizer.update(7) == 0.0
    assert weight.tolist() == [[1.0, 1.0]]


def test_discarded_gradients_are_gone() -> None:
    weight = nn.Parameter(torch.ones(1, 2))
    optimizer = ShardedAdamW({"w": weight}, TrainerSettings())
    weight.grad = torch.ones(1, 2)
    optimizer.discard()
    assert weight.grad is None
