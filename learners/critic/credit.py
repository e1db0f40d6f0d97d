"""From the critic's values to the advantages of a batch's tokens, before the batch is trained on.

What the driver sends of each answer is its reward (`orchestrator.batch_builder`); what a token gets of it depends on
weights that the learner alone has.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch

from learners.advantages import NORMS, MomentNorm
from learners.critic.advantages import VALUE_ADVANTAGES, TokenCredit, ValuedTokens
from learners.critic.critic import Critic, Values
from learners.micro_batch import Lesson, MicroBatch, Part
from learners.options import with_options
from learners.process_group import sum_over_ranks
from learners.settings import AlgorithmSettings


def credit_tokens(parts: Sequence[Part], critic: Critic, algorithm: AlgorithmSettings) -> tuple[Part, ...]:
    """The same parts, with the advantages and lessons that the critic's values make. A collective.

    Args:
        parts: of one batch, all of them where `algorithm.advantage_norm` is over the batch.
    """
    estimate = with_options(VALUE_ADVANTAGES[algorithm.advantage], algorithm.advantage_options)
    norm = with_options(NORMS[algorithm.advantage_norm], algorithm.advantage_norm_options)()
    values = [[critic.values(micro) for micro in part.micro_batches] for part in parts]
    credits = [
        [estimate(_valued(micro, seen)) for micro, seen in zip(part.micro_batches, of_part, strict=True)]
        for part, of_part in zip(parts, values, strict=True)
    ]
    centre, scale = 0.0, 1.0
    if isinstance(norm, MomentNorm):
        centre, scale = norm.centre_and_scale(*_moments([credit for of_part in credits for credit in of_part]))
    return tuple(
        replace(
            part,
            micro_batches=tuple(
                _credited(micro, seen, credit, centre, scale)
                for micro, seen, credit in zip(part.micro_batches, of_part, given, strict=True)
            ),
        )
        for part, of_part, given in zip(parts, values, credits, strict=True)
    )


def _valued(micro: MicroBatch, values: Values) -> ValuedTokens:
    last = micro.sequence.bincount().cumsum(0) - 1
    truncated = torch.tensor(micro.truncated, dtype=torch.bool)
    whole = micro.rewards[last]
    return ValuedTokens(values.before, micro.sequence, whole, values.after, truncated, micro.token_rewards)


def _credited(micro: MicroBatch, values: Values, credit: TokenCredit, centre: float, scale: float) -> MicroBatch:
    lesson = Lesson(values.before, credit.returns, credit.teaches)
    return replace(micro, advantages=(credit.advantages - centre) / scale, lesson=lesson)


def _moments(credits: Sequence[TokenCredit]) -> tuple[float, float]:
    """Mean and population standard deviation of the advantages of all tokens on all ranks."""
    mine = torch.cat([credit.advantages.double() for credit in credits])
    count, total = sum_over_ranks(torch.tensor([mine.numel(), mine.sum()], dtype=torch.float64)).tolist()
    mean = total / count
    (square,) = sum_over_ranks((mine - mean).square().sum().reshape(1)).tolist()
    return mean, math.sqrt(square / count)
