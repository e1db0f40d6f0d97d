"""Rules about what a recipe's kind needs and has no use for; `orchestrator.rules` asks them with its own."""

from collections.abc import Callable

import torch

from learners.options import OptionError, with_options
from learners.preferences import PREFERENCES, Groups, Pairs
from learners.registry import UnknownNameError
from learners.settings import AlgorithmSettings
from orchestrator.config import Recipe
from orchestrator.errors import SettingError
from orchestrator.nearest import did_you_mean
from orchestrator.stages.kinds import BROUGHT, IDLE
from orchestrator.stages.overlay import value_at


def the_kind_uses_what_is_set(recipe: Recipe) -> SettingError | None:
    settled = recipe.model_dump(mode="json")
    defaults = {"algorithm": AlgorithmSettings().model_dump(mode="json")}
    for name in IDLE[recipe.kind]:
        brought = value_at(BROUGHT[recipe.kind], name)
        if value_at(settled, name) != (brought if brought is not None else value_at(defaults, name)):
            return SettingError(name, f"means nothing where kind is {recipe.kind}", f"leave out {name}, or change kind")
    return None


def the_kind_has_what_it_needs(recipe: Recipe) -> SettingError | None:
    needed: dict[str, dict[str, object]] = {
        "rejection": {"keep": recipe.keep},
        "preference": {"pairs": recipe.pairs, "algorithm.preference": recipe.algorithm.preference},
        "distill": {"algorithm.teacher": recipe.algorithm.teacher},
    }
    for name, value in needed.get(recipe.kind, {}).items():
        if value is None:
            return SettingError(name, f"is missing, and kind is {recipe.kind}", f"set {name}, or change kind")
    return None


def the_preference_is_registered(recipe: Recipe) -> SettingError | None:
    """It is tried on one small example: what it refuses then, it would refuse in the run."""
    settings = recipe.algorithm.preference
    if settings is None:
        return None
    if settings.name not in PREFERENCES:
        guess = did_you_mean(settings.name, PREFERENCES.names())
        known = f"known are {', '.join(PREFERENCES.names())}"
        return SettingError(PREFERENCES.kind, f"no {settings.name}{guess}", known)
    one = torch.ones(1)
    pairs = Pairs(-one, -2 * one, one, one, -one, -one)
    groups = Groups(-one, one, one > 0, one.long() - 1, -one)
    try:
        chosen = PREFERENCES[settings.name]
        with_options(chosen.loss, settings.options)(pairs if chosen.of == "pairs" else groups)
    except OptionError as error:
        return SettingError(f"algorithm.preference.options.{error.option}", str(error), "see `paceline methods`")
    except UnknownNameError as error:
        return SettingError(PREFERENCES.kind, str(error.args[0]), "name a module on the Python path, and what is in it")
    except ValueError as error:
        return SettingError("algorithm.preference.options", str(error), "see `paceline methods`")
    if settings.against == "behaviour" and not chosen.compares:
        reason = f"behaviour is set, but {settings.name} compares with no other policy"
        return SettingError("algorithm.preference.against", reason, "leave it out")
    return None


def what_is_compared_fits_a_microbatch(recipe: Recipe) -> SettingError | None:
    settings = recipe.algorithm.preference
    if settings is None:
        return None
    rollout, pairs = recipe.rollout, PREFERENCES[settings.name].of == "pairs"
    answers = 2 if pairs else rollout.group_size
    longest = answers * (rollout.max_prompt_tokens + rollout.max_response_tokens)
    if longest <= recipe.trainer.token_budget:
        return None
    what = "a pair" if pairs else f"a group of {answers}"
    return SettingError(
        "trainer.token_budget",
        f"{recipe.trainer.token_budget} tokens cannot hold {what} of up to {longest} together",
        f"set it to {longest} or more, or shorten rollout.max_response_tokens",
    )


def late_answers_are_trained_or_not(recipe: Recipe) -> SettingError | None:
    if recipe.kind not in ("rejection", "preference") or recipe.rollout.late != "baseline_only":
        return None
    reason = f"baseline_only counts late answers in a baseline, and kind={recipe.kind} has none"
    return SettingError("rollout.late", reason, "set it to wait, train or drop")


def a_restart_trains_on_whole_batches(recipe: Recipe) -> SettingError | None:
    if recipe.keep is None or not (recipe.keep.restart and recipe.trainer.stream):
        return None
    reason = "true begins each step anew, and trainer.stream=true trains while answers are still sampled"
    return SettingError("keep.restart", reason, "leave out one of the two")


KIND_RULES: tuple[Callable[[Recipe], SettingError | None], ...] = (
    the_kind_uses_what_is_set,
    the_kind_has_what_it_needs,
    the_preference_is_registered,
    what_is_compared_fits_a_microbatch,
    late_answers_are_trained_or_not,
    a_restart_trains_on_whole_batches,
)
