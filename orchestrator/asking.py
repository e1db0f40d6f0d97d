"""What is asked beside a group's plain prompt and whole answers: prompts under budgets, probes, worked solutions,
rewards of tokens, the likelihood of references.

Functions of the recipe and its prepared inputs alone; where the recipe asks for nothing, None or the plain way.
"""

from collections.abc import Callable

from actors.engine import Sampling
from orchestrator.anchors import Anchors
from orchestrator.config import Recipe
from orchestrator.group_plan import GroupPlan
from orchestrator.policies.groups import GroupInFlight, ScoredGroup
from orchestrator.preflight import Prepared
from orchestrator.probes import ProbePlan
from orchestrator.reference_likelihood import ReferencePlacer
from orchestrator.rollout_fleet import RolloutFleet
from orchestrator.scoring_pass import ScoringPass
from orchestrator.token_bytes import bytes_of_tokens
from orchestrator.token_rewards import TokenRewards, pays_tokens


def prompt_of(plan: GroupPlan, prepared: Prepared) -> Callable[[GroupInFlight | ScoredGroup, int], tuple[int, ...]]:
    """Token ids of the prompt of each answer of a group: its own where answers are asked for under budgets."""
    if not plan.budgets:
        return lambda group, _: group.prompt_ids
    return lambda group, sample: prepared.encode(plan.asked(group.prompt, sample))


def probes_of(recipe: Recipe, prepared: Prepared, common: Sampling) -> ProbePlan | None:
    """What is asked for at cuts through an answer, if anything."""
    probes = recipe.rollout.probes
    if probes is None:
        return None
    ask_ids = prepared.tokenizer.encode(probes.ask, add_special_tokens=False) if probes.ask else ()
    return ProbePlan(probes, common, ask_ids, most_tokens=recipe.rollout.max_response_tokens, seed=recipe.seed)


def anchors_of(recipe: Recipe, prepared: Prepared) -> Anchors | None:
    """Worked solutions that may join a group, if any."""
    settings, tokenizer = recipe.rollout.anchors, prepared.tokenizer
    if settings is None:
        return None

    def encode(text: str) -> tuple[int, ...]:
        return (*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id)

    return Anchors(settings, encode, most_tokens=recipe.rollout.max_response_tokens)


def scoring_pass_of(recipe: Recipe, prepared: Prepared, fleet: RolloutFleet) -> ScoringPass | None:
    """How the engines are asked for the likelihood of references, if they are.

    Raises:
        SettingError: nobody can tell what each token of this tokenizer says.
    """
    rollout, tokenizer = recipe.rollout, prepared.tokenizer
    if rollout.likelihood is None:
        return None

    def encode(text: str) -> list[int]:
        ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
        return ids

    # One token less than the context holds: vLLM samples one more to score.
    most = prepared.context_length - 1
    placer = ReferencePlacer(rollout.likelihood, bytes_of_tokens(tokenizer), encode, most_tokens=most)
    return ScoringPass(placer, fleet, timeout_s=rollout.answer_timeout_s)


def token_rewards_of(recipe: Recipe, prepared: Prepared) -> TokenRewards | None:
    """How rewards of parts of a text become rewards of tokens, where a term may give and the advantage reads them.

    Raises:
        SettingError: nobody can tell what each token of this tokenizer says.
    """
    return TokenRewards(bytes_of_tokens(prepared.tokenizer)) if pays_tokens(recipe) else None
