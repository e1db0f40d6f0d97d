"""The `reward_model` and `rpr` terms: a classification checkpoint scores, and phrases mend what it scores too low."""

from collections.abc import Sequence

from rewards.matching.text import phrase_reward
from rewards.models.asking import Message, ModelFailed, Models
from rewards.models.quoting import harmless
from rewards.registry import Example, refusing_options, term
from rewards.response import Response

_SCORED = Response("example", "2 + 2?", "First, we count. It is 4.")


@term("reward_model", example=Example(_SCORED, 0.25, replies=((0.25,),)), confined=False)
async def reward_model(
    response: Response, *, models: Models, model: str = "reward_model", label: int | None = None
) -> float:
    """Probability, in [0, 1], that a sequence-classification checkpoint gives to question and answer as a conversation:
    of its only class (a sigmoid of a reward model's score), or of class `label`.

    Args:
        model: name in `reward.models`.
        label: number of the class that is good, where there are several.
    """
    return await _probability(response, models, model, label)


@term(
    "rpr",
    example=Example(_SCORED, 0.25 + 1.0 * 0.5, {"phrases": ["first, we", "however"]}, replies=((0.25,),)),
    confined=False,
)
async def rpr(
    response: Response,
    *,
    models: Models,
    phrases: Sequence[str],
    model: str = "reward_model",
    label: int | None = None,
    threshold: float = 0.5,
    alpha: float = 1.0,
) -> float:
    """s + alpha times the share of the phrases that occur where the reward model's s is below `threshold`, else s: the
    reasoning pattern reward that mends a reward model's false negatives (RPR, arXiv 2505.22653).

    Args:
        model, label: as for `reward_model`.
        phrases: of good reasoning, letter case aside.
        alpha: at least 0, so that nothing is lowered.
    """
    with refusing_options():
        if alpha < 0:
            raise ValueError(f"alpha={alpha:g} must be at least 0")
    mended = alpha * phrase_reward(response, phrases=phrases)
    score = await _probability(response, models, model, label)
    return score if score >= threshold else score + mended


async def _probability(response: Response, models: Models, model: str, label: int | None) -> float:
    conversation = Message("user", harmless(response.question)), Message("assistant", harmless(response.text))
    found = await models[model].classify(conversation)
    if label is None and len(found) > 1:
        raise ValueError(f"{model} has {len(found)} classes; name the good one by the option label")
    if label is not None and not 0 <= label < len(found):
        raise ModelFailed("malformed", f"{model} has no class {label}")
    return found[label or 0]
