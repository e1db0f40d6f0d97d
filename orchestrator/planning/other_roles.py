"""Rewards, the models that they ask, the driver and Ray: what they take of the main memory."""

from orchestrator.config import Recipe
from orchestrator.planning import processes
from orchestrator.planning.engine_memory import EngineLoad, torch_engine, vllm_on_cpu, vllm_on_gpu
from orchestrator.planning.learner_role import ModelOf
from orchestrator.planning.memory import GIB, MIB, Need
from orchestrator.planning.model_shape import shape_of
from orchestrator.planning.places import places_of
from orchestrator.planning.role import Role
from orchestrator.stages.recipes import StageRecipe
from rewards.models.settings import ModelSettings

SERVED_GPU_SHARE = 0.8
"""Of its GPU, what a served model takes."""
TOKEN_BYTES = 64
"""Of an answer's token in the driver: id, logprob, version, reward and Python's share of each."""


def reward_role(recipe: Recipe) -> Role:
    """At most: what one answer may take, in every child at a time."""
    need = Need(
        {"interpreter and verifiers": processes.REWARD_CHILD, "an answer's limit": recipe.reward.memory_mb * MIB}
    )
    note = f"at most, with reward.memory_mb={recipe.reward.memory_mb} used up in every child"
    return Role("reward", "reward", places_of(recipe).reward_workers, "main memory", need, sure=False, note=note)


def driver_role(recipe: StageRecipe) -> Role:
    stays = {"driver": processes.DRIVER, "Ray": processes.RAY, "object store": recipe.ray.object_store_mb * MIB}
    if recipe.ray.address is not None:
        stays["object store"] = 0  # the cluster's own
    if isinstance(recipe, Recipe):
        groups = (recipe.rollout.max_staleness + 2) * recipe.trainer.prompts_per_step
        longest = recipe.rollout.max_prompt_tokens + recipe.rollout.max_response_tokens
        stays["answers on their way"] = groups * recipe.rollout.group_size * longest * TOKEN_BYTES
    return Role("driver", "driver, Ray", 1, "main memory", Need(stays), sure=False)


def judge_roles(recipe: Recipe, model_of: ModelOf, accelerator_bytes: int) -> list[Role]:
    """One for each model that the run serves to its rewards.

    Raises:
        SettingError: a model's configuration cannot be had.
    """
    served = {name: settings for name, settings in recipe.reward.models.items() if settings.served}
    return [
        _judge(name, settings, recipe.topology.judge_places(name).gpus, model_of, accelerator_bytes)
        for name, settings in served.items()
    ]


def _judge(name: str, settings: ModelSettings, gpus: float, model_of: ModelOf, accelerator_bytes: int) -> Role:
    shape = shape_of(model_of(settings.model, f"reward.models.{name}.model"))
    load = EngineLoad(settings.context_length, settings.max_running, 2 if settings.dtype == "bfloat16" else 4)
    label = f"judge {name}"
    if settings.engine == "torch":
        found = torch_engine(shape, load).need.and_stays({"process": processes.TORCH_ENGINE})
        return Role("judge", label, 1, "main memory", found, sure=False)
    if not gpus:
        found = vllm_on_cpu(shape, load, kv=int(settings.kv_cache_gib * GIB)).need
        return Role("judge", label, 1, "main memory", found.and_stays({"process": processes.VLLM_ENGINE}), sure=False)
    share = accelerator_bytes * min(1.0, gpus)
    engine = vllm_on_gpu(shape, load, memory=int(share), utilization=SERVED_GPU_SHARE)
    return Role("judge", label, 1, "accelerator", engine.need, int(share), sure=False, note=f"{engine.answers} replies")
