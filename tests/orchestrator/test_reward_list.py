"""The list of reward terms, its examples, and the page made of it."""

import asyncio
import inspect
from collections.abc import Awaitable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from orchestrator.cli import app
from orchestrator.reward_list import as_markdown, terms
from rewards.models.scripted import ScriptedModels
from rewards.registry import BUILT_IN, Example, resolve
from rewards.verdict import TermValue, as_verdict

PAGE = Path(__file__).parents[2] / "docs" / "rewards.md"


def test_every_term_is_listed_with_what_it_computes_and_an_example() -> None:
    listed = [term for _, found in terms() for term in found]
    assert sorted(term.name for term in listed) == sorted(BUILT_IN)
    assert all(term.says and term.example and "\n" not in term.example for term in listed)


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_the_example_gives_the_value_that_it_shows(name: str) -> None:
    term = resolve(name)
    example = term.example
    assert isinstance(example, Example)
    if example.value is None:
        pytest.skip("its value depends on the machine")
    models = {"models": ScriptedModels(example.replies)} if term.takes_models else {}
    answer = term.function(example.given, **example.options, **models)
    if inspect.isawaitable(answer):
        answer = asyncio.run(_awaited(answer))
    if isinstance(example.value, tuple):
        assert [as_verdict(value).value for value in answer] == list(map(_near, example.value))
    else:
        assert as_verdict(answer).value == _near(example.value)


async def _awaited(answer: Awaitable[object]) -> object:
    return await answer


def _near(value: TermValue) -> object:
    return pytest.approx(value, abs=1e-9)


def test_the_page_ends_in_what_the_command_prints() -> None:
    printed = CliRunner().invoke(app, ["rewards", "--markdown"])
    assert printed.output == as_markdown()
    page = PAGE.read_text(encoding="utf-8")
    assert page[page.index("## The terms") :] == as_markdown(), "print it anew by `paceline rewards --markdown`"


def test_the_screen_shows_options_and_examples() -> None:
    shown = CliRunner().invoke(app, ["rewards"])
    assert shown.exit_code == 0
    assert "options: buffer, max_tokens=None" in shown.output
    assert 'example: {name: phrase, options: {"phrases":' in shown.output
