"""Files that a recipe names and that are on this machine alone: no pod sees them."""

from collections.abc import Iterator
from pathlib import Path

from deploy.manifests.binding import MOUNT
from orchestrator.config import Recipe
from orchestrator.errors import SettingError
from orchestrator.stages.recipes import HANDED, StageRecipe, models_of

_ELSEWHERE = ("shipped:", HANDED)


def check_reach(stage: StageRecipe) -> None:
    """Raises: SettingError: names the first such file."""
    for setting, path in _files(stage):
        if not (path.startswith(("/", *_ELSEWHERE)) or "://" in path):
            raise _out_of_reach(setting, path)
    for setting, model in _models(stage):
        if model.startswith((".", "~")) or (not model.startswith(("/", *_ELSEWHERE)) and Path(model).exists()):
            raise _out_of_reach(setting, model)


def own_modules(stage: StageRecipe) -> list[str]:
    """Modules of the user's own that the reward names; the image must have them."""
    if not isinstance(stage, Recipe):
        return []
    return [term.name.partition(":")[0] for term in stage.reward.terms if ":" in term.name]


def _files(stage: StageRecipe) -> Iterator[tuple[str, str]]:
    if not isinstance(stage, Recipe):
        yield from _given("examples.path", getattr(stage.examples, "path", None))
        return
    yield from _given("data.path", stage.data.path)
    yield from _given("rollout.replay_lengths", stage.rollout.replay_lengths)


def _models(stage: StageRecipe) -> Iterator[tuple[str, str]]:
    yield from models_of(stage).items()
    if not isinstance(stage, Recipe):
        return
    if stage.algorithm.critic is not None:
        yield from _given("algorithm.critic.model", stage.algorithm.critic.model)
    for name, model in stage.reward.models.items():
        if model.served:
            yield f"reward.models.{name}.model", model.model


def _given(setting: str, value: str | None) -> Iterator[tuple[str, str]]:
    if value is not None:
        yield setting, value


def _out_of_reach(setting: str, path: str) -> SettingError:
    fix = f"copy it to the shared volume and name it there ({MOUNT}/...), or put it on a hub"
    return SettingError(setting, f"{path} is on this machine, and pods do not see it", fix)
