"""From the trained tokens of a micro-batch to a preference loss of its answers.

Invariants, the caller's: the micro-batch holds whole units, all their trained tokens; an answer's advantages are above
0 where it is chosen or good, below 0 elsewhere. For a loss of pairs each unit is one chosen and one rejected answer.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from learners.options import with_options
from learners.preferences.preference import PREFERENCES, Groups, Pairs
from learners.settings import PreferenceSettings


def preference_total(
    settings: PreferenceSettings,
    logprobs: Tensor,
    reference: Tensor | None,
    advantages: Tensor,
    *,
    sequence: Tensor,
    unit: Tensor,
) -> tuple[Tensor, Mapping[str, Tensor]]:
    """Sum of the loss over the micro-batch's units, and what happened per unit or answer.

    Args:
        logprobs: [N] of the trained tokens, with gradient; reference: [N] under the policy compared with.
        advantages: [N], of which the sign counts.
        sequence: [N] index of each token's answer, 0 to S - 1; unit: [N] index of each token's unit.

    Raises:
        ValueError: a unit of a loss of pairs is no pair.
    """
    count = int(sequence.max()) + 1 if sequence.numel() else 0
    answers = Groups(
        logprobs=_summed(logprobs, sequence, count),
        tokens=torch.bincount(sequence, minlength=count).to(logprobs.dtype),
        good=_summed(advantages, sequence, count) > 0,
        unit=unit.new_zeros(count).scatter(0, sequence, unit),
        reference=None if reference is None else _summed(reference, sequence, count),
    )
    chosen = PREFERENCES[settings.name]
    loss, seen = with_options(chosen.loss, settings.options)(answers if chosen.of == "groups" else paired(answers))
    return loss.sum(), seen


def paired(answers: Groups) -> Pairs:
    """The good and the bad answer of each unit, in the order of the units.

    Raises:
        ValueError: a unit has not one of each.
    """
    good, bad = answers.good.nonzero().squeeze(1), (~answers.good).nonzero().squeeze(1)
    good, bad = good[answers.unit[good].argsort()], bad[answers.unit[bad].argsort()]
    expected = torch.arange(answers.units, device=answers.unit.device)
    if not (torch.equal(answers.unit[good], expected) and torch.equal(answers.unit[bad], expected)):
        raise ValueError("a loss of pairs needs one chosen and one rejected answer in each unit of the batch")
    reference = answers.reference
    return Pairs(
        chosen=answers.logprobs[good],
        rejected=answers.logprobs[bad],
        chosen_tokens=answers.tokens[good],
        rejected_tokens=answers.tokens[bad],
        reference_chosen=None if reference is None else reference[good],
        reference_rejected=None if reference is None else reference[bad],
    )


def _summed(values: Tensor, sequence: Tensor, count: int) -> Tensor:
    """[count] sum of [N] values over each answer's tokens."""
    return values.new_zeros(count).index_add(0, sequence, values)
