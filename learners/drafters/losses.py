"""Losses of a drafter against its target: pure functions of one row's distributions or hidden states, by name.

Every loss gives [N] float32, one value per row, lower is better, differentiable in the drafter's part alone. Logits
come divided by the sampling temperature. With p the target's distribution and q the drafter's:
- a drafted token is accepted with probability sum_x min(p(x), q(x)) (Leviathan et al., arXiv 2211.17192);
- that sum is what speculation wants high, and cross-entropy is its smooth stand-in.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from learners.drafters.errors import DrafterError
from learners.registry import Registry


@dataclass(frozen=True, slots=True, eq=False)
class LossInput:
    """N rows of one draft position.

    Attributes:
        target_logprobs: [N, V] float32 log p, without gradient.
        draft_logprobs: [N, V] float32 log q.
        target_hidden: [N, H] the target's states that its head reads, without gradient.
        draft_hidden: [N, H] the drafter's guess at them; None where the kind makes none.
    """

    target_logprobs: Tensor
    draft_logprobs: Tensor
    target_hidden: Tensor
    draft_hidden: Tensor | None


Loss = Callable[[LossInput], Tensor]
LOSSES: Registry[Loss] = Registry("drafter.losses")

HIDDEN_LOSSES = frozenset({"hidden_smooth_l1"})
"""Losses that need a drafter which guesses hidden states."""


@LOSSES.register("soft_cross_entropy")
def soft_cross_entropy(given: LossInput) -> Tensor:
    """-sum_x p(x) log q(x): cross-entropy against the target's whole distribution (EAGLE, arXiv 2401.15077)."""
    return -(given.target_logprobs.exp() * given.draft_logprobs).sum(-1)


@LOSSES.register("hidden_smooth_l1")
def hidden_smooth_l1(given: LossInput) -> Tensor:
    """mean_i s(f_i - g_i), s(d) = d^2 / 2 for |d| < 1, |d| - 1/2 beyond: EAGLE's regression (arXiv 2401.15077).

    Raises:
        DrafterError: the drafter guesses no hidden states.
    """
    if given.draft_hidden is None:
        raise DrafterError("loss hidden_smooth_l1 needs a drafter that guesses hidden states: kind=eagle")
    distance = functional.smooth_l1_loss(given.draft_hidden.float(), given.target_hidden.float(), reduction="none")
    return distance.mean(-1)


@LOSSES.register("expected_acceptance")
def expected_acceptance(given: LossInput) -> Tensor:
    """1 - sum_x min(p(x), q(x)), the chance that a draft is refused; equals the total variation distance of p and q.

    Trained on directly by LK losses (arXiv 2602.23881). Where p and q hardly overlap its gradient is small: combine it
    with cross-entropy for a drafter that is new.
    """
    return 1 - acceptance(given.target_logprobs, given.draft_logprobs)


def acceptance(target_logprobs: Tensor, draft_logprobs: Tensor) -> Tensor:
    """[..., V] twice -> [...]: sum_x min(p(x), q(x))."""
    return torch.minimum(target_logprobs.exp(), draft_logprobs.exp()).sum(-1)


def check_losses(weights: Mapping[str, float], *, guesses_hidden: bool) -> None:
    """Raises:
    UnknownNameError: a loss of no such name.
    DrafterError: no loss, a weight that is not positive, or a loss that this drafter cannot have.
    """
    if not weights:
        raise DrafterError("drafter.losses is empty: there is nothing to train on")
    for name, weight in weights.items():
        _ = LOSSES[name]
        if not weight > 0:
            raise DrafterError(f"drafter.losses: {name} has weight {weight}, which must be above 0: leave it out")
        if name in HIDDEN_LOSSES and not guesses_hidden:
            raise DrafterError(f"drafter.losses: {name} needs a drafter that guesses hidden states: kind=eagle")


def combined(given: LossInput, weights: Mapping[str, float]) -> tuple[Tensor, dict[str, Tensor]]:
    """[N] sum of weight x loss, and each loss [N] by name without gradient."""
    parts = {name: LOSSES[name](given) for name in weights}
    total = torch.stack([weight * parts[name] for name, weight in weights.items()]).sum(0)
    return total, {name: part.detach() for name, part in parts.items()}
