"""Rules about groups and their tokens: what a part of the algorithm needs of the rollouts and the learner is there, and
nothing is asked for that no part reads. Parts of `orchestrator.rules`, which calls them when the names are known.
"""

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from learners.advantages import TRACE_ADVANTAGES
from learners.logprobs import Moments
from learners.masks import MASKS, MaskInput
from learners.needs import needs_of
from learners.objective import needs_of_objective
from learners.off_policy import OFF_POLICY
from learners.options import options_of, with_options
from learners.registry import Registry, UnknownNameError
from learners.settings import PartSettings
from orchestrator.config import Recipe
from orchestrator.errors import SettingError
from orchestrator.group_plan import BUDGET, needs_of_advantage, plan_of
from orchestrator.policies.group_filters import GROUP_FILTERS, GroupOutcome, filters_of
from orchestrator.token_rewards import pays_tokens, reads_token_rewards
from rewards.registry import GIVES_SPANS

T = TypeVar("T")
_SEE = "see `paceline methods`"


def masks_are_registered(recipe: Recipe) -> SettingError | None:
    one = torch.zeros(1)
    example = MaskInput(one - 1, one - 1, one + 1, one, Moments(one, one, one, one), one / 2)
    refused = _refused_by(MASKS, recipe.algorithm.masks, example)
    names = [settings.name for settings in recipe.algorithm.masks]
    twice = next((name for name in names if names.count(name) > 1), None)
    if refused is None and twice is not None:
        return SettingError(MASKS.kind, f"{twice} is named twice", "name it once")
    return refused


def filters_are_registered(recipe: Recipe) -> SettingError | None:
    return _refused_by(GROUP_FILTERS, recipe.algorithm.group_filters, GroupOutcome((0.0,), (1,), (False,)))


def _refused_by(
    registry: Registry[Callable[..., T]], parts: Sequence[PartSettings], example: object
) -> SettingError | None:
    """Each part is tried on an example: the first that is not there, or whose options it refuses."""
    for part in parts:
        try:
            with_options(registry[part.name], part.options)(example)
        except UnknownNameError as error:
            return SettingError(registry.kind, str(error.args[0]), _SEE)
        except ValueError as error:
            return SettingError(registry.kind, f"{part.name}: {error}", _SEE)
    return None


def filters_leave_what_is_learned_from(recipe: Recipe) -> SettingError | None:
    """Each is tried on a group without a right answer, from which some methods learn most."""
    algorithm, size, anchors = recipe.algorithm, recipe.rollout.group_size, recipe.rollout.anchors
    learner = "algorithm.advantage=ngrpo learns" if algorithm.advantage == "ngrpo" else ""
    if anchors is not None and anchors.when == "none_right":
        learner = "rollout.anchors with when=none_right learn"
    wrong = GroupOutcome((0.0,) * size, (1,) * size, (False,) * size)
    for settings, step in zip(algorithm.group_filters, filters_of(algorithm), strict=True):
        if learner and step(wrong) is None:
            reason = f"{settings.name} drops the all-wrong groups from which {learner}"
            return SettingError(GROUP_FILTERS.kind, reason, "leave out one of the two")
    return None


def outliers_can_be_found(recipe: Recipe) -> SettingError | None:
    """One answer of all tokens among others of one is as far out as any can be."""
    size, longest = recipe.rollout.group_size, recipe.rollout.max_response_tokens
    before: list[str] = []
    for settings, step in zip(recipe.algorithm.group_filters, filters_of(recipe.algorithm), strict=True):
        if settings.name == "length_outliers" and "solve_rate" in before:
            reason = "solve_rate drops the all-right groups that length_outliers behind it is for"
            return SettingError(GROUP_FILTERS.kind, reason, "name length_outliers first")
        if settings.name == "length_outliers":
            right = {**options_of(GROUP_FILTERS[settings.name]), **settings.options}["correct_at"]
            assert isinstance(right, float | int), "its option is a number"
            found = step(GroupOutcome((right,) * size, (*[1] * (size - 1), longest), (False,) * size))
            if found is None or len(set(found.rewards)) == 1:
                return SettingError(
                    GROUP_FILTERS.kind,
                    f"length_outliers finds none: no answer among {size} of up to {longest} tokens lies more than "
                    f"{math.sqrt(size - 1):.3g} deviations, or {longest - 1} tokens, beyond the mean",
                    "lower its deviations or min_gap, or raise rollout.group_size",
                )
        before.append(settings.name)
    return None


def moments_of_the_old_policy_are_known(recipe: Recipe) -> SettingError | None:
    algorithm = recipe.algorithm
    if algorithm.surrogate != "rover" or algorithm.old_logprobs == "recompute":
        return None
    return SettingError(
        "algorithm.old_logprobs",
        "algorithm.surrogate=rover needs the old policy's whole distribution, of which the engine tells sampled tokens "
        "alone",
        "set it to recompute",
    )


def whole_groups_fit_a_microbatch(recipe: Recipe) -> SettingError | None:
    # What a preference loss compares is bounded by its own rule.
    if recipe.algorithm.preference is not None or "whole_groups" not in needs_of_objective(recipe.algorithm):
        return None
    rollout, surrogate = recipe.rollout, recipe.algorithm.surrogate
    answers = rollout.group_size + (rollout.anchors is not None)
    longest = answers * (rollout.max_prompt_tokens + rollout.max_response_tokens)
    if longest <= recipe.trainer.token_budget:
        return None
    return SettingError(
        "trainer.token_budget",
        f"{recipe.trainer.token_budget} tokens cannot hold a group of up to {longest}, which "
        f"algorithm.surrogate={surrogate} needs in one piece",
        f"set it to {longest} or more, or lower rollout.group_size or rollout.max_response_tokens",
    )


def whole_groups_are_weighed_by_answer(recipe: Recipe) -> SettingError | None:
    if recipe.algorithm.surrogate != "trpa" or recipe.algorithm.aggregation == "sequence":
        return None
    return SettingError(
        "algorithm.aggregation", "trpa's loss belongs to whole answers, not to their tokens", "set it to sequence"
    )


def answers_that_differ_are_all_kept(recipe: Recipe) -> SettingError | None:
    plan, over = plan_of(recipe), recipe.rollout.over_sampling
    if over is None or over.answers == 1 or not (plan.greedy or plan.budgets):
        return None
    why = "rollout.budgets" if plan.budgets else f"algorithm.advantage={recipe.algorithm.advantage}"
    return SettingError(
        "rollout.over_sampling.answers",
        f"{why} tells answers apart by their number, and answers beyond the wanted ones are dropped by it",
        "set it to 1",
    )


def budgets_are_asked_for(recipe: Recipe) -> SettingError | None:
    budgets, size = recipe.rollout.budgets, recipe.rollout.group_size
    field = f"{{metadata[{BUDGET}]}}"
    if budgets is None:
        if "budgets" not in needs_of_advantage(recipe.algorithm.advantage):
            return None
        reason = f"algorithm.advantage={recipe.algorithm.advantage} compares answers under different budgets"
        return SettingError("rollout.budgets", reason, "name at least two, e.g. [128, 256]")
    longest = recipe.rollout.max_response_tokens
    if list(budgets) != sorted(set(budgets)) or budgets[0] < 1 or budgets[-1] > longest:
        reason = f"{list(budgets)} do not ascend from 1 to at most rollout.max_response_tokens={longest}"
        return SettingError("rollout.budgets", reason, "order them, or let answers be longer")
    if size % len(budgets):
        return SettingError(
            "rollout.group_size", f"{size} answers are no equal shares of {len(budgets)} budgets", "choose a multiple"
        )
    if field not in recipe.data.template:
        return SettingError("data.template", f"no answer hears of rollout.budgets: {field} is missing", "add it")
    return None


def probes_are_read(recipe: Recipe) -> SettingError | None:
    algorithm, probes = recipe.algorithm, recipe.rollout.probes
    readers = [name for name in TRACE_ADVANTAGES.names() if "probes" in needs_of_advantage(name)]
    if algorithm.advantage not in readers:
        if probes is None:
            return None
        reason = f"algorithm.advantage={algorithm.advantage} reads no probes of an answer"
        return SettingError("rollout.probes", reason, f"leave them out, or take {' or '.join(readers)}")
    if probes is None:
        reason = f"algorithm.advantage={algorithm.advantage} compares values along an answer, and nothing measures them"
        return SettingError("rollout.probes", reason, "say where answers are cut, e.g. rollout.probes.every=64")
    if algorithm.advantage == "brpo" and probes.at is None:
        return SettingError("rollout.probes.at", "brpo's budgets are the cuts, the same in every answer", "set them")
    if probes.at is not None:
        longest = recipe.rollout.max_response_tokens
        if probes.at[-1] >= longest or len(probes.at) > probes.most:
            reason = (
                f"{list(probes.at)} must lie below rollout.max_response_tokens={longest}, and be at most {probes.most}"
            )
            return SettingError("rollout.probes.at", reason, "leave some out, or raise rollout.probes.most")
    return None


def advantages_along_an_answer_are_their_own_norm(recipe: Recipe) -> SettingError | None:
    algorithm = recipe.algorithm
    if algorithm.advantage not in TRACE_ADVANTAGES.names() or algorithm.advantage_norm == "none":
        return None
    return SettingError(
        "algorithm.advantage_norm",
        f"{algorithm.advantage_norm} is for one number per answer, and algorithm.advantage={algorithm.advantage} "
        f"gives one per token",
        "set it to none",
    )


def rewards_of_parts_are_read(recipe: Recipe) -> SettingError | None:
    name = recipe.algorithm.advantage
    if reads_token_rewards(name):
        return None
    paying = next((term for term in recipe.reward.terms if term.name in GIVES_SPANS and term.weight), None)
    if paying is None:
        return None
    return SettingError(
        "algorithm.advantage",
        f"{paying.logged_as} rewards parts of an answer, and {name} gives all tokens of an answer one number",
        "set it to capo_credit, or to gae for a critic; or set the term's weight to 0",
    )


def something_rewards_parts(recipe: Recipe) -> SettingError | None:
    name = recipe.algorithm.advantage
    if name not in TRACE_ADVANTAGES.names() or not reads_token_rewards(name) or pays_tokens(recipe):
        return None
    return SettingError(
        "reward.terms",
        f"algorithm.advantage={name} compares rewards of tokens, and no term rewards parts of an answer",
        f"add one that does ({', '.join(sorted(GIVES_SPANS))}, or one of your own), or take grpo",
    )


def likelihoods_are_measured_for_those_who_read_them(recipe: Recipe) -> SettingError | None:
    paying = any(term.name == "rlpr" for term in recipe.reward.terms)
    own = any(":" in term.name for term in recipe.reward.terms)
    asked = recipe.rollout.likelihood is not None
    if paying and not asked:
        reason = "the reward rlpr goes by how likely engines find the reference, and nobody asks them"
        return SettingError("rollout.likelihood", reason, "say where answers stand, e.g. {opening: '<answer>'}")
    if asked and not (paying or own):
        return SettingError("rollout.likelihood", "no reward reads it", "leave it out, or add the term rlpr")
    return None


def overlong_shaping_can_bite(recipe: Recipe) -> SettingError | None:
    rollout = recipe.rollout
    for term in recipe.reward.terms:
        if term.name != "overlong":
            continue
        longest, buffer = term.options.get("max_tokens"), term.options.get("buffer")
        if longest is None and rollout.budgets is None:
            reason = "overlong has no length to go by: neither its option max_tokens nor rollout.budgets is set"
            return SettingError("reward.terms", reason, "set one of the two")
        if not isinstance(longest, int) or not isinstance(buffer, int):
            continue
        if longest - buffer >= rollout.max_response_tokens:
            reason = f"overlong begins at {longest - buffer} tokens, which no answer exceeds"
            return SettingError("reward.terms", reason, "lower max_tokens, or raise rollout.max_response_tokens")
    return None


def anchors_have_a_rule(recipe: Recipe) -> SettingError | None:
    rule = recipe.algorithm.off_policy
    if recipe.rollout.anchors is None or "behaviour" not in needs_of(OFF_POLICY[rule]):
        return None
    reason = f"{rule} needs the logprobs of whoever wrote a token, and rollout.anchors have none"
    return SettingError(OFF_POLICY.kind, reason, "set it to shaped or likelihood")


GROUP_RULES: tuple[Callable[[Recipe], SettingError | None], ...] = (
    masks_are_registered,
    filters_are_registered,
    filters_leave_what_is_learned_from,
    outliers_can_be_found,
    moments_of_the_old_policy_are_known,
    whole_groups_fit_a_microbatch,
    whole_groups_are_weighed_by_answer,
    answers_that_differ_are_all_kept,
    budgets_are_asked_for,
    probes_are_read,
    advantages_along_an_answer_are_their_own_norm,
    rewards_of_parts_are_read,
    something_rewards_parts,
    likelihoods_are_measured_for_those_who_read_them,
    overlong_shaping_can_bite,
    anchors_have_a_rule,
)
