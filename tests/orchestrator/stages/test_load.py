"""Recipes of stages: what each inherits, what its kind brings, who hands over to whom, and faults in one line."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from orchestrator.config import Recipe
from orchestrator.errors import SettingError
from orchestrator.recipe import load_recipe, shipped_recipes
from orchestrator.stages.load import dump_any, load_any
from orchestrator.stages.recipes import (
    AnyRecipe,
    StagedRecipe,
    SupervisedRecipe,
    models_of,
    with_models,
    with_optimizer,
)

Write = Callable[..., Path]
SFT = {"name": "sft", "kind": "sft", "examples": {"path": "x.jsonl"}}
RL = {"name": "rl"}
BASE: dict[str, object] = {
    "name": "mine",
    "model": "starter",
    "data": {"tasks": [{"name": "chain_sum"}], "template": "{question}\\n"},
    "reward": {"terms": [{"name": "reasoning_gym"}]},
    "trainer": {"steps": 7, "token_budget": 4096},
}


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a recipe of these stages over `BASE`; returns its path."""

    def make(*stages: object, **changes: object) -> Path:
        path = tmp_path / "stages.yaml"
        path.write_text(yaml.safe_dump({**BASE, **changes, "stages": list(stages)}), encoding="utf-8")
        return path

    return make


def staged(path: Path | str, *overrides: str) -> StagedRecipe:
    recipe = load_any(str(path), overrides)
    assert isinstance(recipe, StagedRecipe)
    return recipe


def fault(path: Path, *overrides: str) -> SettingError:
    with pytest.raises(SettingError) as caught:
        load_any(str(path), overrides)
    assert "\n" not in str(caught.value)
    return caught.value


def on_engines(recipe: StagedRecipe, number: int) -> Recipe:
    stage = recipe.stages[number]
    assert isinstance(stage, Recipe)
    return stage


@pytest.mark.parametrize("name", list(shipped_recipes()))
def test_every_shipped_recipe_survives_a_round_trip(name: str, tmp_path: Path) -> None:
    recipe = load_any(name)
    copy = tmp_path / "copy.yaml"
    copy.write_text(dump_any(recipe), encoding="utf-8")
    assert load_any(str(copy)) == recipe


def test_a_recipe_without_stages_is_as_it_was() -> None:
    assert load_any("quickstart", ["trainer.steps=3"]) == load_recipe("quickstart", ["trainer.steps=3"])


def test_a_stage_inherits_what_it_does_not_set(write: Write) -> None:
    recipe = staged(write(SFT, {**RL, "trainer": {"steps": 3}, "rollout": {"group_size": 4}}))
    first, second = recipe.stages
    assert (first.trainer.steps, second.trainer.steps, second.trainer.token_budget) == (7, 3, 4096)
    assert on_engines(recipe, 1).rollout.group_size == 4
    assert isinstance(first, SupervisedRecipe)
    assert [stage.name for stage in recipe.stages] == ["sft", "rl"]
    assert recipe.name == "mine"


def test_weights_are_handed_from_stage_to_stage(write: Write) -> None:
    recipe = staged(write(SFT, RL, {"name": "more"}))
    assert [stage.model for stage in recipe.stages] == ["starter", "stage:sft", "stage:rl"]


def test_a_cold_start_is_one_value(write: Write) -> None:
    recipe = staged(write(SFT, {**RL, "model": "starter"}))
    assert [stage.model for stage in recipe.stages] == ["starter", "starter"]


def test_an_earlier_stage_may_be_reference_or_teacher(write: Write) -> None:
    distill = {"name": "student", "kind": "distill", "algorithm": {"teacher": {"model": "stage:rl"}}}
    recipe = staged(write(RL, {**distill, "model": "starter"}))
    assert models_of(recipe.stages[1]) == {"model": "starter", "algorithm.teacher.model": "stage:rl"}
    settled = with_models(recipe.stages[1], {"stage:rl": "/runs/rl/model"})
    assert models_of(settled)["algorithm.teacher.model"] == "/runs/rl/model"
    assert settled.model == "starter"


def test_models_are_settled_in_their_places_alone(write: Write) -> None:
    reference = {"algorithm": {"reference": {"model": "stage:sft"}, "terms": [{"name": "kl_k3", "weight": 0.1}]}}
    recipe = staged(write(SFT, RL, {"name": "last", **reference}))
    settled = with_models(recipe.stages[2], {"stage:sft": "/a", "stage:rl": "/b"})
    assert models_of(settled) == {"model": "/b", "algorithm.reference.model": "/a"}


def test_a_source_of_its_own_takes_the_place_of_the_common_one(write: Write) -> None:
    stage = on_engines(staged(write({**RL, "data": {"path": "own.jsonl"}})), 0)
    assert stage.data.path == "own.jsonl"
    assert stage.data.tasks is None
    assert stage.data.template == "{question}\\n"


def test_one_stage_of_supervised_steps_needs_no_list(tmp_path: Path) -> None:
    path = tmp_path / "sft.yaml"
    path.write_text(yaml.safe_dump({"model": "starter", **SFT}), encoding="utf-8")
    recipe: AnyRecipe = load_any(str(path), ["trainer.steps=3"])
    assert isinstance(recipe, SupervisedRecipe)
    assert recipe.trainer.steps == 3
    assert recipe.algorithm.surrogate == "reinforce"


# --- what a kind brings -----------------------------------------------------------------------------------------------


def test_a_rejection_stage_trains_by_likelihood(write: Write) -> None:
    stage = on_engines(staged(write({"name": "raft", "kind": "rejection", "keep": {"rule": "best"}})), 0)
    assert stage.algorithm.surrogate == "reinforce"
    assert stage.algorithm.old_logprobs == "behaviour"
    assert not stage.algorithm.drop_zero_variance
    assert stage.keep is not None
    assert (stage.keep.rule, stage.keep.per_prompt) == ("best", 1)


def test_a_preference_stage_is_dpo_unless_it_says_otherwise(write: Write) -> None:
    kto = {"preference": {"name": "kto", "options": {"beta": 0.2}}}
    stages = ({"name": "a", "kind": "preference"}, {"name": "b", "kind": "preference", "algorithm": kto})
    recipe = staged(write(*stages, trainer={"token_budget": 8192}))
    named = [on_engines(recipe, n).algorithm.preference for n in range(2)]
    assert [preference.name for preference in named if preference] == ["dpo", "kto"]
    assert on_engines(recipe, 0).pairs is not None


def test_distillation_is_settings_alone(write: Write) -> None:
    teacher = {"algorithm": {"teacher": {"model": "/t"}}, "rollout": {"group_size": 1}}
    stage = on_engines(staged(write({"name": "opd", "kind": "distill", **teacher})), 0)
    assert stage.algorithm.policy_weight == 0
    assert [(t.name, t.weight, t.against) for t in stage.algorithm.terms] == [("kl_k2", 1.0, "teacher")]


def test_what_a_kind_has_no_use_for_is_not_inherited(write: Write) -> None:
    """The common algorithm is the RL stage's; the preference stage beside it takes what it can use."""
    algorithm = {"surrogate": "gspo", "aggregation": "sequence", "reference": {"kind": "reset", "every": 5}}
    recipe = staged(write({"name": "dpo", "kind": "preference"}, RL, algorithm=algorithm))
    dpo, rl = (on_engines(recipe, n).algorithm for n in range(2))
    assert (dpo.surrogate, dpo.aggregation, dpo.reference.every) == ("ppo_clip", "token", 5)
    assert (rl.surrogate, rl.aggregation) == ("gspo", "sequence")


# --- optimizers -------------------------------------------------------------------------------------------------------


def test_an_optimizer_is_carried_from_the_stage_whose_model_it_goes_with(write: Write, tmp_path: Path) -> None:
    recipe = staged(write(SFT, {"name": "other"}, {**RL, "model": "stage:sft", "optimizer": "carry"}))
    assert [stage.trainer.optimizer_from for stage in recipe.stages] == [None, None, "stage:sft"]
    assert [stage.trainer.keep_optimizer for stage in recipe.stages] == [True, False, False]
    again = tmp_path / "again.yaml"
    again.write_text(dump_any(recipe), encoding="utf-8")
    assert staged(again) == recipe
    settled = with_optimizer(recipe.stages[2], Path("run/stages/1-sft/optimizer"))
    assert settled.trainer.optimizer_from == "run/stages/1-sft/optimizer"
    assert with_optimizer(recipe.stages[0], Path("x")) == recipe.stages[0]


@pytest.mark.parametrize(
    ("stages", "setting", "says"),
    [
        ([{**RL, "optimizer": "carry"}], "stages.rl.optimizer", "its model is starter"),
        ([SFT, {**RL, "optimizer": "carry", "model": "hub/other"}], "stages.rl.optimizer", "its model is hub/other"),
        (
            [SFT, {**RL, "optimizer": "carry", "trainer": {"optimizer_from": "there"}}],
            "stages.rl.optimizer",
            "leave out one of the two",
        ),
        (
            [SFT, {**RL, "optimizer": "carry", "trainer": {"lora": {"rank": 4}}}],
            "stages.rl.optimizer",
            "rl trains adapters, which end with their stage",
        ),
        (
            [{**SFT, "trainer": {"lora": {"rank": 4}}}, {**RL, "optimizer": "carry"}],
            "stages.rl.optimizer",
            "sft trains adapters",
        ),
        (
            [SFT, {**RL, "kind": "rejection", "optimizer": "carry", "keep": {"restart": True}}],
            "stages.rl.optimizer",
            "keep.restart begins each round with a fresh one",
        ),
        (
            [SFT, {**RL, "trainer": {"optimizer_from": "stage:sft"}}],
            "stages.rl.trainer.optimizer_from",
            "write optimizer: carry",
        ),
    ],
)
def test_an_optimizer_that_cannot_be_carried_is_refused(
    write: Write, stages: list[object], setting: str, says: str
) -> None:
    error = fault(write(*stages))
    assert error.setting == setting
    assert says in str(error)


# --- overrides --------------------------------------------------------------------------------------------------------


def test_overrides_reach_all_stages_or_one(write: Write) -> None:
    recipe = staged(write(SFT, RL), "trainer.steps=2", "stages.rl.trainer.steps=5", "stages.sft.examples.path=y.jsonl")
    assert [stage.trainer.steps for stage in recipe.stages] == [2, 5]
    assert isinstance(recipe.stages[0], SupervisedRecipe)
    assert recipe.stages[0].examples.path == "y.jsonl"


def test_an_override_that_no_stage_takes_is_refused(write: Write) -> None:
    path = write({**SFT, "trainer": {"steps": 1}}, {**RL, "trainer": {"steps": 2}})
    error = fault(path, "trainer.steps=9")
    assert error.setting == "trainer.steps"
    assert "write stages.NAME.trainer.steps=..., NAME one of sft, rl" in str(error)
    assert staged(path, "trainer.token_budget=5000").stages[1].trainer.token_budget == 5000


# --- faults -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stage", "setting", "says"),
    [
        ({"trainer": {"stps": 3}}, "stages.third.trainer.stps", "did you mean steps?"),
        ({"trainer": {"steps": 0}}, "stages.third.trainer.steps", "greater than or equal"),
        ({"kind": "prefer"}, "stages.third.kind", "did you mean preference?"),
        ({"kind": "sft"}, "stages.third.examples", "is missing"),
        ({"kind": "sft", "examples": {"path": "x"}, "reward": {}}, "stages.third.reward", "unknown key"),
        ({"kind": "distill"}, "stages.third.algorithm", "set teacher.model"),
        ({"algorithm": {"advantage": "grpp"}}, "stages.third.algorithm.advantage", "did you mean grpo?"),
        ({"model": "stage:four"}, "stages.third.model", "four is no stage before this one"),
        ({"model": "stage:third"}, "stages.third.model", "stages before it: sft, rl"),
        ({"run_dir": "here"}, "stages.third.run_dir", "each has a folder in it"),
        ({"stages": [{}]}, "stages.third.stages", "do not nest"),
        ({"optimizer": "keep"}, "stages.third.optimizer", "'keep' is not known"),
        ({"keep": {}}, "stages.third.keep", "means nothing where kind is rl"),
        ({"pairs": {"rule": "random"}}, "stages.third.pairs", "means nothing where kind is rl"),
        ({"kind": "rejection", "algorithm": {"surrogate": "gspo"}}, "stages.third.algorithm.surrogate", "rejection"),
        ({"kind": "rejection", "keep": {"rule": "wright"}}, "stages.third.keep.rule", "'wright'"),
        (
            {"kind": "rejection", "keep": {"restart": True}, "trainer": {"stream": True}},
            "stages.third.keep.restart",
            "leave out one of the two",
        ),
        ({"kind": "preference", "algorithm": {"advantage": "rloo"}}, "stages.third.algorithm.advantage", "preference"),
        (
            {"kind": "preference", "algorithm": {"preference": {"name": "dpoo"}}},
            "stages.third.algorithm.preference.name",
            "did you mean dpo?",
        ),
        (
            {"kind": "preference", "algorithm": {"preference": {"options": {"beta": -1}}}},
            "stages.third.algorithm.preference.options",
            "must be above 0",
        ),
        (
            {"kind": "preference", "algorithm": {"preference": {"options": {"betta": 1}}}},
            "stages.third.algorithm.preference.options.betta",
            "did you mean beta?",
        ),
        (
            {"kind": "preference", "algorithm": {"preference": {"name": "simpo", "against": "behaviour"}}},
            "stages.third.algorithm.preference.against",
            "compares with no other policy",
        ),
        ({"kind": "preference", "rollout": {"late": "baseline_only"}}, "stages.third.rollout.late", "has none"),
        (
            {"kind": "preference", "trainer": {"token_budget": 1100}},
            "stages.third.trainer.token_budget",
            "a pair of up to 2048 together",
        ),
        (
            {"kind": "preference", "algorithm": {"preference": {"name": "kto"}}},
            "stages.third.trainer.token_budget",
            "a group of 8 of up to 8192 together",
        ),
        ({"kind": "preference", "rollout": {"group_size": 1}}, "stages.third.rollout.group_size", "2 or more"),
    ],
)
def test_a_fault_in_the_third_stage_costs_one_line(
    write: Write, stage: dict[str, object], setting: str, says: str
) -> None:
    error = fault(write(SFT, RL, {"name": "third", **stage}))
    assert error.setting == setting
    assert says in str(error)


@pytest.mark.parametrize(
    ("stages", "changes", "setting", "says"),
    [
        ([], {}, "stages", "is not a list of stages"),
        ([{"kind": "rl"}], {}, "stages[0].name", "None is no name"),
        ([{"name": "a/b"}], {}, "stages[0].name", "use letters"),
        ([RL, RL], {}, "stages[1].name", "taken"),
        ([RL], {"trainr": {}}, "trainr", "did you mean trainer?"),
        ([RL], {"examples": {"path": "x"}}, "examples", "no stage has a use for it"),
        ([RL], {"pairs": {}}, "pairs", "no stage has a use for it"),
        ([SFT], {"rollout": {"group_size": 4}}, "data", "no stage has a use for it"),
    ],
)
def test_a_fault_of_the_whole_is_named(
    write: Write, stages: list[object], changes: dict[str, object], setting: str, says: str
) -> None:
    error = fault(write(*stages, **changes))
    assert error.setting == setting
    assert says in str(error)


@pytest.mark.parametrize(
    ("override", "setting", "says"),
    [
        ("stages.rll.trainer.steps=3", "stages.rll", "did you mean rl?"),
        ("stages.rl=3", "stages.rl", "write stages.NAME.key=value"),
        ("stages.rl.trainer.stps=3", "stages.rl.trainer.stps", "did you mean steps?"),
    ],
)
def test_a_bad_override_is_one_line(write: Write, override: str, setting: str, says: str) -> None:
    error = fault(write(SFT, RL), override)
    assert error.setting == setting
    assert says in str(error)


def test_a_single_recipe_of_an_unknown_kind(tmp_path: Path) -> None:
    path = tmp_path / "one.yaml"
    path.write_text(yaml.safe_dump({**BASE, "kind": "dpo"}), encoding="utf-8")
    assert "known are rl, rejection, preference, distill, sft" in str(fault(path))
