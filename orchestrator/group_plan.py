"""How the answers of a group are asked for: which are sampled, which is greedy, and under which token budget each is.

Pure; a function of the recipe alone, so that everything that counts answers counts the same.
"""

from dataclasses import dataclass, replace

from learners.advantages import ADVANTAGES, TRACE_ADVANTAGES
from learners.critic.advantages import VALUE_ADVANTAGES, asks_critic
from learners.needs import Need, needs_of
from orchestrator.config import Recipe
from orchestrator.data.prompts import Prompt
from rewards.registry import may_give_spans

BUDGET = "budget"
"""Under this name the template and the rewards find an answer's budget in the prompt's metadata."""


@dataclass(frozen=True, slots=True)
class GroupPlan:
    """Attributes:
    sampled: answers drawn at the recipe's temperature and trained on: numbers 0 to sampled - 1.
    greedy: whether one more, the last, is decoded greedily.
    budgets: token budgets under which equal shares of the sampled answers are asked for, in order; empty for none.
    """

    sampled: int
    greedy: bool = False
    budgets: tuple[int, ...] = ()

    @property
    def answers(self) -> int:
        """All of a group."""
        return self.sampled + self.greedy

    @property
    def greedy_answer(self) -> int | None:
        """Number of the greedy answer; None where there is none."""
        return self.sampled if self.greedy else None

    def part(self, sample: int) -> int:
        """Number of the budget under which an answer is asked for, 0 without any; a greedy one is under the last."""
        return min(sample * len(self.budgets) // self.sampled, max(0, len(self.budgets) - 1))

    def asked(self, prompt: Prompt, sample: int) -> Prompt:
        """The prompt as it is put for this answer: with its budget, where there are any."""
        if not self.budgets:
            return prompt
        return replace(prompt, metadata={**prompt.metadata, BUDGET: self.budgets[self.part(sample)]})


def plan_of(recipe: Recipe) -> GroupPlan:
    """The plan of a recipe whose advantage is known."""
    greedy = "greedy_answer" in needs_of_advantage(recipe.algorithm.advantage)
    return GroupPlan(recipe.rollout.group_size, greedy, recipe.rollout.budgets or ())


def pays_tokens(recipe: Recipe) -> bool:
    """Whether a term may reward parts of an answer and the advantage reads it."""
    given = any(may_give_spans(term.name) for term in recipe.reward.terms)
    return given and "token_rewards" in needs_of_advantage(recipe.algorithm.advantage)


def needs_of_advantage(name: str) -> frozenset[Need]:
    """What the estimator needs of rollouts and rewards; one of the user's own that is not in a registry says nothing.

    Raises:
        UnknownNameError: it names something to import that is not there.
    """
    if name in TRACE_ADVANTAGES.names():
        return needs_of(TRACE_ADVANTAGES[name])
    if asks_critic(name):
        return needs_of(VALUE_ADVANTAGES[name])
    return needs_of(ADVANTAGES[name]) if name in ADVANTAGES else frozenset()
