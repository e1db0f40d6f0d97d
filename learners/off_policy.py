"""Tokens that another than the trained policy wrote: a worked solution, a teacher's trace, a refinement under a hint.

They stand in a group beside the policy's own answers and share its baseline; but their ratio to what the policy would
have sampled is unbounded or unknown, so they go by a rule of their own, `algorithm.off_policy`: a pure function from a
frozen input to a loss per token [N], chosen by name (`OFF_POLICY`). Correction, clip and masks are not for them.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from learners.batch import TrainSequence
from learners.needs import needs, needs_of
from learners.registry import Registry


@dataclass(frozen=True, slots=True, eq=False)
class OffPolicyInput:
    """All tensors [N], over the trained off-policy tokens of a micro-batch; only `logprobs` carries gradient.

    Attributes:
        logprobs: under the weights being trained.
        behaviour: under whoever wrote them; nan where nobody knows, but for a rule that needs `behaviour`.
        advantages: of each token.
    """

    logprobs: Tensor
    behaviour: Tensor
    advantages: Tensor


OffPolicyRule = Callable[..., Tensor]
"""From an `OffPolicyInput`, and options by keyword, to the loss [N]."""
OFF_POLICY: Registry[OffPolicyRule] = Registry("algorithm.off_policy")


@OFF_POLICY.register("shaped")
def shaped(given: OffPolicyInput, *, gamma: float = 0.1) -> Tensor:
    """-A p / (p + gamma), p the policy's probability of the token: policy shaping (LUFFY, arXiv 2504.14945).

    The weight on A grad logp is gamma p / (p + gamma)^2: greatest at p = gamma, so that unlikely tokens of a good
    solution are not lost as they are with a plain p. Whoever wrote it counts as certain of it.

    Args:
        gamma: above 0.
    """
    if gamma <= 0:
        raise ValueError(f"gamma={gamma} must be above 0")
    p = given.logprobs.exp()
    return -given.advantages * p / (p + gamma)


@OFF_POLICY.register("likelihood")
def likelihood(given: OffPolicyInput) -> Tensor:
    """-A logp: weighted likelihood, as in supervised training on the better of the group (Williams 1992)."""
    return -given.advantages * given.logprobs


@OFF_POLICY.register("importance")
@needs("behaviour")
def importance(given: OffPolicyInput, *, cap: float = 2.0) -> Tensor:
    """-sg(min(p / b, cap)) A logp, b the writer's probability of the token: truncated importance sampling (IMPALA,
    arXiv 1802.01561, section 4.1), for writers whose logprobs are known.

    Args:
        cap: largest weight, above 0.
    """
    if cap <= 0:
        raise ValueError(f"cap={cap} must be above 0")
    weight = (given.logprobs.detach() - given.behaviour).exp().clamp(max=cap)
    return -weight * given.advantages * given.logprobs


def check_writers_are_known(sequences: Sequence[TrainSequence], rule: str) -> None:
    """Raises: ValueError: a trained off-policy token has no behaviour logprob, and the rule needs one."""
    if "behaviour" not in needs_of(OFF_POLICY[rule]):
        return
    for sequence in sequences:
        places = zip(sequence.off_policy, sequence.loss_mask, sequence.behaviour_logprobs, strict=False)
        if any(foreign and takes and math.isnan(logprob) for foreign, takes, logprob in places):
            raise ValueError(
                f"{sequence.sequence_id}: algorithm.off_policy={rule} needs the logprobs of whoever wrote a token, and "
                f"nobody knows them: choose a rule that does not"
            )
