"""A recorded run in the place of published rates: how much slower or faster it was than the model of speed says."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from orchestrator.analysis.lineage import read_lineage
from orchestrator.analysis.recording import Recording, recording_of
from orchestrator.config import Recipe
from orchestrator.errors import SettingError
from orchestrator.placement import place
from orchestrator.planning.expected import hardware_of, step_s, work_of
from orchestrator.planning.hardware import Hardware
from orchestrator.planning.learner_role import ModelOf
from orchestrator.planning.machine import Machine
from orchestrator.planning.model_shape import shape_of
from orchestrator.planning.speed import Calibration, decode_step_s, learner_step_s
from orchestrator.recipe import load_recipe
from orchestrator.run_layout import CONFIG


@dataclass(frozen=True, slots=True)
class Recorded:
    """What a run says of the next one like it."""

    calibration: Calibration
    answer_tokens: float


def calibrate(run: Path, machine: Machine, model_of: ModelOf, cores: Callable[[int], Hardware] | None) -> Recorded:
    """Compare what a run took with what this model of speed says of it, on this machine.

    Raises:
        SettingError: the folder holds no run, one too short to say anything, or one on another kind of machine.
        LogError: its events cannot be read.
    """
    if not (run / CONFIG).is_file():
        fix = "give the run_dir of a run, such as runs/quickstart-...; of a run of stages, the folder of one stage"
        raise SettingError("--like", f"{run} holds no run", fix)
    recipe = load_recipe(str(run / CONFIG))
    recording = recording_of(read_lineage(run))
    if recording is None:
        raise SettingError("--like", f"{run} is too short to say anything", "give one with several steps")
    return _compared(str(run), recipe, recording, machine, model_of, cores)


def _compared(
    name: str,
    recipe: Recipe,
    recording: Recording,
    machine: Machine,
    model_of: ModelOf,
    cores: Callable[[int], Hardware] | None,
) -> Recorded:
    alone = recipe.model_copy(update={"ray": recipe.ray.model_copy(update={"address": None})})
    placement = place(alone, gpus=machine.accelerators)
    engine, learner = hardware_of(recipe, placement, machine, cores)
    if engine is None or learner is None:
        raise SettingError("--like", "the speed of a cluster's cores is not known from here", "leave out --address")
    shape = shape_of(model_of(recipe.model, "model"))
    lengths = [length for group in recording.groups for length in group.lengths]
    mean = fmean(lengths)
    room = int(mean * recipe.rollout.max_running) * 2  # what the run held is in its times already
    work = work_of(recipe, mean, room)
    decode = recording.speed.step_s(round(work.running)) / decode_step_s(shape, work, engine, step_s(placement))
    training = recording.step_s / learner_step_s(shape, work, learner)
    return Recorded(Calibration(decode, training, name), mean)
