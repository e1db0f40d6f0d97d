"""The critic's loss and its gradient, by hand."""

import pytest
import torch

from learners.critic.value_loss import value_loss


def gradient(value: float, start: float, target: float, clip: float | None) -> tuple[float, float, bool]:
    """Loss, its slope in the value, and whether the clip took that away."""
    values = torch.tensor([value], requires_grad=True)
    loss, clipped = value_loss(values, torch.tensor([start]), torch.tensor([target]), clip)
    loss.sum().backward()
    assert values.grad is not None
    return loss.item(), values.grad.item(), bool(clipped.item())


@pytest.mark.parametrize(
    ("value", "start", "target", "clip", "expected"),
    [
        # No clip: (0.5 - 2)^2 / 2, slope V - R.
        (0.5, 0.0, 2.0, None, (1.125, -1.5, False)),
        # Moved 0.5 towards 2, allowed are 0.2: judged as 0.2 would be, and pushed no further.
        (0.5, 0.0, 2.0, 0.2, (1.62, 0.0, True)),
        # Within the allowed way.
        (0.1, 0.0, 2.0, 0.2, (1.805, -1.9, False)),
        # Moved away from its target: nothing keeps it from going back.
        (-0.5, 0.0, 2.0, 0.2, (3.125, -2.5, False)),
        # Beyond its target by less than the clip moves it.
        (0.5, 0.0, 0.4, 0.2, (0.02, 0.0, True)),
    ],
)
def test_examples(
    value: float, start: float, target: float, clip: float | None, expected: tuple[float, float, bool]
) -> None:
    loss, slope, clipped = gradient(value, start, target, clip)
    assert (loss, slope) == pytest.approx(expected[:2], rel=1e-5)
    assert clipped is expected[2]
