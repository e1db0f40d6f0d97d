"""Terms about a budget of tokens: `hbpo_budget` and `anytime_brpo`."""

import math
from collections.abc import Sequence

from rewards.group import Group
from rewards.math_answer import math_reward
from rewards.registry import Example, RefusedOptionError, group_term, term
from rewards.response import Response, SpanReward
from rewards.verdict import Verdict


def within_budget(length: int, budget: int, longest: int, slope: float) -> float:
    """cos(pi / 2 b / L_max) up to the budget b, and cos(pi / 2 L / L_max) - slope (L - b) / L_max beyond it.

    Continuous at b, flat below it and falling above it; a small budget pays more for an answer that keeps to it.
    """
    if length <= budget:
        return math.cos(math.pi / 2 * budget / longest)
    return math.cos(math.pi / 2 * min(length, longest) / longest) - slope * (length - budget) / longest


_GROUP = Group(
    (
        Response("e/0", "", "...", response_tokens=100, metadata={"budget": 500}),
        Response("e/1", "", "...", response_tokens=1000, metadata={"budget": 500}),
    ),
    ({"math": 1.0}, {"math": 1.0}),
)


@group_term("hbpo_budget", example=Example(_GROUP, (math.sqrt(0.5), -0.5), {"longest": 1000}))
def budget_reward(
    group: Group,
    *,
    longest: int,
    budget: int | None = None,
    slope: float = 1.0,
    of: str | None = None,
    correct_at: float = 1.0,
) -> list[float]:
    """A right answer's piecewise cosine against its budget (`within_budget`), 0 for a wrong one: in the manner of HBPO
    (arXiv 2507.15844), whose constants are not settled. It is the whole reward: give the correctness term weight 0.

    Args:
        longest: L_max, at least the budget.
        budget: tokens; None reads each prompt's from the data's column ``budget``, which its text should state too.
        slope: of the loss beyond the budget.
        of, correct_at: see `rlcr`.
    """
    if longest < 1 or slope < 0 or (budget is not None and not 0 < budget <= longest):
        raise RefusedOptionError(
            f"longest={longest} must be above 0, budget={budget} in (0, longest], slope at least 0"
        )
    rewards = []
    for response, length, hit in zip(group.responses, group.lengths, group.correct(of, correct_at), strict=True):
        allowed = _budget(response) if budget is None else budget
        rewards.append(within_budget(length, allowed, longest, slope) if hit else 0.0)
    return rewards


def _budget(response: Response) -> int:
    found = response.metadata.get("budget")
    if not isinstance(found, int | float | str) or not str(found).isdigit() or int(found) < 1:
        raise ValueError("the data have no column 'budget' with a number of tokens; or set options.budget")
    return int(found)


def anytime_returns(rewards: Sequence[float], prior: Sequence[float]) -> list[float]:
    """For each budget j the return of the tokens between budget j - 1 and j: the sum over i >= j of prior_i reward_i.

    AnytimeReasoner (arXiv 2505.13438): a token counts for every budget that it falls within.
    """
    returns, total = [], 0.0
    for reward, weight in zip(reversed(rewards), reversed(prior), strict=True):
        total += weight * reward
        returns.append(total)
    return returns[::-1]


@term(
    "anytime_brpo",
    example=Example(
        Response("e", "", r"so \boxed{4}. Checking again at length: yes.", "4", response_tokens=100),
        1.0,
        {"budgets": [50, 100]},
    ),
)
def anytime_reward(response: Response, *, budgets: Sequence[int]) -> Verdict:
    """The mean over budgets b of 1[the answer stated within the first b tokens is right], less, for the tokens of each
    stretch, the part of it that lies behind them (`anytime_returns`): AnytimeReasoner's objective (arXiv 2505.13438)
    under a uniform prior, where the answer within b is read by `math` and not asked of a summary.

    With `algorithm.advantage=capo_credit` each token has its return, compared with the group's. Where a stretch ends in
    the text is reckoned by its share of the tokens.

    Args:
        budgets: ascending.
    """
    if not budgets or list(budgets) != sorted(set(budgets)) or budgets[0] < 1:
        raise RefusedOptionError("budgets must be numbers of tokens above 0, ascending")
    characters = len(response.text)
    per_token = characters / max(1, response.response_tokens)
    cuts = [min(characters, round(budget * per_token)) for budget in budgets]
    rewards = [_right_within(response, cut) for cut in cuts]
    prior = [1 / len(budgets)] * len(budgets)
    returns = anytime_returns(rewards, prior)
    stretches = zip([0, *cuts[:-1]], cuts, returns, strict=True)
    whole = returns[0]
    spans = (SpanReward(start, stop, ahead - whole) for start, stop, ahead in stretches if start < stop)
    return Verdict(whole, tuple(span for span in spans if span.value))


def _right_within(response: Response, characters: int) -> float:
    cut = characters < len(response.text)
    seen = Response(
        response.sample_id, response.question, response.text[:characters], response.reference, truncated=cut
    )
    return math_reward(seen)
