"""`paceline plan`: from the command line's words to a plan on the screen."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from rich.console import Console

from orchestrator.errors import SettingError
from orchestrator.planning.advice import Advice, advise
from orchestrator.planning.calibration import calibrate
from orchestrator.planning.configs import Configs
from orchestrator.planning.hardware import Hardware, measure_cores
from orchestrator.planning.machine import Machine, cluster, described, this_machine
from orchestrator.planning.plan import Setting, StagePlan, plan_stage
from orchestrator.planning.render import as_json, print_plan
from orchestrator.stages.recipes import HANDED, AnyRecipe, StagedRecipe


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command line says of the machine, and of what is known already."""

    gpus: int | None = None
    gpu_memory: float | None = None
    accelerator: str | None = None
    address: str | None = None
    like: Path | None = None
    answer_tokens: float | None = None


def machine_of(asked: Asked) -> Machine:
    """Raises:
    SettingError: two machines are asked for, or the one that is cannot be had.
    """
    describes = asked.gpus is not None or asked.gpu_memory is not None or asked.accelerator is not None
    if describes and asked.address is not None:
        raise SettingError("--address", "is a machine, and --gpus describes another", "leave out one of the two")
    if asked.address is not None:
        return cluster(asked.address)
    return described(asked.gpus or 1, asked.gpu_memory, asked.accelerator) if describes else this_machine()


def setting_of(asked: Asked, configs: Configs, machine: Machine) -> Setting:
    """Raises:
    SettingError: see `calibrate`.
    """
    cores = _measured_cores(machine) if machine.here else None
    if asked.like is None:
        return Setting(machine, configs, cores, None, asked.answer_tokens)
    recorded = calibrate(asked.like, machine, configs, cores)
    return Setting(machine, configs, cores, recorded.calibration, asked.answer_tokens or recorded.answer_tokens)


def plan_any(recipe: AnyRecipe, setting: Setting, configs: Configs) -> list[tuple[StagePlan, list[Advice]]]:
    """A plan for each stage, with advice; a recipe without stages is one.

    Raises:
        SettingError: a model's configuration cannot be had.
    """
    stages = recipe.stages if isinstance(recipe, StagedRecipe) else (recipe,)
    found = []
    for stage in stages:
        plan = plan_stage(stage, setting)
        # A later stage may begin with what this one makes.
        configs.know(f"{HANDED}{stage.name}", setting.model_of(stage.model, "model").config)
        found.append((plan, advise(plan, setting)))
    return found


def address_of(recipe: AnyRecipe) -> str | None:
    """The cluster that the recipe itself names."""
    stages = recipe.stages if isinstance(recipe, StagedRecipe) else (recipe,)
    return next((stage.ray.address for stage in stages if stage.ray.address is not None), None)


def print_plans(recipe: AnyRecipe, asked: Asked, *, as_data: bool, console: Console) -> bool:
    """Plan and print. Returns: whether everything fits.

    Raises:
        SettingError: the machine or a model cannot be asked.
    """
    configs, machine = Configs(), machine_of(asked)
    plans = plan_any(recipe, setting_of(asked, configs, machine), configs)
    fits = all(plan.fits for plan, _ in plans)
    if as_data:
        stages = [as_json(plan, advice) for plan, advice in plans]
        data = {"recipe": recipe.name, "machine": machine.name, "fits": fits, "stages": stages}
        console.print_json(json.dumps(data))
        return fits
    console.print(f"{recipe.name} on {machine.name}", highlight=False, soft_wrap=True)
    for plan, advice in plans:
        print_plan(plan, advice, console)
    return fits


def _measured_cores(machine: Machine) -> Callable[[int], Hardware]:
    @lru_cache(maxsize=8)
    def measure(threads: int) -> Hardware:
        return measure_cores(threads, machine.memory or 0)

    return measure
