"""How the answers of a group are asked for: which are sampled, which is greedy, and under which token budget each is.

Pure; a function of the recipe alone, so that everything that counts answers counts the same.
"""

from dataclasses import dataclass, replace

from learners.advantages import ADVANTAGES, TRACE_ADVANTAGES
from learners.needs import Need, needs_of
from orchestrator.config import Recipe
from orchestrator.data.prompts import Prompt

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


def needs_of_advantage(name: str) -> frozenset[Need]:
    """What the estimator needs of the rollouts; one that is made of a critic's values needs nothing of them.

    Raises:
        UnknownNameError: it names something to import that is not there.
    """
    if name in TRACE_ADVANTAGES.names():
        return needs_of(TRACE_ADVANTAGES[name])
    return needs_of(ADVANTAGES[name]) if name in ADVANTAGES else frozenset()
