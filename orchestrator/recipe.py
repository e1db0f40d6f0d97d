"""From a YAML file and `key.sub=value` overrides to a checked `Recipe`.

Every fault is one line that names the setting by its dotted name; an unknown key names the nearest valid one.
"""

from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from types import UnionType
from typing import TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from orchestrator.config import Recipe
from orchestrator.drafting.settings import PRESETS
from orchestrator.errors import SettingError
from orchestrator.nearest import did_you_mean
from orchestrator.reward_rules import check_reward
from orchestrator.rules import check_rules
from orchestrator.stages.kinds import BROUGHT
from orchestrator.stages.overlay import laid_over
from orchestrator.storage.address import check_addresses
from rewards.section import Section
from rewards.settings import RewardSettings, spelled_out

Tree = dict[str, object]
Model = TypeVar("Model", bound=BaseModel)

RIVALS = {
    "data.path": ("data.hub", "data.subset", "data.tasks"),
    "data.hub": ("data.path", "data.subset", "data.tasks"),
    "data.tasks": ("data.path", "data.hub", "data.subset"),
}
"""An override of the key takes the place of these in the recipe, since only one of them can be given."""

UNSHOWN = ("api_key_env", "url")
"""Settings into which somebody may have put a key: an error does not repeat their value."""


def shipped_recipes() -> dict[str, Path]:
    """The recipes that come with Paceline, by name."""
    folder = Path(str(resources.files("orchestrator") / "recipes"))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a shipped recipe by name or a YAML file by path, apply overrides, check all that needs no machine.

    It is one of a single stage on engines; `orchestrator.stages.load` reads any.

    Raises:
        SettingError: names the first fault.
    """
    tree = read_tree(name_or_path)
    for override in overrides:
        apply_override(tree, override)
    return as_recipe(tree)


def read_tree(name_or_path: str) -> Tree:
    """The settings that a shipped recipe or a YAML file states, unchecked.

    Raises:
        SettingError: there is no such file, or it is no mapping.
    """
    tree = _read(_locate(name_or_path))
    expand_words(tree)
    return tree


def as_recipe(tree: Tree) -> Recipe:
    """Settings as a recipe, checked, with what its kind brings along.

    Raises:
        SettingError: names the first fault.
    """
    kind = tree.get("kind", "rl")
    recipe = validated(Recipe, laid_over(BROUGHT.get(str(kind), {}), tree))
    check_rules(recipe)
    return recipe


def load_reward(name_or_recipe: str, overrides: Sequence[str] = ()) -> RewardSettings:
    """The reward of a recipe, or of one term by name, with overrides such as `reward.workers=2`.

    Raises:
        SettingError: names the first fault.
    """
    path = Path(name_or_recipe)
    is_recipe = path.suffix in {".yaml", ".yml"} or name_or_recipe in shipped_recipes()
    tree: Tree = {"reward": read_tree(name_or_recipe).get("reward") if is_recipe else name_or_recipe}
    expand_words(tree)
    for override in overrides:
        apply_override(tree, override)
    reward = validated(_RewardAlone, tree).reward
    check_reward(reward)
    return reward


class _RewardAlone(Section):
    """The part of a recipe that grading needs."""

    reward: RewardSettings


def validated(model: type[Model], tree: Tree) -> Model:
    """Settings as this model.

    Raises:
        SettingError: names the first fault.
    """
    check_addresses(tree)
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        raise _as_setting_error(error, model) from None


def dump_recipe(recipe: BaseModel) -> str:
    """The resolved recipe as YAML; loading it again gives an equal recipe."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _locate(name_or_path: str) -> Path:
    path = Path(name_or_path)
    if path.suffix in {".yaml", ".yml"} or path.exists():
        if not path.is_file():
            raise SettingError(name_or_path, "no such recipe file", "give the path of a YAML file")
        return path
    shipped = shipped_recipes()
    if name_or_path in shipped:
        return shipped[name_or_path]
    raise SettingError(
        name_or_path,
        f"no recipe of this name{did_you_mean(name_or_path, shipped)}",
        f"shipped are {', '.join(shipped)}",
    )


def _read(path: Path) -> Tree:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingError(str(path), f"not valid YAML: {' '.join(str(error).split())}", "mend the file") from None
    if not isinstance(tree, dict):
        raise SettingError(str(path), "a recipe is a mapping of settings", "see the shipped recipes")
    return tree


def expand_words(tree: Tree) -> None:
    """Put the settings that a word stands for in its place."""
    if "reward" in tree:
        tree["reward"] = spelled_out(tree["reward"])
    word = tree.get("speculation")
    word = "off" if word is False else word  # `off` is a boolean in YAML
    if not isinstance(word, str):
        return
    if word not in PRESETS:
        raise SettingError(
            "speculation", f"{word} is no preset{did_you_mean(word, PRESETS)}", f"known are {', '.join(PRESETS)}"
        )
    preset = PRESETS[word]
    tree["speculation"] = None if preset is None else dict(preset)


def apply_override(tree: Tree, override: str) -> None:
    """Set what `key.sub=value` says, in place.

    Raises:
        SettingError: it has another form, or no settings are at that place.
    """
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise SettingError(override, "an override has the form key.sub=value", "write for example trainer.steps=10")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise SettingError(key, f"{text!r} is not a YAML value", "quote it") from None
    node = tree
    *parents, leaf = key.split(".")
    for rival in RIVALS.get(key, ()):
        _forget(tree, rival)
    for parent in parents:
        if node.get(parent) is None:
            node[parent] = {}
        child = node[parent]
        if not isinstance(child, dict):
            raise SettingError(key, f"{parent} holds a value, not settings", "check the dotted name")
        node = child
    node[leaf] = value
    expand_words(tree)


def _forget(tree: Tree, key: str) -> None:
    section, _, leaf = key.rpartition(".")
    inside = tree.get(section)
    if isinstance(inside, dict):
        inside.pop(leaf, None)


def _as_setting_error(error: ValidationError, model: type[BaseModel]) -> SettingError:
    """The first fault of a validation, in one line."""
    fault = error.errors()[0]
    where = [str(part) for part in fault["loc"]]
    name = ".".join(where) or "recipe"
    if fault["type"] == "extra_forbidden":
        valid = list(_fields_at(model, where[:-1]))
        return SettingError(
            name, f"unknown key{did_you_mean(where[-1], valid)}", f"valid here: {', '.join(sorted(valid))}"
        )
    if fault["type"] == "missing":
        return SettingError(name, "is missing", f"set it in the recipe or with {name}=...")
    shown = repr(fault["input"])
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    message = fault["msg"].removeprefix("Value error, ")
    if where and where[-1] in UNSHOWN:
        return SettingError(name, message, f"change {name}")
    return SettingError(name, f"{message} (got {shown})", f"change {name}")


def _fields_at(model: type[BaseModel], where: Sequence[str]) -> Iterator[str]:
    """Names of the settings below a dotted place."""
    for part in where:
        field = model.model_fields.get(part)
        inner = next(_models_in(field.annotation), None) if field else None
        if inner is not None:
            model = inner
    yield from model.model_fields


def _models_in(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) in (Union, UnionType, tuple, list, dict):
        for argument in get_args(annotation):
            yield from _models_in(argument)
