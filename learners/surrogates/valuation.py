"""Values in place of a policy gradient: the policy's log-ratio is read as a Q-function and fitted to a target."""

import torch
from torch import Tensor

from learners.needs import needs
from learners.surrogates.surrogate import SURROGATES, SurrogateInput


@SURROGATES.register("rover")
@needs("moments")
def rover(given: SurrogateInput, *, tau: float = 1.0) -> tuple[Tensor, dict[str, Tensor]]:
    """w (Q_t - sg(A + mean_a Q(s_t+1, a)))^2, Q(s, a) = tau log pi(a|s) / pi_old(a|s): ROVER (arXiv 2509.24981).

    In a tree with a reward at its leaves, acting greedily on the values of the uniformly random policy is optimal; so
    the next state's value is the mean over the whole vocabulary, and 0 behind an answer's last token. The next state is
    that of the next trained token: what a tool wrote between them belongs to the transition.

    A is the centred reward that every token of an answer gets: `algorithm.advantage=dr_grpo`. At pi = pi_old all Q are
    0 and the gradient is -2 tau A grad logp. The uniform mean of pi_old cannot be had from the engine:
    `algorithm.old_logprobs=recompute`. `clip_low` and `clip_high` mean nothing here.

    Args:
        tau: nats of log-ratio are worth so much reward; above 0.
    """
    if tau <= 0:
        raise ValueError(f"tau={tau} must be above 0")
    assert given.moments is not None, "the learner computes them for a surrogate that needs them"
    assert given.old_moments is not None, "a rule refuses recipes whose old policy is known by sampled tokens alone"
    uniform = tau * (given.moments.mean_logprob - given.old_moments.mean_logprob)
    target = given.advantages + _behind(uniform, given.sequence)
    loss = (tau * given.log_ratio - target).square()
    return given.weights * loss, {"ratio": given.log_ratio.detach().exp()}


def _behind(values: Tensor, sequence: Tensor) -> Tensor:
    """[N] the value at the next token of the same answer, 0 at its last."""
    following = torch.zeros_like(values)
    following[:-1] = values[1:] * (sequence[1:] == sequence[:-1])
    return following
