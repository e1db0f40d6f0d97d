"""From a recipe to the pure state machines that decide for it: the same for a run, a replay and a simulation."""

from collections.abc import Callable

from actors.settings import OverSamplingSettings
from orchestrator.config import Recipe
from orchestrator.data.prompts import Prompt, PromptSource
from orchestrator.group_plan import plan_of
from orchestrator.policies.admission import Admission, Continuous, Rounds
from orchestrator.policies.dispatch import Dispatcher
from orchestrator.policies.group_filters import filters_of
from orchestrator.policies.groups import ScoredGroup
from orchestrator.policies.late import LateRule
from orchestrator.policies.restart_budget import RestartBudget
from orchestrator.policies.staleness import StalenessRule
from orchestrator.policies.watchdog import Phase, Watchdog

ATTEMPTS = 3
"""How many deadlines of an answer the learner may starve for: an answer is tried that often."""
LAST_LIMIT = 2 * ATTEMPTS
"""After so many the learner gives up, though the watchdog found nobody to blame."""
RESTART_WINDOW_S = 600.0
SCORING_SLACK_S = 60.0
"""Time that answers may stand in line for a reward, beyond one answer's own deadline."""


def make_dispatcher(
    recipe: Recipe,
    source: PromptSource,
    encode: Callable[[Prompt], tuple[int, ...]],
    usable: Callable[[ScoredGroup], bool],
) -> Dispatcher:
    """The dispatcher with the admission and late policies that the recipe names."""
    rollout, trainer, algorithm, plan = recipe.rollout, recipe.trainer, recipe.algorithm, plan_of(recipe)
    rule = StalenessRule(trainer.prompts_per_step, rollout.max_staleness)
    engines = recipe.topology.rollout
    places = (engines.most or engines.workers) * rollout.max_running
    return Dispatcher(
        source=source,
        encode=encode,
        rule=rule,
        admission=make_admission(rollout.over_sampling, rule, places=places, group_size=plan.answers),
        late=LateRule(rollout.late, rollout.max_staleness, rollout.hard_staleness),
        group_size=plan.answers,
        drop_zero_variance=algorithm.drop_zero_variance,
        usable=usable,
        wanted=trainer.steps * trainer.prompts_per_step,
        filters=filters_of(algorithm),
        greedy=plan.greedy,
        most_filtered=algorithm.refill_limit * trainer.prompts_per_step,
    )


def make_admission(
    over: OverSamplingSettings | None, rule: StalenessRule, *, places: int, group_size: int
) -> Admission:
    """Args:
    places: answers that all engines together sample at a time.
    """
    if over is None:
        return Continuous(rule, places, group_size)
    return Rounds(
        batch=rule.batch,
        prompts=over.prompts,
        answers=over.answers,
        leftovers=over.leftovers,
    )


def make_watchdog(recipe: Recipe) -> Watchdog:
    answer_s, reward, answers = recipe.rollout.answer_timeout_s, recipe.reward, plan_of(recipe).answers
    limits: dict[Phase, float] = {
        "queued": ATTEMPTS * answer_s,
        "sampling": answer_s,
        "scoring": reward.start_timeout_s + reward.deadline_s * answers * _in_line(recipe) + SCORING_SLACK_S,
    }
    restarts = RestartBudget(recipe.rollout.max_restarts, RESTART_WINDOW_S)
    return Watchdog(limits, learner_limit_s=ATTEMPTS * answer_s, restarts=restarts)


def _in_line(recipe: Recipe) -> int:
    """Groups that may stand before one in the line for a model that its rewards ask."""
    rule = StalenessRule(recipe.trainer.prompts_per_step, recipe.rollout.max_staleness)
    return rule.batch * (1 + rule.max_staleness) if recipe.reward.models else 1
