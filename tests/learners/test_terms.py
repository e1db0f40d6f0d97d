"""Further terms of the loss, by hand and by enumeration."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from learners.options import options_of
from learners.terms import TERMS, TermInput
from learners.terms.divergence import kl_k1, kl_k2, kl_k3, kl_reward
from learners.terms.entropy import entropy, entropy_band, kl_cov

POLICY, OTHER = torch.tensor([0.5, 0.3, 0.2]).double(), torch.tensor([0.2, 0.2, 0.6]).double()


def given(
    logprobs: list[float],
    other: list[float],
    *,
    advantages: list[float] | None = None,
    sequence: list[int] | None = None,
    entropies: list[float] | None = None,
) -> TermInput:
    count = len(logprobs)
    return TermInput(
        torch.tensor(logprobs).requires_grad_(),
        torch.tensor(entropies or [1.0] * count).requires_grad_(),
        torch.tensor(advantages or [0.0] * count),
        torch.tensor(sequence or [0] * count),
        torch.tensor(other),
    )


def expected_gradient(term: Callable[[TermInput], Tensor]) -> list[float]:
    """E over tokens of the policy of the gradient, with respect to the policy's logits."""
    logits = POLICY.log().requires_grad_()
    logprobs = logits.log_softmax(-1)
    nothing = torch.zeros(3)
    losses = term(TermInput(logprobs, nothing, nothing, torch.zeros(3, dtype=torch.int64), OTHER.log()))
    (gradient,) = torch.autograd.grad((POLICY * losses).sum(), logits)
    return [float(slope) for slope in gradient]


def divergence_gradient(divergence: Callable[[Tensor], Tensor]) -> list[float]:
    logits = POLICY.log().requires_grad_()
    (gradient,) = torch.autograd.grad(divergence(logits.log_softmax(-1)), logits)
    return [float(slope) for slope in gradient]


def test_what_each_estimator_of_kl_pulls_towards() -> None:
    reverse = divergence_gradient(lambda log_p: (log_p.exp() * (log_p - OTHER.log())).sum())
    forward = divergence_gradient(lambda log_p: (OTHER * (OTHER.log() - log_p)).sum())
    assert expected_gradient(kl_k1) == pytest.approx([0.0] * 3, abs=1e-12)
    assert expected_gradient(kl_k2) == pytest.approx(reverse)
    assert expected_gradient(kl_k3) == pytest.approx(forward)
    assert expected_gradient(kl_reward) == pytest.approx(reverse)


def test_the_estimators_by_hand() -> None:
    case = given([-1.0], [-1.1])
    assert [term(case).item() for term in (kl_k1, kl_k2, kl_k3)] == pytest.approx([0.1, 0.005, 0.00483742], rel=1e-4)


def test_equal_policies_have_no_divergence_and_no_pull() -> None:
    for term in (kl_k1, kl_k2, kl_k3):
        assert term(given([-1.0, -2.0], [-1.0, -2.0])).tolist() == [0.0, 0.0]
    for term in (kl_k2, kl_k3, kl_reward):
        case = given([-1.0], [-1.0])
        term(case).sum().backward()
        assert case.logprobs.grad is not None
        assert case.logprobs.grad.item() == 0.0


def test_a_penalty_to_go_sums_to_the_end_of_its_own_answer() -> None:
    case = given([-1.0] * 5, [-1.0, -2.0, -3.0, -1.5, -1.0], sequence=[0, 0, 0, 1, 1])
    kl_reward(case, to_go=True).sum().backward()
    assert case.logprobs.grad is not None
    # d = 0, 1, 2 | 0.5, 0.
    assert case.logprobs.grad.tolist() == pytest.approx([3.0, 3.0, 2.0, 0.5, 0.0])


def test_the_bonus_grows_with_entropy() -> None:
    case = given([-1.0], [-1.0], entropies=[0.7])
    loss = entropy(case)
    loss.sum().backward()
    assert loss.item() == pytest.approx(-0.7)
    assert case.entropy.grad is not None
    assert case.entropy.grad.item() == -1.0


def test_a_band_acts_outside_of_it_alone() -> None:
    case = given([-1.0] * 3, [-1.0] * 3, entropies=[0.05, 0.5, 1.25])
    loss = entropy_band(case)
    loss.sum().backward()
    assert loss.tolist() == pytest.approx([0.05, 0.0, 0.25])
    assert case.entropy.grad is not None
    assert case.entropy.grad.tolist() == [-1.0, 0.0, 1.0]
    with pytest.raises(ValueError, match="must not be above"):
        entropy_band(case, low=2.0)


def test_kl_cov_holds_the_tokens_whose_logprob_and_advantage_vary_together() -> None:
    # Means -2 and 0: covariances 2, -2, 2 x 1 ... the greatest is the likely token of the good answer.
    case = given([-0.5, -3.5, -2.0, -2.0], [-1.0] * 4, advantages=[2.0, 1.0, -1.0, -2.0])
    loss = kl_cov(case, share=0.25)
    assert loss.tolist() == pytest.approx([0.5, 0.0, 0.0, 0.0])
    everywhere = kl_cov(case, share=1.0)
    assert everywhere.tolist() == pytest.approx([0.5, 2.5, 1.0, 1.0])
    with pytest.raises(ValueError, match="share=0"):
        kl_cov(case, share=0)


@pytest.mark.parametrize("name", TERMS.names())
def test_every_term_takes_no_token_and_says_where_it_is_from(name: str) -> None:
    assert TERMS[name].loss(given([], [])).shape == (0,)
    doc = TERMS[name].loss.__doc__ or ""
    assert "arXiv" in doc or "Schulman 2020" in doc
    assert all(option in doc for option in options_of(TERMS[name].loss))
