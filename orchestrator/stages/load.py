"""From a YAML file and overrides to a recipe of any kind, or to a list of stages; all of it is checked here.

A stage is the recipe's own settings without what its kind has no use for, what the kind brings along
(`orchestrator.stages.kinds`), and over both the stage's own. So a section that stands outside the stages is said once,
and what a stage says of itself wins.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy

import yaml

from orchestrator.config import Recipe
from orchestrator.errors import SettingError
from orchestrator.nearest import did_you_mean
from orchestrator.recipe import (
    RIVALS,
    Tree,
    apply_override,
    as_recipe,
    dump_recipe,
    expand_words,
    read_tree,
    validated,
)
from orchestrator.stages.kinds import BROUGHT, IDLE, KINDS
from orchestrator.stages.overlay import laid_over, value_at, without
from orchestrator.stages.recipes import HANDED, AnyRecipe, StagedRecipe, StageRecipe, SupervisedRecipe, models_of
from orchestrator.storage.address import check_addresses

OWN = ("name", "run_dir", "stages")
"""Settings of the whole that no stage inherits."""
_MARK = "__override__"


def load_any(name_or_path: str, overrides: Sequence[str] = ()) -> AnyRecipe:
    """Read a shipped recipe by name or a YAML file by path, apply overrides, check all that needs no machine.

    `stages.NAME.key=value` overrides a setting of one stage, `key=value` one that the stages inherit.

    Raises:
        SettingError: names the first fault; one in a stage as `stages.NAME.setting`.
    """
    tree = read_tree(name_or_path)
    if "stages" not in tree:
        for override in overrides:
            apply_override(tree, override)
        return _one(tree)
    _check_entries(tree)
    for override in overrides:
        _override(tree, override)
    return _staged(tree)


def dump_any(recipe: AnyRecipe) -> str:
    """The resolved recipe as YAML; loading it again gives an equal one."""
    if not isinstance(recipe, StagedRecipe):
        return dump_recipe(recipe)
    stages = [stage.model_dump(mode="json", exclude={"run_dir"}) for stage in recipe.stages]
    tree = {"name": recipe.name, "run_dir": recipe.run_dir, "stages": stages}
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)


def _one(tree: Tree) -> StageRecipe:
    kind = tree.get("kind", "rl")
    if kind not in KINDS:
        raise SettingError("kind", f"no {kind}{did_you_mean(str(kind), KINDS)}", f"known are {', '.join(KINDS)}")
    return validated(SupervisedRecipe, tree) if kind == "sft" else as_recipe(tree)


def _staged(tree: Tree) -> StagedRecipe:
    name, run_dir = tree.get("name"), tree.get("run_dir")
    if not isinstance(name, str):
        raise SettingError("name", "is missing", "set it in the recipe or with name=...")
    check_addresses({key: value for key, value in tree.items() if key != "stages"})
    if not isinstance(run_dir, str | None):
        raise SettingError("run_dir", f"{run_dir!r} is no folder", "give a path")
    _check_shared(tree)
    stages: list[StageRecipe] = []
    for entry, stage_tree in zip(_entries(tree), _stage_trees(tree), strict=True):
        try:
            stage = _one(stage_tree)
            _check_models(stage, [before.name for before in stages])
            _check_optimizer(stage, stages)
        except SettingError as error:
            raise SettingError(f"stages.{entry['name']}.{error.setting}", error.reason, error.fix) from None
        stages.append(stage)
    return StagedRecipe(name, run_dir, tuple(stages))


def _entries(tree: Tree) -> list[Tree]:
    entries = tree["stages"]
    assert isinstance(entries, list), "_check_entries has seen it"
    return entries


def _stage_trees(tree: Tree) -> list[Tree]:
    """Each stage's settings, in full."""
    shared = {key: value for key, value in tree.items() if key not in OWN}
    made: list[Tree] = []
    for number, full in enumerate(_entries(tree)):
        entry = without(full, "optimizer")
        kind = str(entry.get("kind", "rl"))
        inherited = {key: value for key, value in shared.items() if key in _fields(kind)}
        for idle in IDLE.get(kind, ()):
            inherited = without(inherited, idle)
        if number:
            inherited["model"] = HANDED + str(made[-1]["name"])
        made.append(laid_over(laid_over(inherited, BROUGHT.get(kind, {}), RIVALS), entry, RIVALS))
        if full.get("optimizer") == "carry":
            _carry(made)
    return made


def _carry(made: list[Tree]) -> None:
    """Let the last of these stages begin with the optimizer of the one whose model it begins with."""
    stage = made[-1]
    model, setting = str(stage.get("model")), f"stages.{stage['name']}.optimizer"
    givers = [number for number, before in enumerate(made[:-1]) if model == f"{HANDED}{before['name']}"]
    if not givers:
        reason = f"carry goes with the weights of a stage before it, and its model is {model}"
        raise SettingError(setting, reason, "leave it out, or let model be stage:NAME")
    if value_at(stage, "trainer.optimizer_from") is not None:
        raise SettingError(setting, "carry is set, and trainer.optimizer_from too", "leave out one of the two")
    made[-1] = laid_over(stage, {"trainer": {"optimizer_from": model}})
    made[givers[0]] = laid_over(made[givers[0]], {"trainer": {"keep_optimizer": True}})


def _fields(kind: str) -> set[str]:
    return set((SupervisedRecipe if kind == "sft" else Recipe).model_fields) - {*OWN, "kind"}


def _check_entries(tree: Tree) -> None:
    entries = tree["stages"]
    if not isinstance(entries, list) or not entries:
        raise SettingError("stages", "is not a list of stages", "give each a name and a kind, or leave stages out")
    names: list[str] = []
    for number, entry in enumerate(entries):
        name = entry.get("name") if isinstance(entry, dict) else None
        if not isinstance(name, str) or not name or not name.replace("-", "").replace("_", "").isalnum():
            raise SettingError(f"stages[{number}].name", f"{name!r} is no name", "use letters, digits, - and _")
        if name in names:
            raise SettingError(f"stages[{number}].name", f"{name} is taken by another stage", "choose another")
        names.append(name)
        for alien, fix in (
            ("run_dir", "set run_dir outside the stages: each has a folder in it"),
            ("stages", "stages do not nest: write them one after another"),
        ):
            if entry.get(alien) is not None:
                raise SettingError(f"stages.{name}.{alien}", "does not belong to a stage", fix)
        if (optimizer := entry.get("optimizer", "reset")) not in ("reset", "carry"):
            raise SettingError(f"stages.{name}.optimizer", f"{optimizer!r} is not known", "set it to reset or carry")
        expand_words(entry)


def _check_shared(tree: Tree) -> None:
    """Every setting outside the stages must be one that some stage takes."""
    known = sorted(set().union(*(_fields(kind) for kind in KINDS)) | set(OWN))
    kinds = {str(entry.get("kind", "rl")) for entry in _entries(tree)}
    for key in tree:
        if key not in known:
            raise SettingError(key, f"unknown key{did_you_mean(key, known)}", f"valid here: {', '.join(known)}")
        if key not in OWN and not any(key in _fields(kind) and key not in IDLE.get(kind, ()) for kind in kinds):
            raise SettingError(key, "no stage has a use for it", f"leave out {key}, or add a stage of its kind")


def _check_models(stage: StageRecipe, before: Sequence[str]) -> None:
    for setting, model in models_of(stage).items():
        if model.startswith(HANDED) and (name := model.removeprefix(HANDED)) not in before:
            known = f"stages before it: {', '.join(before)}" if before else "no stage is before it"
            raise SettingError(setting, f"{name} is no stage before this one{did_you_mean(name, before)}", known)


def _check_optimizer(stage: StageRecipe, before: Sequence[StageRecipe]) -> None:
    """Moments are of parameters: those of the stage that hands them over must be those that this one trains."""
    source = stage.trainer.optimizer_from
    if source is None or not source.startswith(HANDED):
        return
    giver = next((other for other in before if source == f"{HANDED}{other.name}"), None)
    if giver is None or source != stage.model or not giver.trainer.keep_optimizer:
        fix = "write optimizer: carry beside the stage's name instead"
        raise SettingError("trainer.optimizer_from", f"{source} hands no optimizer over to this stage", fix)
    adapted = [other.name for other in (giver, stage) if other.trainer.lora is not None]
    if adapted:
        reason = (
            f"the optimizer of {giver.name} is carried, but {adapted[0]} trains adapters, which end with their stage"
        )
        raise SettingError("optimizer", reason, "leave it out, or train all weights in both")
    if isinstance(stage, Recipe) and stage.keep is not None and stage.keep.restart:
        raise SettingError("optimizer", "keep.restart begins each round with a fresh one", "leave out one of the two")


def _override(tree: Tree, override: str) -> None:
    key = override.partition("=")[0]
    head, _, rest = key.partition(".")
    if head == "stages":
        _override_stage(tree, rest, override)
        return
    if head not in OWN:
        probe = deepcopy(tree)
        # In a list, since a word in the place of `speculation` would be looked up.
        apply_override(probe, f"{key}=[{_MARK}]")
        if not any(value_at(stage, key) == [_MARK] for stage in _stage_trees(probe)):
            names = ", ".join(str(entry["name"]) for entry in _entries(tree))
            reason = "no stage takes it from there: each sets it itself, or has no use for it"
            raise SettingError(key, reason, f"write stages.NAME.{key}=..., NAME one of {names}")
    apply_override(tree, override)


def _override_stage(tree: Tree, rest: str, override: str) -> None:
    name, _, setting = rest.partition(".")
    entries: Mapping[str, Tree] = {str(entry["name"]): entry for entry in _entries(tree)}
    if name not in entries or not setting:
        known = f"write stages.NAME.key=value, NAME one of {', '.join(entries)}"
        raise SettingError(f"stages.{name}", f"no such stage{did_you_mean(name, list(entries))}", known)
    apply_override(entries[name], override.removeprefix(f"stages.{name}."))
