"""From rewards of parts of an answer's text to rewards of its tokens, where the advantage reads them."""

from collections.abc import Sequence

from learners.critic.advantages import VALUE_ADVANTAGES, asks_critic
from learners.needs import needs_of
from orchestrator.config import Recipe
from orchestrator.group_plan import needs_of_advantage
from orchestrator.token_bytes import BytesOf
from rewards.registry import may_give_spans
from rewards.response import SpanReward
from rewards.spans import on_tokens, token_offsets


class TokenRewards:
    """Args: bytes_of: what each token adds to the text that the reward terms saw."""

    def __init__(self, bytes_of: BytesOf) -> None:
        self._bytes_of = bytes_of

    def __call__(self, token_ids: Sequence[int], spans: Sequence[SpanReward]) -> tuple[float, ...]:
        """A reward for each token, the sum over the parts that it has a character of; empty where there is no part."""
        return tuple(on_tokens(spans, token_offsets(self._bytes_of(token_ids)))) if spans else ()


def reads_token_rewards(advantage: str) -> bool:
    """Whether the advantage of this name makes something of rewards of tokens."""
    needs = needs_of(VALUE_ADVANTAGES[advantage]) if asks_critic(advantage) else needs_of_advantage(advantage)
    return "token_rewards" in needs


def pays_tokens(recipe: Recipe) -> bool:
    """Whether a term may reward parts of an answer and the advantage reads it."""
    given = any(may_give_spans(term.name) for term in recipe.reward.terms)
    return given and reads_token_rewards(recipe.algorithm.advantage)
