"""Exact verification of drafts: what is emitted follows the target's own distribution, whoever drafted.

A draft that is the drafter's only guess counts as drawn with probability one. Accepting x with the target's p(x) and
otherwise drawing from p without x is then the same as drawing from p and looking whether it is x; so that is what is
done. The draws are those that are made without drafts, one per emitted token, so a seed gives the same answer with and
without such drafts, whatever their lengths (up to rounding in the logits, as different batches have it).

A draft that was drawn with probabilities q is accepted with min(1, p(x) / q(x)), otherwise a token is drawn from what
p has beyond q (Leviathan et al., arXiv 2211.17192; Chen et al., arXiv 2302.01318). The law is the same, the draws
behind a seed are not those without drafts.
"""

from dataclasses import dataclass

import torch

from actors.engine import Sampling
from actors.speculation.drafter import Draft
from actors.token_sampling import Chance, draw, processed_logprobs


@dataclass(frozen=True, slots=True)
class Verified:
    """The tokens that a step emits with their logprobs under the target, and how many of them were drafted."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    accepted: int


def verify(logits: torch.Tensor, draft: Draft, sampling: Sampling, chance: Chance) -> Verified:
    """The longest part of the draft that is accepted, and one token more.

    The target's distribution p is the processed one: temperature, top-k and top-p are applied before anything is
    compared. A greedy token is accepted where it is the target's argmax.

    Args:
        logits: [len(draft) + 1, vocabulary] the target's, before the first drafted token and after each of them.
    """
    token_ids: list[int] = []
    logprobs: list[float] = []
    for i, row in enumerate(logits):
        drafted = draft.token_ids[i] if i < len(draft.token_ids) else None
        if drafted is None or draft.probabilities is None or sampling.temperature == 0:
            token, logprob = draw(row, sampling, chance)
        else:
            token, logprob = _accept_or_redraw(row, drafted, draft.probabilities[i], sampling, chance)
        token_ids.append(token)
        logprobs.append(logprob)
        if token != drafted:
            break
    return Verified(tuple(token_ids), tuple(logprobs), len(token_ids) - 1)


def _accept_or_redraw(
    logits: torch.Tensor, drafted: int, proposal: torch.Tensor, sampling: Sampling, chance: Chance
) -> tuple[int, float]:
    logprobs = processed_logprobs(logits, sampling)
    target, proposal = logprobs.exp(), proposal.float()
    token = drafted
    if not chance.happens(float(target[drafted] / proposal[drafted])):
        # Never the drafted token again: it is refused only where q exceeds p, and there nothing remains of p.
        remaining = (target - proposal).clamp(min=0)
        token = chance.pick(remaining if bool(remaining.any()) else target)
    return token, float(logprobs[token])
