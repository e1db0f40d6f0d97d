"""Rules of the topology against the rest of a recipe."""

from orchestrator.config import Recipe
from orchestrator.errors import SettingError
from orchestrator.nearest import did_you_mean


def judges_are_served(recipe: Recipe) -> SettingError | None:
    served = sorted(name for name, model in recipe.reward.models.items() if model.served)
    for name in recipe.topology.judges:
        if name not in served:
            reason = f"no model {name} that the run serves{did_you_mean(name, served)}"
            fix = f"served are {', '.join(served)}" if served else "name models in reward.models, or leave it out"
            return SettingError("topology.judges", reason, fix)
    return None


def judges_on_gpus_can_use_them(recipe: Recipe) -> SettingError | None:
    for name, places in recipe.topology.judges.items():
        model = recipe.reward.models[name]
        if places.gpus and model.engine == "torch" and model.task == "generate":
            return SettingError(
                f"topology.judges.{name}.gpus",
                f"reward.models.{name} generates by engine=torch, on cores",
                "set it to 0, or engine=vllm",
            )
    return None


PLACE_RULES = (judges_are_served, judges_on_gpus_can_use_them)
