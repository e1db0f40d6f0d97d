"""What to change: every setting that helps is tried, and those that do are named in the order of what they cost.

A change is tried by planning the changed recipe anew, so that what it saves is the plan's own difference, and rules
that refuse it take it off the list.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from learners.errors import UnfitError
from orchestrator.config import Recipe
from orchestrator.errors import SettingError
from orchestrator.planning.learner_role import longest_sequence
from orchestrator.planning.memory import gib
from orchestrator.planning.places import ENGINES, LEARNER_RANKS, SEQUENCE_PARALLEL, TENSOR_PARALLEL, places_of
from orchestrator.planning.plan import Setting, StagePlan, plan_stage
from orchestrator.recipe import Tree, as_recipe, validated
from orchestrator.stages.overlay import laid_over
from orchestrator.stages.recipes import StageRecipe, SupervisedRecipe

MOST = 6
"""Pieces of advice that are shown."""
LEAST_SAVED = 0.02
"""Share of what lacks that a change must save to be named."""


@dataclass(frozen=True, slots=True)
class Change:
    """Attributes:
    changes: values by dotted name.
    cost: what is given up, in words; cheaper ones stand before dearer ones in `changes_for`.
    more_gpus: how many more GPUs it takes.
    """

    changes: dict[str, object]
    cost: str
    more_gpus: int = 0

    @property
    def text(self) -> str:
        return " ".join(f"{name}={_written(value)}" for name, value in self.changes.items())


@dataclass(frozen=True, slots=True)
class Advice:
    """A change that was tried.

    Attributes:
        where: what is too large: a role, of which each process counts, or the main memory.
        saved: bytes that it needs less there.
        helped: bytes that lack less, everywhere.
        enough: whether nothing is at fault then.
    """

    change: Change
    where: str
    saved: int
    helped: int
    enough: bool

    def __str__(self) -> str:
        enough = " and makes it fit" if self.enough else ""
        return f"{self.where}: {self.change.text} saves {gib(self.saved)}{enough}; {self.change.cost}"


def advise(plan: StagePlan, setting: Setting) -> list[Advice]:
    """What makes the stage fit, or comes nearer to it; empty where it fits, or where no memory lacks."""
    if not plan.lacking:
        return []
    found = []
    for change in changes_for(plan):
        tried = _try(plan, change, setting)
        if tried is not None and tried.helped > LEAST_SAVED * plan.lacking:
            found.append(tried)
    enough = [advice for advice in found if advice.enough and not _goes_too_far(advice, found)]
    # In the order of their cost where one alone is enough, by what they save where none is.
    rest = sorted((advice for advice in found if not advice.enough), key=lambda advice: -advice.helped)
    return (enough + rest)[:MOST]


def _goes_too_far(advice: Advice, found: Sequence[Advice]) -> bool:
    """Whether a part of the change is enough already."""
    own = advice.change.changes.items()
    return any(other.enough and other.change.changes.items() < own for other in found)


def changes_for(plan: StagePlan) -> Iterator[Change]:
    """Settings worth trying, those that cost least first."""
    tight = {role.name for role in plan.roles if role.lacks} or {role.name for role in plan.roles}
    if "rollout" in tight:
        yield from _of_rollout(plan)
    if "learner" in tight:
        yield from _of_learner(plan)
    if "rollout" in tight and isinstance(plan.recipe, Recipe):
        yield from _last_resorts(plan.recipe)


def _of_rollout(plan: StagePlan) -> Iterator[Change]:
    recipe = plan.recipe
    if not isinstance(recipe, Recipe):
        return
    rollout, places = recipe.rollout, places_of(recipe)
    on_gpu = plan.placement.device == "gpu"
    if on_gpu and rollout.gpu_memory_utilization > 0.7:
        yield Change({"rollout.gpu_memory_utilization": 0.7}, "the KV cache becomes smaller")
    if not on_gpu and rollout.engine == "vllm":
        yield Change({"rollout.kv_cache_gib": _half(rollout.kv_cache_gib)}, "fewer answers run at a time")
    if rollout.engine == "torch" and rollout.max_running > rollout.group_size:
        most = max(rollout.group_size, rollout.max_running // 2)
        yield Change({"rollout.max_running": most}, "fewer answers run at a time")
    if rollout.dtype == "float32":
        yield Change({"rollout.dtype": "bfloat16"}, "logprobs are rounded")
    if on_gpu:
        double = 2 * places.tensor_parallel
        yield Change({TENSOR_PARALLEL: double}, "takes more GPUs", places.engines * places.tensor_parallel)
    if places.engines > 1:
        yield Change({ENGINES: places.engines // 2}, "sampling takes twice as long")


def _of_learner(plan: StagePlan) -> Iterator[Change]:
    recipe, places = plan.recipe, places_of(plan.recipe)
    trainer, on_gpu = recipe.trainer, plan.placement.device == "gpu"
    longest = longest_sequence(recipe) if isinstance(recipe, Recipe) else trainer.token_budget // 2
    smaller = max(longest, trainer.token_budget // 2)
    if smaller < trainer.token_budget:
        yield Change({"trainer.token_budget": smaller}, "more and smaller passes")
    if trainer.backend == "deepspeed" and trainer.zero_stage == 2:
        yield Change({"trainer.zero_stage": 3}, "weights travel in every pass")
    if not trainer.activation_checkpointing:
        yield Change({"trainer.activation_checkpointing": True}, "training takes about a third longer")
    if longest < trainer.token_budget and not trainer.activation_checkpointing:
        both: dict[str, object] = {"trainer.activation_checkpointing": True, "trainer.token_budget": longest}
        yield Change(both, "training takes about a third longer, in smaller passes")
    if trainer.dtype == "float32":
        yield Change({"trainer.dtype": "bfloat16"}, "the passes compute in bfloat16")
    if on_gpu:
        for factor in (2, 4, 8):
            more = (factor - 1) * places.ranks
            yield Change({LEARNER_RANKS: factor * places.ranks}, "takes more GPUs", more)
        if not trainer.cpu_offload and trainer.backend == "fsdp2":
            offload: dict[str, object] = {"trainer.cpu_offload": True}
            yield Change(offload, "the optimizer steps on the CPU, much slower")
            yield Change(
                {**offload, "trainer.activation_checkpointing": True}, "the optimizer steps on the CPU, much slower"
            )
        if places.sequence_parallel == 1:
            shared: dict[str, object] = {LEARNER_RANKS: 2 * places.ranks, SEQUENCE_PARALLEL: 2}
            yield Change(shared, "takes more GPUs, two share a row", places.ranks)
    if trainer.lora is None:
        yield Change({"trainer.lora": {}}, "trains adapters alone")


def _last_resorts(recipe: Recipe) -> Iterator[Change]:
    half = recipe.rollout.max_response_tokens // 2
    if half:
        yield Change({"rollout.max_response_tokens": half}, "long answers are cut")


def _try(plan: StagePlan, change: Change, setting: Setting) -> Advice | None:
    """None where the changed recipe is refused."""
    try:
        recipe = changed(plan.recipe, change.changes)
        again = plan_stage(recipe, _with_gpus(setting, change.more_gpus))
    except (SettingError, UnfitError):
        return None
    where, before = _tightest(plan)
    after = next((role.need.total for role in again.roles if role.label == where), again.main_memory)
    return Advice(change, where, before - after, plan.lacking - again.lacking, again.fits)


def _tightest(plan: StagePlan) -> tuple[str, int]:
    """What lacks most, and what it needs: of a role each process, or all of the main memory."""
    role = max(plan.roles, key=lambda role: role.lacks)
    return (role.label, role.need.total) if role.lacks else ("main memory", plan.main_memory)


def changed(recipe: StageRecipe, changes: dict[str, object]) -> StageRecipe:
    """The recipe with these settings, checked by the same rules.

    Raises:
        SettingError: it cannot be so.
    """
    tree: Tree = recipe.model_dump(mode="json")
    for name, value in changes.items():
        branch: object = value
        for part in reversed(name.split(".")):
            branch = {part: branch}
        assert isinstance(branch, dict), "a name has a part"
        tree = laid_over(tree, branch)
    return validated(SupervisedRecipe, tree) if isinstance(recipe, SupervisedRecipe) else as_recipe(tree)


def _with_gpus(setting: Setting, more: int) -> Setting:
    machine = setting.machine
    return replace(setting, machine=replace(machine, accelerators=machine.accelerators + more)) if more else setting


def _half(value: float) -> float:
    return round(value / 2, 3)


def _written(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
