"""Recipes: overrides, one-line errors with the nearest valid name, and rules that join sections."""

from pathlib import Path

import pytest
import yaml

from orchestrator.errors import SettingError
from orchestrator.recipe import dump_recipe, load_recipe


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    tree = {
        "name": "mine",
        "model": "starter",
        "data": {"tasks": [{"name": "chain_sum"}]},
        "reward": {"terms": [{"name": "reasoning_gym"}]},
    }
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return path


def fault(path: Path | str, *overrides: str) -> SettingError:
    with pytest.raises(SettingError) as caught:
        load_recipe(str(path), overrides)
    message = str(caught.value)
    assert "\n" not in message
    return caught.value


@pytest.mark.parametrize("name", ["quickstart", "gsm8k"])
def test_a_recipe_of_one_stage_is_valid_and_survives_a_round_trip(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    copy = tmp_path / "copy.yaml"
    copy.write_text(dump_recipe(recipe), encoding="utf-8")
    assert load_recipe(str(copy)) == recipe


def test_overrides_reach_nested_settings_with_their_types(recipe_file: Path) -> None:
    recipe = load_recipe(
        str(recipe_file), ["trainer.steps=7", "trainer.learning_rate=3e-5", "algorithm.correction.mode=mask", "seed=4"]
    )
    assert (recipe.trainer.steps, recipe.seed, recipe.algorithm.correction.mode) == (7, 4, "mask")
    assert recipe.trainer.learning_rate == pytest.approx(3e-5)


def test_an_override_of_the_source_takes_the_place_of_the_recipe_s(recipe_file: Path) -> None:
    recipe = load_recipe(str(recipe_file), ["data.path=x.jsonl"])
    assert recipe.data.path == "x.jsonl"
    assert recipe.data.tasks is None


@pytest.mark.parametrize(
    ("override", "setting", "says"),
    [
        ("trainer.stps=3", "trainer.stps", "did you mean steps?"),
        ("trianer.steps=3", "trianer", "did you mean trainer?"),
        ("algorithm.correction.hgih=3", "algorithm.correction.hgih", "did you mean high?"),
        ("trainer.steps=many", "trainer.steps", "got 'many'"),
        ("trainer.steps=0", "trainer.steps", "greater than or equal to 1"),
        ("trainer.steps", "trainer.steps", "key.sub=value"),
        ("name.sub=1", "name.sub", "name holds a value"),
        ("algorithm.advantage=grpp", "algorithm.advantage", "did you mean grpo?"),
        ("algorithm.surrogate=ppo", "algorithm.surrogate", "did you mean ppo_clip?"),
        ("algorithm.advantage_norm=batch", "algorithm.advantage_norm", "did you mean batch_std?"),
        ("algorithm.surrogate_options.tau=2", "algorithm.surrogate_options.tau", "there is no such option"),
        ("algorithm.advantage_options.stdd=sample", "algorithm.advantage_options.stdd", "did you mean std?"),
        ("algorithm.advantage_options.std=robust", "algorithm.advantage_options.std", "'robust'"),
        ("algorithm.advantage=ngrpo", "algorithm.drop_zero_variance", "set it to false"),
        ("algorithm.advantage=gea", "algorithm.advantage", "did you mean gae?"),
        ("algorithm.critic.learning_rate=1e-4", "algorithm.critic", "asks no critic"),
        ("algorithm.critic.warmup=3", "algorithm.critic.warmup", "did you mean warmup_steps?"),
        ("speculation.governor=thomson", "speculation.governor", "did you mean thompson?"),
        ("speculation=adaptiv", "speculation", "did you mean adaptive?"),
        ("speculation.lengths=[1, 2]", "speculation.lengths", "begin with 0"),
        ("rollout.group_size=1", "rollout.group_size", "without a group"),
        ("trainer.minibatches=3", "trainer.minibatches", "do not divide"),
        ("topology.learner.ranks=1000", "topology.learner.ranks", "1000 ranks share"),
        ("topology.learner.sequence_parallel=2", "topology.learner", "sequence_parallel=2 does not divide ranks=1"),
        ("trainer.lora.rank=0", "trainer.lora.rank", "greater than or equal to 1"),
        ("trainer.lora.dropout=0.1", "trainer.lora.dropout", "unknown key"),
        ("trainer.token_budget=64", "trainer.token_budget", "cannot hold one prompt and answer"),
        ("rollout.max_running=4", "rollout.max_running", "less than rollout.group_size"),
        ("algorithm.correction.low=3", "algorithm.correction.low", "lies above"),
        ("algorithm.off_policy=shape", "algorithm.off_policy", "did you mean shaped?"),
        ("algorithm.off_policy_options.gamma=0", "algorithm.off_policy_options", "must be above 0"),
        ("algorithm.advantage=spo_chian", "algorithm.advantage", "did you mean spo_chain?"),
        ("algorithm.masks=[{name: curvatur}]", "algorithm.masks", "did you mean 'curvature'?"),
        ("algorithm.masks=[{name: curvature, options: {stp: 1}}]", "algorithm.masks", "did you mean step?"),
        ("algorithm.masks=[{name: high_entropy}, {name: high_entropy}]", "algorithm.masks", "named twice"),
        ("algorithm.group_filters=[{name: solve}]", "algorithm.group_filters", "did you mean 'solve_rate'?"),
        (
            "algorithm.group_filters=[{name: solve_rate, options: {low: 2}}]",
            "algorithm.group_filters",
            "low=2.0 must be below high=1.0",
        ),
        (
            "algorithm.group_filters=[{name: length_outliers, options: {deviations: 3}}]",
            "algorithm.group_filters",
            "more than 2.65 deviations",
        ),
        (
            "algorithm.group_filters=[{name: solve_rate}, {name: length_outliers}]",
            "algorithm.group_filters",
            "name length_outliers first",
        ),
        ("algorithm.surrogate=trpa", "algorithm.aggregation", "set it to sequence"),
        ("algorithm.advantage=hbpo", "rollout.budgets", "compares answers under different budgets"),
        ("rollout.budgets=[64, 128]", "data.template", "{metadata[budget]} is missing"),
        ("rollout.budgets=[64, 128, 256]", "rollout.group_size", "no equal shares"),
        ("rollout.budgets=[128, 64]", "rollout.budgets", "do not ascend"),
        ("rollout.budgets=[64, 9999]", "rollout.budgets", "to at most rollout.max_response_tokens=512"),
        ("reward.terms=[{name: overlong, options: {buffer: 9}}]", "reward.terms", "no length to go by"),
        (
            "reward.terms=[{name: overlong, options: {buffer: 9, max_tokens: 600}}]",
            "reward.terms",
            "begins at 591 tokens, which no answer exceeds",
        ),
        ("algorithm.advantage=spo_chain", "rollout.probes", "nothing measures them"),
        ("rollout.probes.every=64", "rollout.probes", "reads no probes"),
        ("algorithm.advantage=capo_credit", "reward.terms", "no term rewards parts of an answer"),
        (
            "reward.terms=[{name: anytime_brpo, options: {budgets: [8]}}]",
            "algorithm.advantage",
            "anytime_brpo rewards parts of an answer, and grpo gives all tokens of an answer one number",
        ),
        ("reward.terms=[rlpr]", "rollout.likelihood", "nobody asks them"),
        ("rollout.likelihood={opening: a}", "rollout.likelihood", "no reward reads it"),
        ("rollout.probes.at=[4, 2]", "rollout.probes.at", "must ascend"),
        ("rollout.top_p=0.9", "rollout.top_p", "incomparable"),
    ],
)
def test_a_bad_setting_is_one_line_that_names_it(recipe_file: Path, override: str, setting: str, says: str) -> None:
    error = fault(recipe_file, override)
    assert error.setting == setting
    assert says in str(error)


def test_ranks_that_share_rows_count_as_one_reader(recipe_file: Path) -> None:
    answers = ["trainer.prompts_per_step=2", "rollout.group_size=2", "topology.learner.ranks=8"]
    assert "8 ranks share 4 answers" in str(fault(recipe_file, *answers))
    assert load_recipe(str(recipe_file), [*answers, "topology.learner.sequence_parallel=2"]).topology.learner.ranks == 8


def test_a_missing_setting_is_named(recipe_file: Path) -> None:
    tree = yaml.safe_load(recipe_file.read_text())
    del tree["model"]
    recipe_file.write_text(yaml.safe_dump(tree))
    error = fault(recipe_file)
    assert (error.setting, error.reason) == ("model", "is missing")


def test_a_recipe_that_does_not_exist_names_the_nearest() -> None:
    assert "did you mean gsm8k?" in str(fault("gsm8"))
    assert "no such recipe file" in str(fault("nowhere/r.yaml"))


def test_broken_yaml_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text("a: [1, 2\nb: {", encoding="utf-8")
    assert "not valid YAML" in str(fault(path))
    path.write_text("- a\n- b\n", encoding="utf-8")
    assert "a recipe is a mapping" in str(fault(path))


def test_an_option_out_of_range_is_refused_before_the_run(recipe_file: Path) -> None:
    error = fault(recipe_file, "algorithm.surrogate=sapo", "algorithm.surrogate_options.tau_pos=0")
    assert error.setting == "algorithm.surrogate_options"
    assert "tau_pos=0.0" in str(error)


def test_a_norm_over_the_batch_cannot_be_streamed(recipe_file: Path) -> None:
    error = fault(recipe_file, "algorithm.advantage_norm=batch_std", "trainer.stream=true")
    assert error.setting == "algorithm.advantage_norm"
    assert "trainer.stream=true" in str(error)
    assert load_recipe(str(recipe_file), ["algorithm.advantage_norm=task_std", "trainer.stream=true"]).trainer.stream


@pytest.mark.parametrize(
    ("overrides", "setting", "says"),
    [
        (["algorithm.surrogate=rover", "algorithm.old_logprobs=behaviour"], "algorithm.old_logprobs", "recompute"),
        (
            ["algorithm.surrogate=trpa", "algorithm.aggregation=sequence", "trainer.token_budget=2000"],
            "trainer.token_budget",
            "cannot hold a group of up to",
        ),
        (
            [
                "algorithm.advantage=ngrpo",
                "algorithm.drop_zero_variance=false",
                "algorithm.group_filters=[{name: solve_rate}]",
            ],
            "algorithm.group_filters",
            "drops the all-wrong groups",
        ),
        (
            ["rollout.anchors.solution=worked", "algorithm.group_filters=[{name: solve_rate}]"],
            "algorithm.group_filters",
            "rollout.anchors with when=none_right learn",
        ),
        (
            ["rollout.anchors.solution=worked", "algorithm.off_policy=importance"],
            "algorithm.off_policy",
            "set it to shaped or likelihood",
        ),
        (
            ["algorithm.advantage=remax", "rollout.over_sampling={answers: 2, leftovers: drop}"],
            "rollout.over_sampling.answers",
            "tells answers apart by their number",
        ),
        (["algorithm.advantage=brpo", "rollout.probes.every=64"], "rollout.probes.at", "budgets are the cuts"),
        (["algorithm.advantage=brpo", "rollout.probes.at=[64, 9999]"], "rollout.probes.at", "must lie below"),
        (
            ["algorithm.advantage=spo_chain", "rollout.probes.every=64", "algorithm.advantage_norm=batch_std"],
            "algorithm.advantage_norm",
            "one per token",
        ),
        (
            ["algorithm.advantage=dagrpo", "algorithm.advantage_options.score=steps"],
            "algorithm.advantage_options",
            "no such reward term was scored",
        ),
    ],
)
def test_a_part_without_what_it_needs_is_refused(
    recipe_file: Path, overrides: list[str], setting: str, says: str
) -> None:
    with pytest.raises(SettingError) as caught:
        load_recipe(str(recipe_file), overrides)
    assert caught.value.setting == setting
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "overrides",
    [
        ["algorithm.advantage=remax", "rollout.group_size=1"],
        ["algorithm.surrogate=rover", "algorithm.advantage=dr_grpo"],
        ["algorithm.surrogate=trpa", "algorithm.aggregation=sequence", "trainer.token_budget=100000"],
        ["algorithm.advantage=spo_chain", "rollout.probes.unlikely=3", "algorithm.masks=[{name: unlikely_tokens}]"],
        ["algorithm.advantage=brpo", "rollout.probes.at=[64, 128]", "rollout.probes.ask=' So '"],
        ["algorithm.advantage=hbpo", "rollout.budgets=[64, 128]", "data.template='{question} {metadata[budget]}'"],
        ["algorithm.advantage=dagrpo", "algorithm.advantage_options.score=reasoning_gym"],
        ["algorithm.group_filters=[{name: length_outliers}, {name: truncated}]"],
        ["algorithm.advantage=paft", "algorithm.surrogate=reinforce"],
    ],
)
def test_a_part_with_what_it_needs_survives_a_round_trip(
    recipe_file: Path, tmp_path: Path, overrides: list[str]
) -> None:
    recipe = load_recipe(str(recipe_file), overrides)
    copy = tmp_path / "copy.yaml"
    copy.write_text(dump_recipe(recipe), encoding="utf-8")
    assert load_recipe(str(copy)) == recipe


def test_an_advantage_made_of_values_has_a_critic_with_or_without_settings(recipe_file: Path) -> None:
    assert load_recipe(str(recipe_file), ["algorithm.advantage=gae"]).algorithm.critic is None
    recipe = load_recipe(str(recipe_file), ["algorithm.advantage=extended_gae", "algorithm.critic.warmup_steps=5"])
    assert recipe.algorithm.critic is not None
    assert recipe.algorithm.critic.warmup_steps == 5


@pytest.mark.parametrize(
    ("overrides", "setting", "says"),
    [
        (["algorithm.advantage_options.lam=2"], "algorithm.advantage_options", "must be in [0, 1]"),
        (["algorithm.advantage_options.lamda=1"], "algorithm.advantage_options.lamda", "did you mean lam?"),
        (["algorithm.advantage_norm=task_std"], "algorithm.advantage_norm", "batch_whiten"),
        (["algorithm.advantage_norm=batch_whiten", "trainer.stream=true"], "algorithm.advantage_norm", "at once"),
        (["rollout.group_size=1"], "algorithm.drop_zero_variance", "set it to false"),
        (
            ["topology.learner.ranks=2", "topology.learner.sequence_parallel=2"],
            "topology.learner.sequence_parallel",
            "does not share rows",
        ),
        (["trainer.backend=deepspeed"], "trainer.backend", "FSDP2 alone"),
    ],
)
def test_what_contradicts_a_critic_is_refused(recipe_file: Path, overrides: list[str], setting: str, says: str) -> None:
    error = fault(recipe_file, "algorithm.advantage=gae", *overrides)
    assert error.setting == setting
    assert says in str(error)


def test_rows_that_ranks_share_are_not_watched(recipe_file: Path) -> None:
    shared = ["topology.learner.ranks=2", "topology.learner.sequence_parallel=2"]
    error = fault(recipe_file, "algorithm.masks=[{name: attention_entropy}]", *shared)
    assert error.setting == "topology.learner.sequence_parallel"
    assert "leave out the mask" in str(error)


def test_a_critic_needs_no_group(recipe_file: Path) -> None:
    alone = ["rollout.group_size=1", "algorithm.drop_zero_variance=false", "algorithm.advantage=gae"]
    recipe = load_recipe(str(recipe_file), [*alone, "algorithm.advantage_norm=batch_whiten"])
    assert recipe.rollout.group_size == 1
    assert load_recipe(str(recipe_file), [*alone, "trainer.stream=true"]).trainer.stream
