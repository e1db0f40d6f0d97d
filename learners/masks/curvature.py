"""A mask by what a second-order model of the last layer predicts that a token's update does.

For one token y with distribution p = softmax(z), z = W h, and v = onehot(y) - p: the gradient of A log p(y) with
respect to W is A v h^T, so a step of size eta along it moves z by d = s v, s = eta A |h|^2. Then (derived; a test
compares with automatic differentiation):

    change of the objective A log p(y):   A (d.v - d'Fd / 2) = A (s |v|^2 - s^2 v'Fv / 2),   F = diag(p) - p p'
    shift of the policy, KL(p || p_new):  d'Fd / 2           = s^2 v'Fv / 2
    |v|^2 = 1 - 2 p_y + sum p^2,   v'Fv = p_y - 2 p_y^2 + sum p^3 - (p_y - sum p^2)^2

up to third order: F is the Fisher information of z and minus the Hessian of log p(y). Sums over the vocabulary come
from the forward pass (`learners.logprobs.Moments`); no logits are kept.
"""

from typing import NamedTuple

from torch import Tensor

from learners.logprobs import Moments
from learners.masks.mask import MASKS, MaskInput
from learners.needs import needs


class Prediction(NamedTuple):
    """[N] each: `gain`, the change of A log p(y), and `shift`, KL from the old distribution to the new, in nats."""

    gain: Tensor
    shift: Tensor


@MASKS.register("curvature")
@needs("moments")
def curvature(given: MaskInput, *, step: float = 1e-3, least_gain: float = 0.0, most_shift: float = 0.1) -> Tensor:
    """0 where a second-order model of the last layer predicts that the token's own update gains less than least_gain of
    A log p, or shifts the token's distribution by more than most_shift, else 1: CAPO (arXiv 2510.00819).

    The paper's model predicts the step of the whole batch through its optimizer; this is its form for one token and a
    plain gradient step (derived, see the module). Which share it masks is in the metrics, `learner/mask/curvature`:
    the paper reports fewer than 8 in 100.

    Args:
        step: eta, size of a plain gradient step on the head, above 0.
        least_gain: nats times advantage; 0 masks what overshoots so far that it loses, -inf masks nothing by it.
        most_shift: nats of KL, above 0.
    """
    if min(step, most_shift) <= 0:
        raise ValueError(f"step={step} and most_shift={most_shift} must be above 0")
    assert given.moments is not None, "the learner computes them for a mask that needs them"
    predicted = predict(given.logprobs, given.advantages, given.moments, step)
    # A gain that is not a number is of an update that is none either.
    stable = (predicted.gain >= least_gain) & (predicted.shift <= most_shift)
    return stable.to(given.logprobs.dtype)


def predict(logprobs: Tensor, advantages: Tensor, moments: Moments, step: float) -> Prediction:
    """What a gradient step of this size on the head does to each token's own distribution."""
    p = logprobs.exp()
    scale = step * advantages * moments.feature
    length = (1 - 2 * p + moments.square).clamp(min=0)
    fisher = (p - 2 * p.square() + moments.cube - (p - moments.square).square()).clamp(min=0)
    shift = scale.square() * fisher / 2
    return Prediction(advantages * (scale * length - shift), shift)
