import math

import pytest
import torch

from learners.surrogates import SURROGATES, SurrogateInput, ppo_clip, reinforce


def given(
    ratio: float, advantage: float, *, weight: float = 1.0, low: float = 0.2, high: float = 0.28
) -> SurrogateInput:
    old = torch.tensor([-1.0])
    return SurrogateInput(
        (old + math.log(ratio)).requires_grad_(),
        old,
        torch.tensor([advantage]),
        torch.tensor([weight]),
        low,
        high,
    )


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope", "clipped"),
    [
        # Inside the region: loss -rho A, d/dlogp = -rho A.
        (1.1, 1.0, -1.1, -1.1, (0, 0)),
        (0.9, -2.0, 1.8, 1.8, (0, 0)),
        # Outside on the side that the advantage pushes to: the bound, no gradient.
        (1.5, 1.0, -1.28, 0.0, (0, 1)),
        (0.5, -1.0, 0.8, 0.0, (1, 0)),
        # Outside on the other side: the pessimistic term keeps its gradient.
        (1.5, -1.0, 1.5, 1.5, (0, 0)),
        (0.5, 1.0, -0.5, -0.5, (0, 0)),
    ],
)
def test_ppo_clip_by_hand(ratio: float, advantage: float, loss: float, slope: float, clipped: tuple[int, int]) -> None:
    case = given(ratio, advantage)
    value, seen = ppo_clip(case)
    assert value.item() == pytest.approx(loss, rel=1e-5)
    value.sum().backward()
    assert case.logprobs.grad is not None
    assert case.logprobs.grad.item() == pytest.approx(slope, rel=1e-5)
    assert (seen["clipped_low"].item(), seen["clipped_high"].item()) == clipped
    assert seen["ratio"].item() == pytest.approx(ratio, rel=1e-5)
    assert not seen["ratio"].requires_grad


def test_clip_higher_lets_the_gradient_pass_where_the_even_clip_stops_it() -> None:
    for high, slope in ((0.28, -1.25), (0.2, 0.0)):
        case = given(1.25, 1.0, high=high)
        ppo_clip(case)[0].sum().backward()
        assert case.logprobs.grad is not None
        assert case.logprobs.grad.item() == pytest.approx(slope, rel=1e-5)


@pytest.mark.parametrize("name", ["ppo_clip", "reinforce"])
def test_the_correction_weight_scales_loss_and_gradient(name: str) -> None:
    plain, weighted = given(1.1, 1.5), given(1.1, 1.5, weight=0.3)
    losses = []
    for case in (plain, weighted):
        loss, _ = SURROGATES[name](case)
        loss.sum().backward()
        losses.append(loss.item())
    assert plain.logprobs.grad is not None
    assert weighted.logprobs.grad is not None
    assert losses[1] == pytest.approx(0.3 * losses[0], rel=1e-5)
    assert weighted.logprobs.grad.item() == pytest.approx(0.3 * plain.logprobs.grad.item(), rel=1e-5)


def test_reinforce_has_the_policy_gradient_whatever_the_ratio() -> None:
    case = given(3.0, 2.0)
    loss, seen = reinforce(case)
    loss.sum().backward()
    assert case.logprobs.grad is not None
    assert case.logprobs.grad.item() == -2.0
    assert seen["ratio"].item() == pytest.approx(3.0, rel=1e-5)


def test_gradients_agree_with_finite_differences() -> None:
    generator = torch.Generator().manual_seed(0)
    old = torch.randn(20, generator=generator, dtype=torch.float64) - 2
    start = old + 0.3 * torch.randn(20, generator=generator, dtype=torch.float64)
    advantages = torch.randn(20, generator=generator, dtype=torch.float64)
    weights = torch.rand(20, generator=generator, dtype=torch.float64)
    for name in SURROGATES.names():

        def loss(logprobs: torch.Tensor, name: str = name) -> torch.Tensor:
            return SURROGATES[name](SurrogateInput(logprobs, old, advantages, weights))[0]

        assert torch.autograd.gradcheck(loss, (start.clone().requires_grad_(),))
