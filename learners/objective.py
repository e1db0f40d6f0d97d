"""The training objective of one micro-batch, put together from the parts that the settings name.

correction (who sampled against who is trained) -> surrogate (loss per token) x masks + terms -> aggregation (one
number). Tokens that the policy did not write go by a rule of their own in the place of correction, surrogate and masks.
Where the settings name a preference loss, it compares whole answers in the place of all that (`learners.preferences`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from learners.aggregation import AGGREGATIONS, BatchCounts
from learners.correction import CorrectionInput, correction_weights
from learners.logprobs import Moments
from learners.masks import MASKS, MaskInput
from learners.needs import Need, needs_of
from learners.off_policy import OFF_POLICY, OffPolicyInput
from learners.options import with_options
from learners.preferences import PREFERENCES, preference_total
from learners.settings import AlgorithmSettings, PreferenceSettings, TermSettings
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
        group: index of each token's group in the micro-batch; None where no part needs it.
        off_policy: bool, whether another than the policy wrote the token, so that `behaviour` may be nan, and
            `proximal`; None where it wrote them all.
        moments, start_moments: of each token's distribution, now and at the start of the batch; None where no part
            needs them.
        attention: how widely the token looks back, in [0, 1]; None where no part needs it.
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
    group: Tensor | None = None
    off_policy: Tensor | None = None
    moments: Moments | None = None
    start_moments: Moments | None = None
    attention: Tensor | None = None

    def of(self, chosen: Tensor) -> "ObjectiveInput":
        """These tokens alone, as if the policy wrote them all; `chosen` is bool, [N]."""

        def of(moments: Moments | None) -> Moments | None:
            return None if moments is None else Moments(*(values[chosen] for values in moments))

        return ObjectiveInput(
            self.logprobs[chosen],
            self.entropy[chosen],
            self.proximal[chosen],
            self.behaviour[chosen],
            self.advantages[chosen],
            self.sequence[chosen],
            self.rewards[chosen],
            self.group_rewards[chosen],
            {name: values[chosen] for name, values in self.others.items()},
            group=None if self.group is None else self.group[chosen],
            moments=of(self.moments),
            start_moments=of(self.start_moments),
            attention=None if self.attention is None else self.attention[chosen],
        )


def objective(given: ObjectiveInput, algorithm: AlgorithmSettings) -> tuple[Tensor, Mapping[str, Tensor]]:
    """This micro-batch's share of the sum that the batch's loss is (`learners.aggregation`), and what happened per
    token: [N] each, by name, of the tokens that it happened to."""
    if algorithm.preference is not None:
        return preference_objective(given, algorithm.preference)
    if given.off_policy is not None and given.off_policy.any():
        losses, seen = _split_loss(given, given.off_policy, algorithm)
    else:
        losses, seen = _policy_loss(given, algorithm)
    losses = algorithm.policy_weight * losses
    terms: dict[str, Tensor] = {}
    for settings in algorithm.terms:
        loss = term_loss(given, settings)
        losses = losses + settings.weight * loss
        terms[f"term/{settings.name}"] = loss.detach()
    return AGGREGATIONS[algorithm.aggregation].total(losses, given.sequence), {**seen, **terms}


def _split_loss(
    given: ObjectiveInput, foreign: Tensor, algorithm: AlgorithmSettings
) -> tuple[Tensor, Mapping[str, Tensor]]:
    """[N] loss where some tokens are off-policy."""
    own, seen = _policy_loss(given.of(~foreign), algorithm)
    other = given.of(foreign)
    rule = with_options(OFF_POLICY[algorithm.off_policy], algorithm.off_policy_options)
    losses = torch.zeros_like(given.logprobs).masked_scatter(~foreign, own)
    losses = losses.masked_scatter(foreign, rule(OffPolicyInput(other.logprobs, other.behaviour, other.advantages)))
    return losses, seen


def _policy_loss(given: ObjectiveInput, algorithm: AlgorithmSettings) -> tuple[Tensor, Mapping[str, Tensor]]:
    """[N] loss of tokens that the policy wrote, before terms."""
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
            given.group,
            given.moments,
            given.start_moments,
        )
    )
    masks = {f"mask/{name}": mask(_mask_input(given)) for name, mask in _masks(algorithm)}
    for weight in masks.values():
        losses = losses * weight
    return losses, {**corrected, **seen, **masks}


def _masks(algorithm: AlgorithmSettings) -> list[tuple[str, Callable[..., Tensor]]]:
    return [(settings.name, with_options(MASKS[settings.name], settings.options)) for settings in algorithm.masks]


def _mask_input(given: ObjectiveInput) -> MaskInput:
    logprobs, entropy = given.logprobs.detach(), given.entropy.detach()
    return MaskInput(logprobs, given.proximal, entropy, given.advantages, given.moments, given.attention)


def preference_objective(given: ObjectiveInput, settings: PreferenceSettings) -> tuple[Tensor, Mapping[str, Tensor]]:
    """`objective` of a preference loss; what it says of answers and units stands under ``preference/``."""
    assert given.group is not None, "the micro-batch knows its groups"
    reference: Tensor | None = None
    if PREFERENCES[settings.name].compares:
        reference = given.others["reference"] if settings.against == "reference" else given.behaviour
    total, seen = preference_total(
        settings, given.logprobs, reference, given.advantages, sequence=given.sequence, unit=given.group
    )
    tokens = {
        "ratio": (given.logprobs - given.proximal).detach().exp(),
        "correction_weight": torch.ones_like(given.proximal),
        "correction_bounded": torch.zeros_like(given.proximal),
    }
    return total, {**tokens, **{f"preference/{name}": values for name, values in seen.items()}}


def divisor_of(algorithm: AlgorithmSettings, counts: BatchCounts) -> int:
    """What the sum of all micro-batches' `objective` is divided by: a preference loss is a mean over units."""
    if algorithm.preference is not None:
        return counts.units
    return AGGREGATIONS[algorithm.aggregation].divisor(counts)


def term_loss(given: ObjectiveInput, settings: TermSettings) -> Tensor:
    """[N] loss of one term, before its weight."""
    term = TERMS[settings.name]
    other = given.others[settings.against] if term.compares else None
    return with_options(term.loss, settings.options)(
        TermInput(given.logprobs, given.entropy, given.advantages, given.sequence, other)
    )


def companions_needed(algorithm: AlgorithmSettings) -> set[str]:
    """Names in `algorithm` of the policies that its terms or its preference loss compare with: ``"reference"``,
    ``"teacher"``."""
    needed: set[str] = {settings.against for settings in algorithm.terms if TERMS[settings.name].compares}
    preference = algorithm.preference
    if preference is not None and preference.against == "reference" and PREFERENCES[preference.name].compares:
        needed.add("reference")
    return needed


def needs_of_objective(algorithm: AlgorithmSettings) -> frozenset[Need]:
    """What the preference loss, or else the surrogate and the masks, need of the learner."""
    if algorithm.preference is not None:
        return frozenset[Need]({"whole_groups"})
    parts = [SURROGATES[algorithm.surrogate], *(MASKS[settings.name] for settings in algorithm.masks)]
    return frozenset[Need]().union(*map(needs_of, parts))
