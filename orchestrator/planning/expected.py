"""From a recipe and a machine to the work of a training step, the hardware that does it, and how fast it may be."""

from collections.abc import Callable
from dataclasses import dataclass

from learners.critic.advantages import asks_critic
from learners.objective import companions_needed
from orchestrator.config import Recipe
from orchestrator.group_plan import plan_of
from orchestrator.placement import Placement
from orchestrator.planning.hardware import Hardware
from orchestrator.planning.machine import Machine
from orchestrator.planning.model_shape import ModelShape
from orchestrator.planning.places import places_of
from orchestrator.planning.speed import (
    CPU_STEP_S,
    GPU_STEP_S,
    SYNC_BYTES_PER_S,
    Balance,
    Calibration,
    Work,
    balance,
)

ANSWER_SHARE = 0.5
"""Of the longest allowed, a mean answer: an assumption where no run tells."""
PROMPT_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Expectation:
    """Attributes:
    hardware: by whose rates, of an engine's accelerator and of a rank's.
    lengths_known: whether the mean length of an answer was given or recorded, and not assumed.
    """

    balance: Balance
    work: Work
    hardware: tuple[str, str]
    lengths_known: bool
    calibrated_by: str = ""


def expect(
    recipe: Recipe,
    shape: ModelShape,
    placement: Placement,
    machine: Machine,
    *,
    cores: Callable[[int], Hardware] | None,
    calibration: Calibration | None,
    answer_tokens: float | None,
    room: int,
) -> Expectation | None:
    """None where the speed of the machine's cores cannot be known from here.

    Args:
        room: tokens that an engine's KV cache holds.
    """
    work = work_of(recipe, answer_tokens, room)
    engine, learner = hardware_of(recipe, placement, machine, cores)
    if engine is None or learner is None:
        return None
    found = balance(
        shape,
        work,
        engine,
        learner,
        step_s=step_s(placement),
        sync_bytes_per_s=SYNC_BYTES_PER_S[placement.transfer],
        calibration=calibration,
    )
    by = "" if calibration is None else calibration.run
    return Expectation(found, work, (engine.name, learner.name), answer_tokens is not None, by)


def step_s(placement: Placement) -> float:
    return CPU_STEP_S if placement.device == "cpu" else GPU_STEP_S


def work_of(recipe: Recipe, answer_tokens: float | None, room: int) -> Work:
    rollout, trainer, places = recipe.rollout, recipe.trainer, places_of(recipe)
    answers = trainer.prompts_per_step * plan_of(recipe).answers
    mean = answer_tokens or max(1.0, ANSWER_SHARE * rollout.max_response_tokens)
    prompt = PROMPT_SHARE * rollout.max_prompt_tokens
    ahead = rollout.max_staleness > 0
    asked = (rollout.max_staleness + 1) * answers / places.engines if ahead else answers / places.engines
    held = room / max(1.0, prompt + mean / 2)
    critic = recipe.algorithm.critic
    critic_passes = 0 if not asks_critic(recipe.algorithm.advantage) else 1 if critic is None else critic.passes
    return Work(
        answers=answers,
        prompt=prompt,
        answer=mean,
        running=max(1.0, min(asked, rollout.max_running, held)),
        engines=places.engines,
        tensor_parallel=places.tensor_parallel,
        ranks=places.ranks,
        number=2 if rollout.dtype == "bfloat16" else 4,
        trains=2 if trainer.dtype == "bfloat16" else 4,
        draws_ahead=ahead,
        checkpointing=trainer.activation_checkpointing,
        reading=len(companions_needed(recipe.algorithm)),
        critic_passes=critic_passes,
    )


def hardware_of(
    recipe: Recipe, placement: Placement, machine: Machine, cores: Callable[[int], Hardware] | None
) -> tuple[Hardware | None, Hardware | None]:
    """What an engine and a rank compute on; None where that is not known from here."""
    if placement.device == "gpu":
        return machine.hardware, machine.hardware
    if cores is None:
        return None, None
    places, count = places_of(recipe), machine.cores or 1
    threads = places.learner_threads or max(1, count // (places.ranks + places.engines))
    return cores(min(places.engine_threads, count)), cores(min(threads, count))
