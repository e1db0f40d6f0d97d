"""docs/groups.md names settings that work: each row of its table is a recipe."""

import re
from pathlib import Path

import pytest

from orchestrator.recipe import load_recipe

PAGE = Path(__file__).parents[2] / "docs" / "groups.md"
ROW = re.compile(r"^\| (?P<method>[^|]+) \| (?P<settings>.+) \|$", re.MULTILINE)
BESIDE = ["data.template='{question} {metadata[budget]}'", "trainer.token_budget=100000"]
"""What the table says in words, or leaves to the size of the run."""


def recipes() -> list[tuple[str, list[str]]]:
    found = []
    for row in ROW.finditer(PAGE.read_text(encoding="utf-8")):
        for quoted in re.findall(r"`([^`]+)`", row["settings"]):
            settings = re.split(r" (?=algorithm\.|rollout\.|reward\.)", quoted)
            if settings[0].startswith(("algorithm.", "rollout.")):
                found.append((row["method"], settings))
    return found


@pytest.mark.parametrize(("method", "settings"), recipes())
def test_a_methods_settings_are_a_recipe(method: str, settings: list[str]) -> None:
    load_recipe("quickstart", [*settings, *BESIDE])


def test_the_table_was_read() -> None:
    assert len(recipes()) >= 15
