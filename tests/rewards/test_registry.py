import asyncio
import importlib
from collections.abc import Awaitable

import pytest
from pydantic import ValidationError

from learners.options import options_of
from rewards.models.scripted import ScriptedModels
from rewards.registry import (
    BUILT_IN,
    RUNS_PROGRAMS,
    TERMS,
    Term,
    TermRegistry,
    UnknownTermError,
    check_name,
    may_give_spans,
    resolve,
    term,
)
from rewards.response import Response
from rewards.settings import RewardSettings, TermSettings
from rewards.verdict import Verdict

GUARDED_OTHERWISE = {"prolog", "python_functions", "python_stdio", "sql", "sql_schema", "sql_syntax", "verilog"}
"""They start a sandbox, or open a database that only reads."""


def test_every_built_in_name_is_registered_by_the_module_it_names() -> None:
    for name, module in BUILT_IN.items():
        importlib.import_module(module)
        assert TERMS[name].function.__module__ == module
        assert TERMS[name].confined or name in GUARDED_OTHERWISE or TERMS[name].takes_models


def test_those_that_run_programs_are_the_ones_with_a_bound_on_all_of_them() -> None:
    bounded = {name for name in BUILT_IN if "job_s" in options_of(resolve(name).function)}
    assert bounded == RUNS_PROGRAMS


def test_a_name_is_given_once() -> None:
    registry = TermRegistry()
    registry.register("a", Term(len))
    with pytest.raises(ValueError, match=r"'a' is already builtins\.len"):
        registry.register("a", Term(abs))
    assert registry["a"].function is len


def test_the_decorator_refuses_a_taken_name() -> None:
    resolve("format")
    with pytest.raises(ValueError, match=r"'format' is already rewards\.format_term"):

        @term("format")
        def again(response: Response) -> float:
            return 0.0


@pytest.mark.parametrize(
    ("wrong", "near"), [("mathh", "math"), ("reasoning-gym", "reasoning_gym"), ("formt", "format")]
)
def test_a_miss_names_the_near_miss(wrong: str, near: str) -> None:
    with pytest.raises(UnknownTermError, match=f"did you mean {near}"):
        check_name(wrong)
    with pytest.raises(ValidationError, match=f"did you mean {near}"):
        TermSettings(name=wrong)


@pytest.mark.parametrize("name", ["", ":", "a:", ":b", "a b:c", "a..b:c", "nothing_like_it"])
def test_what_can_be_no_name_is_refused_before_anything_is_imported(name: str) -> None:
    with pytest.raises(UnknownTermError):
        check_name(name)


def test_a_users_function_is_found_and_may_act_on_the_machine() -> None:
    resolved = resolve("tests.rewards.misbehaving:several")
    assert resolved.function(Response("s", "q", "abc")) == {"length": 3.0, "truncated": 0.0}
    assert not resolved.confined


@pytest.mark.parametrize("function", ["severall", "not_a_function"])
def test_a_users_module_without_the_function(function: str) -> None:
    with pytest.raises(UnknownTermError, match=f"no function '{function}'"):
        resolve(f"tests.rewards.misbehaving:{function}")


def test_settings_survive_json_and_are_frozen() -> None:
    settings = RewardSettings(
        terms=(TermSettings(name="format", options={"pattern": "a.*"}), TermSettings(name="math", weight=0.5))
    )
    assert RewardSettings.model_validate_json(settings.model_dump_json()) == settings
    with pytest.raises(ValidationError, match="frozen"):
        settings.workers = 2  # type: ignore[misc]


def test_two_terms_with_one_label_are_refused_and_a_label_helps() -> None:
    once = {"name": "format", "options": {"pattern": "a"}}
    with pytest.raises(ValidationError, match="logged as 'format'; give one of them a label"):
        RewardSettings.model_validate({"terms": [once, once]})
    settings = RewardSettings.model_validate({"terms": [once, {**once, "label": "closing"}]})
    assert [entry.logged_as for entry in settings.terms] == ["format", "closing"]


@pytest.mark.parametrize(
    "wrong",
    [{"terms": []}, {}, {"terms": [{"name": "math"}], "workers": 0}, {"terms": [{"name": "math"}], "deadline": 3}],
)
def test_impossible_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        RewardSettings.model_validate(wrong)


async def _awaited(answers: Awaitable[object]) -> object:
    return await answers


@pytest.mark.parametrize("name", sorted(BUILT_IN.keys() - GUARDED_OTHERWISE))
def test_terms_that_reward_parts_are_said_to(name: str) -> None:
    example = resolve(name).example
    assert example is not None
    models = {"models": ScriptedModels(example.replies)} if resolve(name).takes_models else {}
    answers = resolve(name).function(example.given, **example.options, **models)
    if isinstance(answers, Awaitable):
        answers = asyncio.run(_awaited(answers))
    several = answers if isinstance(answers, list | tuple) else [answers]
    assert may_give_spans(name) or not any(isinstance(answer, Verdict) and answer.spans for answer in several)
    assert may_give_spans("my_module:score")
