import math

import pytest
import torch

from learners.drafters.errors import DrafterError
from learners.drafters.losses import LOSSES, LossInput, acceptance, check_losses, combined
from learners.registry import UnknownNameError

P = torch.tensor([[0.5, 0.25, 0.25], [1.0, 0.0, 0.0]])
Q = torch.tensor([[0.25, 0.25, 0.5], [0.5, 0.25, 0.25]])


def _given(draft: torch.Tensor | None = None, hidden: torch.Tensor | None = None) -> LossInput:
    truth = torch.tensor([[0.0, 1.0], [2.0, 2.0]])
    return LossInput(P.clamp(min=1e-30).log(), Q.log() if draft is None else draft, truth, hidden)


def test_soft_cross_entropy() -> None:
    found = LOSSES["soft_cross_entropy"](_given())
    assert found.tolist() == pytest.approx([0.75 * math.log(4) + 0.25 * math.log(2), math.log(2)])


def test_expected_acceptance_is_the_total_variation_distance() -> None:
    found = LOSSES["expected_acceptance"](_given())
    assert found.tolist() == pytest.approx([0.25, 0.5])
    assert found.tolist() == pytest.approx(((P - Q).abs().sum(-1) / 2).tolist())
    assert acceptance(P.log(), P.log()).tolist() == pytest.approx([1.0, 1.0])


def test_hidden_smooth_l1_is_square_near_zero_and_straight_beyond() -> None:
    found = LOSSES["hidden_smooth_l1"](_given(hidden=torch.tensor([[0.5, 1.0], [2.0, 5.0]])))
    assert found.tolist() == pytest.approx([0.125 / 2, 2.5 / 2])
    with pytest.raises(DrafterError, match="kind=eagle"):
        LOSSES["hidden_smooth_l1"](_given())


@pytest.mark.parametrize("name", ["soft_cross_entropy", "expected_acceptance"])
def test_gradients_in_the_logits(name: str) -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    target = P.clamp(min=1e-9).log().double()

    def loss(given: torch.Tensor) -> torch.Tensor:
        return LOSSES[name](LossInput(target, given.log_softmax(-1), torch.zeros(2, 1), None))

    assert torch.autograd.gradcheck(loss, (logits,))
    loss(logits).sum().backward()
    q = logits.detach().softmax(-1)
    if name == "soft_cross_entropy":
        wanted = q - target.exp()
    else:  # d/dz of -sum min(p, q): only tokens of which q has too little pull, each by q (1 - ...).
        short = (q < target.exp()).double()
        wanted = -(short * q - q * (short * q).sum(-1, keepdim=True))
    torch.testing.assert_close(logits.grad, wanted, atol=1e-7, rtol=1e-6)


def test_gradients_in_the_hidden_states() -> None:
    hidden = torch.tensor([[0.5, 1.0], [2.0, 5.0]], dtype=torch.float32, requires_grad=True)
    LOSSES["hidden_smooth_l1"](_given(hidden=hidden)).sum().backward()
    assert hidden.grad is not None
    assert hidden.grad.tolist() == [[0.25, 0.0], [0.0, 0.5]]


def test_combinations_are_weighted_sums() -> None:
    hidden = torch.tensor([[0.5, 1.0], [2.0, 5.0]])
    total, parts = combined(_given(hidden=hidden), {"soft_cross_entropy": 0.5, "hidden_smooth_l1": 2.0})
    torch.testing.assert_close(total, 0.5 * parts["soft_cross_entropy"] + 2 * parts["hidden_smooth_l1"])


def test_impossible_losses_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'soft_cross_entropy'"):
        check_losses({"soft_crossentropy": 1.0}, guesses_hidden=True)
    with pytest.raises(DrafterError, match="hidden_smooth_l1 needs a drafter"):
        check_losses({"hidden_smooth_l1": 1.0}, guesses_hidden=False)
    with pytest.raises(DrafterError, match="weight 0"):
        check_losses({"soft_cross_entropy": 0.0}, guesses_hidden=True)
    with pytest.raises(DrafterError, match="empty"):
        check_losses({}, guesses_hidden=True)
