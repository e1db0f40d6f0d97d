"""The named reward terms: a name from a recipe becomes a function from a response, or from a group of them, to values.

Two kinds of name. A plain one (`math`) is a term of this package: `BUILT_IN` says which module registers it, so that
a name can be checked without importing that module's verifier. A name with a colon (`package.module:function`) is
a user's own function, imported from the path of the process that scores.
"""

import difflib
import importlib
import inspect
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Concatenate, Literal, ParamSpec, TypeVar

from rewards.group import Group
from rewards.models.asking import ModelFailed
from rewards.models.scripted import Reply
from rewards.response import Json, Response
from rewards.verdict import Answer, TermValue

TermFunction = Callable[..., Answer | Awaitable[Answer]]
"""A response and the recipe's options as keywords in; one value, or several named ones, out."""
GroupFunction = Callable[..., Sequence[Answer] | Awaitable[Sequence[Answer | ModelFailed]]]
"""A group and the recipe's options as keywords in; for each of its responses what a `TermFunction` returns, or why a
model had nothing to say about it, out."""

BUILT_IN: Mapping[str, str] = {
    "adaptthink": "rewards.lengths.thinking",
    "anytime_brpo": "rewards.lengths.budget",
    "autothink": "rewards.lengths.thinking",
    "capo_credit": "rewards.judging.credit",
    "cosine_length": "rewards.lengths.overlong",
    "countdown": "rewards.puzzles.arithmetic",
    "dot_truncation": "rewards.lengths.targets",
    "drpo_length": "rewards.lengths.targets",
    "empo": "rewards.judging.clusters",
    "exact": "rewards.matching.text",
    "fapo_flawed": "rewards.judging.flawed",
    "fare": "rewards.judging.rating",
    "format": "rewards.format_term",
    "g1_graph": "rewards.puzzles.graphs",
    "general_reasoner": "rewards.judging.verifier",
    "hapo": "rewards.lengths.history",
    "hbpo_budget": "rewards.lengths.budget",
    "judge": "rewards.judging.rubric",
    "laser": "rewards.lengths.targets",
    "laser_d": "rewards.lengths.targets",
    "math": "rewards.math_answer",
    "multiple_choice": "rewards.matching.choice",
    "ndcg": "rewards.matching.ranking",
    "one_box": "rewards.format_term",
    "otc_po": "rewards.lengths.tool_use",
    "overlong": "rewards.lengths.overlong",
    "pddl_plan": "rewards.planning.plan_term",
    "phrase": "rewards.matching.text",
    "prolog": "rewards.prolog_program",
    "python_functions": "rewards.python_code",
    "python_stdio": "rewards.python_code",
    "random_calculation": "rewards.puzzles.arithmetic",
    "rank_r1": "rewards.matching.ranking",
    "reasoning_gym": "rewards.reasoning_gym_task",
    "reasonrank": "rewards.matching.ranking",
    "recall": "rewards.matching.ranking",
    "rlpr": "rewards.reference_likelihood",
    "regex": "rewards.matching.text",
    "repetition": "rewards.matching.repetition",
    "reward_model": "rewards.judging.scored",
    "rlcr": "rewards.matching.confidence",
    "rpr": "rewards.judging.scored",
    "saturn": "rewards.puzzles.sat",
    "sd_e2": "rewards.judging.diversity",
    "shortest_correct": "rewards.lengths.targets",
    "sql": "rewards.sql_query",
    "sql_ngrams": "rewards.sql_query",
    "sql_schema": "rewards.sql_query",
    "sql_syntax": "rewards.sql_query",
    "swe_rl": "rewards.matching.patch",
    "tags": "rewards.format_term",
    "verilog": "rewards.verilog_design",
}

GIVES_SPANS = frozenset({"anytime_brpo", "capo_credit"})
"""Those of them that reward parts of an answer beside the whole."""

RUNS_PROGRAMS = frozenset({"prolog", "python_functions", "python_stdio", "verilog"})
"""Those of them that run programs in a sandbox, all together for `job_s` seconds at most."""

_Options = ParamSpec("_Options")
_Value = TypeVar("_Value", bound=Answer | Awaitable[Answer])
_Values = TypeVar("_Values", bound=Sequence[Answer] | Awaitable[Sequence[Answer | ModelFailed]])


JUDGING = "rewards.judging."
"""Where this package's terms that may ask a model are."""


class UnknownTermError(ValueError):
    """No reward term has this name; one line that names the nearest ones."""


class RefusedOptionError(ValueError):
    """An option of a term has a value that can work for no response."""


@contextmanager
def refusing_options() -> Iterator[None]:
    """What raises ValueError inside looks at options alone: it refuses them."""
    try:
        yield
    except ValueError as error:
        raise RefusedOptionError(str(error)) from error


@dataclass(frozen=True, slots=True)
class Example:
    """A term at work: shown by `paceline rewards`, run before the first response, and held true by a test.

    Attributes:
        given: what is scored.
        value: what comes out, for a group in the order of its responses; None where it depends on the machine.
        options: of the term.
        replies: what the model says, in turn, where the term asks one.
    """

    given: Response | Group
    value: TermValue | tuple[TermValue, ...] | None = None
    options: Mapping[str, Json] = field(default_factory=dict)
    replies: tuple[Reply, ...] = ()


@dataclass(frozen=True, slots=True)
class Term:
    """A resolved reward term.

    Attributes:
        function: `(response, **options) -> value`, or `(group, **options) -> values`.
        example: scored once before the first real response, so that what the verifier loads or compiles on first use
            is not taken from a sample's deadline.
        confined: may not act on the machine while it scores (`rewards.confinement`). So run the terms of this
            package, but for those that start a sandbox; a user's own function may do what it likes.
        sees: one response at a time, or all answers to a prompt together, after the terms that see one.
        fallback: its value where a model gave no usable reply; None where it has none to give.
    """

    function: TermFunction | GroupFunction
    example: Example | None = None
    confined: bool = False
    sees: Literal["response", "group"] = "response"
    fallback: float | None = None

    @property
    def takes_models(self) -> bool:
        """Whether the function has the keyword `models`."""
        return "models" in inspect.signature(self.function).parameters

    def model_asked(self, options: Mapping[str, Json]) -> str | None:
        """Name of the model that it asks by its option `model`; None where it asks none, or does not say which."""
        parameter = inspect.signature(self.function).parameters.get("model")
        default = None if parameter is None or parameter.default is parameter.empty else parameter.default
        named = options.get("model", default)
        return named if self.takes_models and isinstance(named, str) else None

    def asks(self, options: Mapping[str, Json]) -> bool:
        """Whether it asks a model, given these options: it takes `models`, and its option `model` is not None."""
        chooses = "model" in inspect.signature(self.function).parameters
        return self.takes_models and (not chooses or self.model_asked(options) is not None)


@dataclass(slots=True)
class TermRegistry:
    """Terms by name; a name is given once."""

    _terms: dict[str, Term] = field(default_factory=dict)

    def register(self, name: str, term: Term) -> None:
        """Raises: ValueError where the name is taken."""
        if name in self._terms:
            taken = self._terms[name].function
            raise ValueError(f"reward term {name!r} is already {taken.__module__}.{taken.__qualname__}")
        self._terms[name] = term

    def __getitem__(self, name: str) -> Term:
        return self._terms[name]

    def __contains__(self, name: str) -> bool:
        return name in self._terms


TERMS = TermRegistry()


def term(
    name: str,
    *,
    example: Example | Response | None = None,
    confined: bool = True,
    fallback: float | None = None,
) -> Callable[[Callable[Concatenate[Response, _Options], _Value]], Callable[Concatenate[Response, _Options], _Value]]:
    """Register the decorated function as the term `name`; see `Term` for the rest."""

    def register(
        function: Callable[Concatenate[Response, _Options], _Value],
    ) -> Callable[Concatenate[Response, _Options], _Value]:
        shown = Example(example) if isinstance(example, Response) else example
        TERMS.register(name, Term(function, shown, confined, fallback=fallback))
        return function

    return register


def group_term(
    name: str, *, example: Example, fallback: float | None = None
) -> Callable[[Callable[Concatenate[Group, _Options], _Values]], Callable[Concatenate[Group, _Options], _Values]]:
    """Register the decorated function, which sees all answers to a prompt, as the term `name`."""

    def register(
        function: Callable[Concatenate[Group, _Options], _Values],
    ) -> Callable[Concatenate[Group, _Options], _Values]:
        TERMS.register(name, Term(function, example, confined=True, sees="group", fallback=fallback))
        return function

    return register


_OF_GROUPS = "_sees_the_group"


def of_group(function: GroupFunction) -> GroupFunction:
    """Mark a function of your own, named as `module:function` in a recipe, as one that sees the whole group."""
    setattr(function, _OF_GROUPS, True)
    return function


def check_name(name: str) -> str:
    """The name itself, where it can be a term's: nothing is imported, so a user's function is not looked at.

    Raises: UnknownTermError with the near misses.
    """
    module, colon, function = name.partition(":")
    if name in BUILT_IN or name in TERMS:
        return name
    if colon and function.isidentifier() and all(part.isidentifier() for part in module.split(".")):
        return name
    raise UnknownTermError(
        f"no reward term {name!r}{_nearest(name, BUILT_IN)}; choose one of {', '.join(sorted(BUILT_IN))}, "
        "or name your own as package.module:function"
    )


def may_give_spans(name: str) -> bool:
    """Whether the term may reward parts of an answer; of a user's own nobody knows before it does."""
    return name in GIVES_SPANS or ":" in name


def resolve(name: str) -> Term:
    """The term of this name; imports the module that holds it.

    Raises: UnknownTermError where there is none; whatever the import of a user's module raises.
    """
    check_name(name)
    if name in BUILT_IN:
        importlib.import_module(BUILT_IN[name])
    if name in TERMS:
        return TERMS[name]
    module_name, _, function_name = name.partition(":")
    module = importlib.import_module(module_name)
    function = getattr(module, function_name, None)
    if not callable(function):
        raise UnknownTermError(f"{module_name} has no function {function_name!r}{_nearest(function_name, dir(module))}")
    return Term(function, sees="group" if getattr(function, _OF_GROUPS, False) else "response")


def _nearest(name: str, known: Mapping[str, str] | list[str]) -> str:
    matches = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f" (did you mean {' or '.join(matches)}?)" if matches else ""
