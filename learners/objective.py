"""The training objective of one micro-batch, put together from the parts that the settings name.

correction (who sampled against who is trained) -> surrogate (loss per token) + terms -> aggregation (one number).
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from learners.aggregation import AGGREGATIONS
from learners.correction import CorrectionInput, correction_weights
from learners.options import with_options
from learners.settings import AlgorithmSettings, TermSettings
from learners.surrogates import SURROGATES, SurrogateInput
from learners.terms import TERMS, TermInput


@dataclass(frozen=True, slots=True, eq=False)
class ObjectiveInput:
    """All tensors [N], over the trained tokens of a micro-batch; only `logprobs` and `entropy` carry gradient.

    Attributes:
        logprobs: under the weights being trained.
        entropy: of each token's distribution under them, in nats.
        proximal: under the weights at the start of the batch, or the behaviour's (`algorithm.old_logprobs`).
        behaviour: as sampled.
        advantages: of each token.
        sequence: index of each token's sequence in the micro-batch.
        rewards, group_rewards: of each token's answer, and the mean of its group.
        others: logprobs under the companions that the terms compare with, by their names in `algorithm`.
    """

    logprobs: Tensor
    entropy: Tensor
    proximal: Tensor
    behaviour: Tensor
    advantages: Tensor
    sequence: Tensor
    rewards: Tensor
    group_rewards: Tensor
    others: Mapping[str, Tensor]


def objective(given: ObjectiveInput, algorithm: AlgorithmSettings) -> tuple[Tensor, Mapping[str, Tensor]]:
    """This micro-batch's share of the sum that the batch's loss is (`learners.aggregation`), and what happened per
    token: [N] each, by name."""
    correction = algorithm.correction
    weights, corrected = correction_weights(
        CorrectionInput(given.proximal, given.behaviour, given.sequence, correction.low, correction.high),
        correction.level,
        correction.mode,
    )
    surrogate = with_options(SURROGATES[algorithm.surrogate], algorithm.surrogate_options)
    losses, seen = surrogate(
        SurrogateInput(
            given.logprobs,
            given.proximal,
            given.advantages,
            weights,
            given.sequence,
            given.rewards,
            given.group_rewards,
            algorithm.clip_low,
            algorithm.clip_high,
        )
    )
    losses = algorithm.policy_weight * losses
    terms: dict[str, Tensor] = {}
    for settings in algorithm.terms:
        loss = term_loss(given, settings)
        losses = losses + settings.weight * loss
        terms[f"term/{settings.name}"] = loss.detach()
    return AGGREGATIONS[algorithm.aggregation].total(losses, given.sequence), {**corrected, **seen, **terms}


def term_loss(given: ObjectiveInput, settings: TermSettings) -> Tensor:
    """[N] loss of one term, before its weight."""
    term = TERMS[settings.name]
    other = given.others[settings.against] if term.compares else None
    return with_options(term.loss, settings.options)(
        TermInput(given.logprobs, given.entropy, given.advantages, given.sequence, other)
    )


def companions_needed(algorithm: AlgorithmSettings) -> set[str]:
    """Names in `algorithm` of the policies that its terms compare with: ``"reference"``, ``"teacher"``."""
    return {settings.against for settings in algorithm.terms if TERMS[settings.name].compares}
