"""The list of methods and the page made of it."""

from pathlib import Path

from typer.testing import CliRunner

from learners.advantages import ADVANTAGES, NORMS, TRACE_ADVANTAGES
from learners.critic.advantages import VALUE_ADVANTAGES
from learners.masks import MASKS
from learners.off_policy import OFF_POLICY
from learners.preferences import PREFERENCES
from learners.surrogates import SURROGATES
from learners.terms import TERMS
from orchestrator.cli import app
from orchestrator.methods import as_markdown, methods
from orchestrator.policies.group_filters import GROUP_FILTERS

PAGE = Path(__file__).parents[2] / "docs" / "methods.md"


def test_every_registered_part_is_listed_with_what_it_computes() -> None:
    listed = [method for _, found in methods() for method in found]
    advantages = (ADVANTAGES, TRACE_ADVANTAGES, VALUE_ADVANTAGES)
    registries = (*advantages, NORMS, SURROGATES, MASKS, OFF_POLICY, TERMS, GROUP_FILTERS, PREFERENCES)
    assert len(listed) == sum(len(registry.names()) for registry in registries)
    assert all(method.says for method in listed)
    settings = [method.setting for method in listed]
    assert "algorithm.surrogate=gspo" in settings
    assert "algorithm.advantage=gae" in settings
    assert "algorithm.terms=[{name: kl_k3, weight: 0.01}]" in settings
    assert "algorithm.masks=[{name: curvature}]" in settings
    assert "algorithm.group_filters=[{name: length_outliers}]" in settings


def test_the_page_is_what_the_command_prints() -> None:
    printed = CliRunner().invoke(app, ["methods", "--markdown"])
    assert printed.output == as_markdown()
    assert PAGE.read_text(encoding="utf-8") == as_markdown(), "run `paceline methods --markdown > docs/methods.md`"


def test_the_screen_shows_settings_and_options() -> None:
    shown = CliRunner().invoke(app, ["methods"])
    assert shown.exit_code == 0
    assert "  algorithm.surrogate=sapo" in shown.output
    assert "options: tau_pos=1.0, tau_neg=1.05" in shown.output
