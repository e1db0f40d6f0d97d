"""The plan of a stage: its lines, what does not fit or divide, and how fast it may be. Starts nothing."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from learners.errors import UnfitError
from orchestrator.config import Recipe
from orchestrator.errors import SettingError
from orchestrator.placement import Device, Placement, place
from orchestrator.planning import processes
from orchestrator.planning.expected import Expectation, expect
from orchestrator.planning.hardware import Hardware
from orchestrator.planning.learner_role import cpu_rank_need, process_bytes, rank_need
from orchestrator.planning.machine import Machine
from orchestrator.planning.memory import Need, gib
from orchestrator.planning.model_shape import ModelShape, PlannedModel, shape_of
from orchestrator.planning.other_roles import driver_role, judge_roles, reward_role
from orchestrator.planning.passes import UnforeseenError
from orchestrator.planning.places import ENGINES, TENSOR_PARALLEL, places_of
from orchestrator.planning.role import Role
from orchestrator.planning.rollout_role import (
    drafter_trainer_need,
    engine_need,
    engine_process_bytes,
)
from orchestrator.planning.speed import Calibration
from orchestrator.preflight import check_context, check_tensor_parallel, check_trainer
from orchestrator.stages.recipes import StageRecipe

ENOUGH_GPUS = 1_000_000
ModelOf = Callable[[str, str], PlannedModel]


@dataclass(frozen=True, slots=True)
class Setting:
    """What surrounds a plan.

    Attributes:
        cores: measures this many cores; None where speeds on cores cannot be known.
        calibration: of a recorded run.
        answer_tokens: mean length of an answer; None assumes half of the longest.
    """

    machine: Machine
    model_of: ModelOf
    cores: Callable[[int], Hardware] | None = None
    calibration: Calibration | None = None
    answer_tokens: float | None = None


@dataclass(frozen=True, slots=True)
class StagePlan:
    """Attributes:
    faults: what cannot work, memory that lacks included; none where the stage fits.
    main_memory: what all processes need of it, bytes, and what there is; None where that is not known.
    """

    stage: str
    recipe: StageRecipe
    shape: ModelShape
    placement: Placement
    roles: tuple[Role, ...]
    faults: tuple[SettingError, ...]
    main_memory: int
    main_memory_limit: int | None
    expectation: Expectation | None
    notes: tuple[str, ...]

    @property
    def fits(self) -> bool:
        return not self.faults

    @property
    def lacking(self) -> int:
        """Bytes that lack somewhere, added up; 0 where all of it fits."""
        over = 0 if self.main_memory_limit is None else max(0, self.main_memory - self.main_memory_limit)
        return over + sum(role.lacks * role.count for role in self.roles)


def plan_stage(recipe: StageRecipe, setting: Setting) -> StagePlan:
    """Raises:
    SettingError: a model's configuration cannot be had.
    """
    model = setting.model_of(recipe.model, "model")
    faults = list(_misfits(recipe, model))
    placement, fault = _placed(recipe, setting.machine)
    faults += [] if fault is None else [fault]
    notes: list[str] = []
    roles = tuple(_roles(recipe, model, placement, setting, notes))
    needed, limit = _main_memory(roles), setting.machine.memory
    faults += _too_large(recipe, roles, placement)
    if limit is not None and needed > limit:
        reason = f"all processes need {gib(needed)}, {setting.machine.name} has {gib(limit)}"
        faults.append(SettingError("main memory", reason, "see the advice below"))
    expectation = None
    if isinstance(recipe, Recipe):
        expectation = expect(
            recipe,
            shape_of(model),
            placement,
            setting.machine,
            cores=setting.cores,
            calibration=setting.calibration,
            answer_tokens=setting.answer_tokens,
            room=_room(recipe, model, placement, setting.machine),
        )
    return StagePlan(
        recipe.name,
        recipe,
        shape_of(model),
        placement,
        roles,
        tuple(faults),
        needed,
        limit,
        expectation,
        tuple(notes),
    )


def _misfits(recipe: StageRecipe, model: PlannedModel) -> Iterator[SettingError]:
    """What the model cannot take. What the recipe alone contradicts was refused when it was read."""
    checks: Sequence[Callable[[], object]] = [lambda: check_trainer(recipe, model.config)]
    if isinstance(recipe, Recipe):
        rl = recipe
        checks = [
            *checks,
            lambda: check_context(rl, model.config),
            lambda: check_tensor_parallel(rl, model.config),
        ]
    for check in checks:
        try:
            check()
        except SettingError as error:
            yield error


def _placed(recipe: StageRecipe, machine: Machine) -> tuple[Placement, SettingError | None]:
    """Where everything goes; as if there were GPUs enough where there are too few."""
    if not isinstance(recipe, Recipe):
        on_gpu = recipe.device == "gpu" or (recipe.device == "auto" and machine.accelerators > 0)
        lacks = on_gpu and machine.accelerators < places_of(recipe).ranks
        reason = f"{places_of(recipe).ranks} ranks need as many GPUs, there are {machine.accelerators}"
        fault = SettingError("topology.learner.ranks", reason, "use fewer") if lacks else None
        device: Device = "gpu" if on_gpu else "cpu"
        return Placement(device, 0, 1 if on_gpu else 0, "nccl" if on_gpu else "gloo", 0.0), fault
    try:
        return place(_alone(recipe), gpus=machine.accelerators), None
    except SettingError as error:
        if recipe.trainer.cpu_offload and not machine.accelerators:
            return Placement("cpu", 0, 0, "gloo", recipe.rollout.gpu_memory_utilization), error
        return place(_alone(recipe), gpus=ENOUGH_GPUS), error


def _alone(recipe: Recipe) -> Recipe:
    """The recipe without its cluster: what there is was counted already."""
    return recipe.model_copy(update={"ray": recipe.ray.model_copy(update={"address": None})})


def _roles(
    recipe: StageRecipe, model: PlannedModel, placement: Placement, setting: Setting, notes: list[str]
) -> Iterator[Role]:
    memory = 0 if setting.machine.hardware is None else setting.machine.hardware.memory
    yield from _learner_roles(recipe, placement, setting, memory, notes)
    if not isinstance(recipe, Recipe):
        yield driver_role(recipe)
        return
    engine = engine_need(recipe, model, placement, memory)
    places = places_of(recipe)
    note = f"KV cache holds {engine.answers:,} answers of {engine.context:,} tokens, {gib(engine.kv_token)} a token"
    idle = engine_process_bytes(recipe)
    if placement.device == "cpu":
        own = engine.need.and_stays({"process": idle})
        yield Role("rollout", "rollout engine", places.engines, "main memory", own, note=note)
    else:
        limit = _usable(memory)
        count = places.engines * places.tensor_parallel
        yield Role("rollout", "rollout engine", count, "accelerator", engine.need, limit, sure=False, note=note)
        beside = Need({"process": 2 * idle})
        yield Role("rollout", "rollout, main memory", places.engines, "main memory", beside, sure=False)
    drafter = drafter_trainer_need(recipe, model)
    if drafter is not None:
        yield _drafter_trainer(drafter, placement, memory)
    yield reward_role(recipe)
    yield from judge_roles(recipe, setting.model_of, memory)
    yield driver_role(recipe)


def _drafter_trainer(need: Need, placement: Placement, memory: int) -> Role:
    note = "beside the learner, or where an accelerator idles"
    if placement.device == "gpu":
        return Role("drafter", "drafter's trainer", 1, "accelerator", need, _usable(memory), sure=False, note=note)
    own = need.and_stays({"process": processes.DRAFTER_TRAINER})
    return Role("drafter", "drafter's trainer", 1, "main memory", own, sure=False, note=note)


def _learner_roles(
    recipe: StageRecipe, placement: Placement, setting: Setting, memory: int, notes: list[str]
) -> Iterator[Role]:
    try:
        yield from _ranks(recipe, placement, setting, memory)
    except UnfitError:
        return  # a fault, which was said already
    except UnforeseenError as error:
        notes.append(f"the learner's memory is not foreseen: {error}")


def _ranks(recipe: StageRecipe, placement: Placement, setting: Setting, memory: int) -> list[Role]:
    count, idle = places_of(recipe).ranks, {"process": process_bytes(placement.device)}
    if placement.device == "cpu":
        own = cpu_rank_need(recipe, setting.model_of)
        note = f"needs most at: {own.peak.name}"
        sure = recipe.trainer.backend == "fsdp2"
        return [Role("learner", "learner rank", count, "main memory", own.and_stays(idle), sure=sure, note=note)]
    need = rank_need(recipe, setting.model_of, "gpu")
    limit = _usable(memory) - (int(memory * placement.gpu_memory_utilization) if placement.shared else 0)
    note = f"needs most at: {need.device.peak.name}" + (", beside an engine" if placement.shared else "")
    host = need.host.and_stays(idle)
    return [
        Role("learner", "learner rank", count, "accelerator", need.device, limit, sure=False, note=note),
        Role("learner", "learner, main memory", count, "main memory", host, sure=False),
    ]


def _usable(memory: int) -> int:
    return max(0, int(memory * (1 - processes.GPU_SLACK)) - processes.GPU_CONTEXT)


def _room(recipe: Recipe, model: PlannedModel, placement: Placement, machine: Machine) -> int:
    """Tokens that an engine's cache holds."""
    memory = 0 if machine.hardware is None else machine.hardware.memory
    engine = engine_need(recipe, model, placement, memory)
    return max(0, engine.kv) // max(1, engine.kv_token)


def _main_memory(roles: Sequence[Role]) -> int:
    return sum(role.need.total * role.count for role in roles if role.memory == "main memory")


def _too_large(recipe: StageRecipe, roles: Sequence[Role], placement: Placement) -> list[SettingError]:
    found = []
    for role in roles:
        if role.lacks and role.limit is not None:
            reason = f"{gib(role.need.total)} of {gib(role.limit)}, most of it {_largest(role.need)}"
            found.append(SettingError(role.label, reason, "see the advice below"))
    if isinstance(recipe, Recipe):
        engine = next((role for role in roles if role.name == "rollout" and "KV cache" in role.need.stays), None)
        if engine is not None and engine.note.startswith("KV cache holds 0 "):
            setting = TENSOR_PARALLEL if placement.device == "gpu" else "rollout.kv_cache_gib"
            reason = "the KV cache has no room for one answer of full length"
            found.append(SettingError(setting, reason, f"raise it, or {ENGINES}' share of memory"))
    return found


def _largest(need: Need) -> str:
    name, size = max(need.items.items(), key=lambda item: item[1])
    return f"{name} ({gib(size)})"
