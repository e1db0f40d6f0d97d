"""The hard clip and what it came from: policy gradient, PPO, and PPO with a second bound."""

from torch import Tensor

from learners.surrogates.surrogate import SURROGATES, SurrogateInput, clipped


@SURROGATES.register("reinforce")
def reinforce(given: SurrogateInput) -> tuple[Tensor, dict[str, Tensor]]:
    """-w A logp: the plain policy gradient, without a trust region (Williams 1992).

    With `algorithm.advantage=best_of_group` it is RAFT (arXiv 2304.06767): likelihood of the best answers.
    """
    ratio = given.log_ratio.detach().exp()
    return -given.weights * given.advantages * given.logprobs, {"ratio": ratio}


@SURROGATES.register("ppo_clip")
def ppo_clip(given: SurrogateInput) -> tuple[Tensor, dict[str, Tensor]]:
    """-w min(rho A, clip(rho, 1 - clip_low, 1 + clip_high) A): PPO (arXiv 1707.06347, equation 7).

    rho = exp(logp - logp_old). The bounds are separate, as in clip-higher (DAPO, arXiv 2503.14476, equation 10); the
    weight w makes it the decoupled objective of arXiv 2110.00641 when `old_logprobs` are not the behaviour's.
    """
    return clipped(given, given.log_ratio.exp())


@SURROGATES.register("dual_clip")
def dual_clip(given: SurrogateInput, *, ceiling: float = 3.0) -> tuple[Tensor, dict[str, Tensor]]:
    """`ppo_clip`, and for A < 0 max(gain, ceiling A): a huge ratio stops to push down (arXiv 1912.09729).

    gain = min(rho A, clip(rho) A), which has no bound from below where A < 0 and rho grows.

    Args:
        ceiling: the paper's c, above 1; a ratio beyond it gives no gradient where A < 0.

    Raises:
        ValueError: the ceiling is not above 1 + clip_high, where the first clip ends.
    """
    if ceiling <= 1 + given.clip_high:
        raise ValueError(f"ceiling={ceiling} must be above 1 + clip_high = {1 + given.clip_high}")
    loss, seen = ppo_clip(given)
    worst = -given.weights * ceiling * given.advantages
    capped = (seen["ratio"] > ceiling) & (given.advantages < 0)
    return loss.where(~capped, worst), {**seen, "clipped_high": seen["clipped_high"] + capped.float()}
