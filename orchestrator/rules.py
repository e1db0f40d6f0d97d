"""Rules that join sections of a recipe. Each says in one line what cannot work and which setting to change.

They need nothing but the recipe; what depends on the machine, the model or the data is checked in `preflight`.
"""

from collections.abc import Callable, Sequence

import torch

from actors.speculation.selectors import SELECTORS
from learners.advantages import ADVANTAGES, NORMS, TRACE_ADVANTAGES, GroupRewards, MomentNorm, Trace, TracedGroup
from learners.critic.advantages import VALUE_ADVANTAGES, ValuedTokens, asks_critic
from learners.logprobs import Moments
from learners.objective import needs_of_objective
from learners.off_policy import OFF_POLICY, OffPolicyInput
from learners.options import OptionError, with_options
from learners.registry import UnknownNameError
from learners.surrogates import SURROGATES, SurrogateInput
from learners.terms import TERMS, TermInput
from orchestrator.config import Recipe
from orchestrator.errors import SettingError
from orchestrator.group_plan import plan_of
from orchestrator.nearest import did_you_mean
from orchestrator.reward_rules import sandboxes_end_in_time
from orchestrator.rules_for_groups import GROUP_RULES
from orchestrator.rules_for_places import PLACE_RULES
from orchestrator.stages.kind_rules import KIND_RULES

Rule = Callable[[Recipe], SettingError | None]


def _unknown(setting: str, name: str, known: Sequence[str]) -> SettingError:
    return SettingError(setting, f"no {name}{did_you_mean(name, known)}", f"known are {', '.join(known)}")


def parts_are_registered(recipe: Recipe) -> SettingError | None:
    algorithm = recipe.algorithm
    estimators = [*ADVANTAGES.names(), *TRACE_ADVANTAGES.names(), *VALUE_ADVANTAGES.names()]
    chosen = (
        (ADVANTAGES.kind, algorithm.advantage, sorted(estimators)),
        (NORMS.kind, algorithm.advantage_norm, NORMS.names()),
        (SURROGATES.kind, algorithm.surrogate, SURROGATES.names()),
        (OFF_POLICY.kind, algorithm.off_policy, OFF_POLICY.names()),
    )
    for kind, name, known in chosen:
        if name not in known and ":" not in name:
            return _unknown(kind, name, known)
    return None


def parts_take_their_options(recipe: Recipe) -> SettingError | None:
    """Each part is tried on one small example: what it refuses then, it would refuse in the run."""
    algorithm, one = recipe.algorithm, torch.zeros(1)
    moments = Moments(one, one, one, one)
    low, high = algorithm.clip_low, algorithm.clip_high
    example = SurrogateInput(
        one - 1, one - 1, one, one + 1, one.long(), one, one, low, high, one.long(), moments, moments
    )
    try:
        kind = ADVANTAGES.kind
        _try_advantage(recipe)
        kind = OFF_POLICY.kind
        rule = with_options(OFF_POLICY[algorithm.off_policy], algorithm.off_policy_options)
        rule(OffPolicyInput(one - 1, one - 1, one))
        kind = NORMS.kind
        with_options(NORMS[algorithm.advantage_norm], algorithm.advantage_norm_options)()
        kind = SURROGATES.kind
        with_options(SURROGATES[algorithm.surrogate], algorithm.surrogate_options)(example)
    except OptionError as error:
        return SettingError(f"{kind}_options.{error.option}", str(error), "see `paceline methods`")
    except UnknownNameError as error:
        return SettingError(kind, str(error.args[0]), "name a module on the Python path, and what is in it")
    except ValueError as error:
        return SettingError(f"{kind}_options", str(error), "see `paceline methods`")
    return None


def _try_advantage(recipe: Recipe) -> None:
    """On a group of one answer. Raises what the estimator raises."""
    name, options = recipe.algorithm.advantage, recipe.algorithm.advantage_options
    if asks_critic(name):
        one = torch.zeros(1)
        with_options(VALUE_ADVANTAGES[name], options)(ValuedTokens(one, one.long(), one, one, one.bool()))
        return
    if name in TRACE_ADVANTAGES.names():
        with_options(TRACE_ADVANTAGES[name], options)(TracedGroup((Trace(1, 0.0),), (1,)))
        return
    scored = {term.logged_as: 0.0 for term in recipe.reward.terms}
    wanted = str(options.get("score", ""))
    if wanted.partition("/")[0] in scored:  # one of several values of a term
        scored[wanted] = 0.0
    with_options(ADVANTAGES[name], options)(GroupRewards((0.0,), terms=(scored,), greedy=0.0, parts=(0,)))


def terms_are_registered(recipe: Recipe) -> SettingError | None:
    one = torch.zeros(1)
    example = TermInput(one - 1, one + 1, one, one.long(), one - 1)
    for settings in recipe.algorithm.terms:
        if settings.name not in TERMS:
            return _unknown(TERMS.kind, settings.name, TERMS.names())
        try:
            with_options(TERMS[settings.name].loss, settings.options)(example)
        except UnknownNameError as error:
            return SettingError(TERMS.kind, str(error.args[0]), "name a module on the Python path, and what is in it")
        except ValueError as error:
            return SettingError(TERMS.kind, f"{settings.name}: {error}", "see `paceline methods`")
    return None


def the_norm_sees_what_it_needs(recipe: Recipe) -> SettingError | None:
    name = recipe.algorithm.advantage_norm
    norm = with_options(NORMS[name], recipe.algorithm.advantage_norm_options)()
    if not (recipe.trainer.stream and norm.whole_batch):
        return None
    return SettingError(
        "algorithm.advantage_norm",
        f"{name} needs all groups of a step at once, and trainer.stream=true trains on them one by one",
        "leave out one of the two",
    )


def the_norm_can_norm_tokens(recipe: Recipe) -> SettingError | None:
    algorithm = recipe.algorithm
    norm = with_options(NORMS[algorithm.advantage_norm], algorithm.advantage_norm_options)()
    if not asks_critic(algorithm.advantage) or algorithm.advantage_norm == "none" or isinstance(norm, MomentNorm):
        return None
    return SettingError(
        "algorithm.advantage_norm",
        f"{algorithm.advantage_norm} norms answers, and algorithm.advantage={algorithm.advantage} is of tokens",
        "set it to none, batch_std or batch_whiten",
    )


def a_critic_has_room(recipe: Recipe) -> SettingError | None:
    trainer, advantage = recipe.trainer, recipe.algorithm.advantage
    if not asks_critic(advantage):
        return None
    if recipe.topology.learner.sequence_parallel > 1:
        return SettingError(
            "topology.learner.sequence_parallel",
            f"algorithm.advantage={advantage} has a critic, which does not share rows over ranks",
            "set it to 1, or choose an advantage without a critic",
        )
    if trainer.backend != "fsdp2":
        return SettingError(
            "trainer.backend",
            f"algorithm.advantage={advantage} has a critic, which FSDP2 alone trains",
            "set it to fsdp2, or choose an advantage without a critic",
        )
    return None


def attention_is_watched_on_whole_rows(recipe: Recipe) -> SettingError | None:
    if recipe.topology.learner.sequence_parallel == 1 or "attention" not in needs_of_objective(recipe.algorithm):
        return None
    return SettingError(
        "topology.learner.sequence_parallel",
        "the attention of rows that ranks share is not watched, and a mask of algorithm.masks asks for it",
        "set it to 1, or leave out the mask",
    )


def a_critic_has_a_use(recipe: Recipe) -> SettingError | None:
    algorithm = recipe.algorithm
    if algorithm.critic is None or asks_critic(algorithm.advantage):
        return None
    return SettingError(
        "algorithm.critic",
        f"is set, but algorithm.advantage={algorithm.advantage} asks no critic",
        f"leave it out, or set algorithm.advantage to one of {', '.join(VALUE_ADVANTAGES.names())}",
    )


def virtual_answers_meet_uniform_groups(recipe: Recipe) -> SettingError | None:
    algorithm = recipe.algorithm
    if not (algorithm.advantage == "ngrpo" and algorithm.drop_zero_variance):
        return None
    return SettingError(
        "algorithm.drop_zero_variance",
        "true drops the all-wrong groups from which algorithm.advantage=ngrpo learns",
        "set it to false",
    )


def the_governor_is_known(recipe: Recipe) -> SettingError | None:
    name = None if recipe.speculation is None else recipe.speculation.governor
    known = ["fixed", *SELECTORS.names()]
    if name is None or name in known or ":" in name:  # a function of the user's own
        return None
    return _unknown("speculation.governor", name, known)


def groups_have_a_baseline(recipe: Recipe) -> SettingError | None:
    size, algorithm = recipe.rollout.group_size, recipe.algorithm
    if plan_of(recipe).answers >= 2 or (asks_critic(algorithm.advantage) and not algorithm.drop_zero_variance):
        return None
    # Neither likelihood nor a teacher compares the answers to a prompt with each other.
    if recipe.kind in ("rejection", "distill"):
        return None
    if asks_critic(algorithm.advantage):
        return SettingError(
            "algorithm.drop_zero_variance",
            f"true drops every group, since rollout.group_size={size} leaves none with two rewards",
            "set it to false",
        )
    return SettingError(
        "rollout.group_size",
        f"{size} answer per prompt leaves algorithm.advantage={recipe.algorithm.advantage} without a group to compare",
        "set it to 2 or more",
    )


def minibatches_divide_the_batch(recipe: Recipe) -> SettingError | None:
    prompts, parts = recipe.trainer.prompts_per_step, recipe.trainer.minibatches
    if prompts % parts == 0:
        return None
    return SettingError(
        "trainer.minibatches",
        f"{parts} minibatches do not divide trainer.prompts_per_step={prompts}",
        "choose a divisor of trainer.prompts_per_step",
    )


def every_rank_has_work(recipe: Recipe) -> SettingError | None:
    sequences = recipe.trainer.prompts_per_step * recipe.rollout.group_size // recipe.trainer.minibatches
    learner = recipe.topology.learner
    readers = learner.ranks // learner.sequence_parallel
    if readers <= sequences:
        return None
    return SettingError(
        "topology.learner.ranks",
        f"{readers} ranks share {sequences} answers per minibatch",
        "use fewer ranks, fewer minibatches or more prompts per step",
    )


def longest_answer_fits_a_microbatch(recipe: Recipe) -> SettingError | None:
    longest = recipe.rollout.max_prompt_tokens + recipe.rollout.max_response_tokens
    if longest <= recipe.trainer.token_budget:
        return None
    return SettingError(
        "trainer.token_budget",
        f"{recipe.trainer.token_budget} tokens cannot hold one prompt and answer of up to {longest}",
        f"set it to {longest} or more, or shorten rollout.max_response_tokens",
    )


def a_group_fits_an_engine(recipe: Recipe) -> SettingError | None:
    running, size = recipe.rollout.max_running, plan_of(recipe).answers
    if running >= size:
        return None
    return SettingError(
        "rollout.max_running", f"{running} is less than rollout.group_size={size}", f"set it to {size} or more"
    )


def over_sampling_fits(recipe: Recipe) -> SettingError | None:
    rollout = recipe.rollout
    if rollout.over_sampling is None or rollout.over_sampling.leftovers != "resume":
        return None
    if rollout.max_staleness == 0:
        return SettingError(
            "rollout.over_sampling.leftovers",
            "resumed answers hold older tokens, which rollout.max_staleness=0 forbids",
            "set rollout.max_staleness to 1 or more, or leftovers to long_round",
        )
    if rollout.over_sampling.answers > 1:
        return SettingError(
            "rollout.over_sampling.answers",
            "answers beyond the wanted ones cannot be resumed",
            "set it to 1, or leftovers to long_round",
        )
    return None


def hard_staleness_is_beyond(recipe: Recipe) -> SettingError | None:
    rollout = recipe.rollout
    if rollout.late != "train" or rollout.hard_staleness >= rollout.max_staleness:
        return None
    return SettingError(
        "rollout.hard_staleness",
        f"{rollout.hard_staleness} is less than rollout.max_staleness={rollout.max_staleness}",
        "raise it",
    )


def kv_band_is_ordered(recipe: Recipe) -> SettingError | None:
    if recipe.rollout.kv_low < recipe.rollout.kv_high:
        return None
    return SettingError(
        "rollout.kv_low", f"{recipe.rollout.kv_low:g} is not below kv_high={recipe.rollout.kv_high:g}", "lower it"
    )


def correction_bounds_are_ordered(recipe: Recipe) -> SettingError | None:
    correction = recipe.algorithm.correction
    if correction.low <= correction.high:
        return None
    return SettingError(
        "algorithm.correction.low", f"{correction.low:g} lies above high={correction.high:g}", "swap the bounds"
    )


def sampling_keeps_the_vocabulary(recipe: Recipe) -> SettingError | None:
    if recipe.rollout.top_p == 1.0 and recipe.rollout.top_k == 0:
        return None
    # The learner's forward knows the whole vocabulary's distribution, the engine's logprobs a truncated one.
    return SettingError(
        "rollout.top_p",
        "a cut vocabulary makes engine and learner logprobs incomparable in training",
        "keep rollout.top_p=1 and rollout.top_k=0",
    )


def what_repeats_waits_for_nobody(recipe: Recipe) -> SettingError | None:
    """A result that depends on what finishes first cannot repeat."""
    if not recipe.deterministic:
        return None
    asked = next((name for name, model in recipe.reward.models.items() if not model.served), "")
    rollout, by_the_clock = recipe.rollout, "lets what finishes first decide what is trained on"
    chance = (
        (rollout.max_staleness > 0, "rollout.max_staleness", f"{rollout.max_staleness} {by_the_clock}", "set it to 0"),
        (rollout.over_sampling is not None, "rollout.over_sampling", by_the_clock, "leave it out"),
        (recipe.trainer.stream, "trainer.stream", f"true {by_the_clock} first", "set it to false"),
        (recipe.speculation is not None, "speculation", "drafts change with the batch and the clock", "set it to off"),
        (
            bool(asked),
            f"reward.models.{asked}.url",
            "an endpoint's answers do not repeat",
            "let the run serve the model",
        ),
    )
    for found, setting, reason, fix in chance:
        if found:
            return SettingError(setting, f"{reason}, and deterministic=true wants bits that repeat", fix)
    return None


def programs_end_in_time(recipe: Recipe) -> SettingError | None:
    return sandboxes_end_in_time(recipe.reward)


RULES: tuple[Rule, ...] = (
    parts_are_registered,
    parts_take_their_options,
    terms_are_registered,
    the_norm_sees_what_it_needs,
    the_norm_can_norm_tokens,
    a_critic_has_a_use,
    a_critic_has_room,
    attention_is_watched_on_whole_rows,
    virtual_answers_meet_uniform_groups,
    the_governor_is_known,
    groups_have_a_baseline,
    *GROUP_RULES,
    minibatches_divide_the_batch,
    every_rank_has_work,
    longest_answer_fits_a_microbatch,
    a_group_fits_an_engine,
    over_sampling_fits,
    hard_staleness_is_beyond,
    kv_band_is_ordered,
    correction_bounds_are_ordered,
    sampling_keeps_the_vocabulary,
    what_repeats_waits_for_nobody,
    programs_end_in_time,
    *PLACE_RULES,
    *KIND_RULES,
)


def check_rules(recipe: Recipe) -> None:
    """Raises:
    SettingError: the first rule that the recipe breaks.
    """
    for rule in RULES:
        error = rule(recipe)
        if error is not None:
            raise error
