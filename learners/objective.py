"""The training objective of one micro-batch, put together from the parts that the settings name.

correction (who sampled against who is trained) -> surrogate (loss per token) -> aggregation (one number).
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from learners.aggregation import AGGREGATIONS
from learners.correction import CorrectionInput, correction_weights
from learners.settings import AlgorithmSettings
from learners.surrogates import SURROGATES, SurrogateInput


@dataclass(frozen=True, slots=True, eq=False)
class ObjectiveInput:
    """All tensors [N], over the trained tokens of a micro-batch; only `logprobs` carries gradient.

    Attributes:
        logprobs: under the weights being trained.
        proximal: under the weights at the start of the batch, or the behaviour's (`algorithm.old_logprobs`).
        behaviour: as sampled.
        advantages: of each token.
        sequence: index of each token's sequence in the micro-batch.
    """

    logprobs: Tensor
    proximal: Tensor
    behaviour: Tensor
    advantages: Tensor
    sequence: Tensor


def objective(given: ObjectiveInput, algorithm: AlgorithmSettings) -> tuple[Tensor, Mapping[str, Tensor]]:
    """This micro-batch's share of the sum that the batch's loss is (`learners.aggregation`), and what happened per
    token: [N] each, by name."""
    settings = algorithm.correction
    weights, corrected = correction_weights(
        CorrectionInput(given.proximal, given.behaviour, given.sequence, settings.low, settings.high),
        settings.level,
        settings.mode,
    )
    losses, surrogate = SURROGATES[algorithm.surrogate](
        SurrogateInput(
            given.logprobs,
            given.proximal,
            given.advantages,
            weights,
            algorithm.clip_low,
            algorithm.clip_high,
        )
    )
    return AGGREGATIONS[algorithm.aggregation].total(losses, given.sequence), {**corrected, **surrogate}
