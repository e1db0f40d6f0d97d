"""The list of reward terms: every one that a recipe can name, from the registry itself, each with an example.

What a term computes is what its docstring says, its options are its parameters, and its example is one that a test
runs. The second half of docs/rewards.md is printed by `paceline rewards --markdown`.
"""

import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from learners.options import options_of
from rewards.group import Group
from rewards.models.scripted import Reply
from rewards.registry import BUILT_IN, Example, Term, resolve
from rewards.response import Response

_LONGEST = 90
"""Characters of a text that an example shows."""
_KINDS: Mapping[str, str] = {
    "rewards": "Answers: is it right, and does it look right?",
    "rewards.matching": "Matching: an answer against what the data say",
    "rewards.puzzles": "Puzzles: checked by rules, with generators",
    "rewards.planning": "Plans: carried out step by step",
    "rewards.lengths": "Lengths, budgets, thinking and tools",
    "rewards.judging": "Models: verifiers, judges, reward models, clusters of meaning",
}
"""Titles by package; a package that is not among them is its own title."""


@dataclass(frozen=True, slots=True)
class ListedTerm:
    """Attributes:
    says: the first paragraph of its docstring, in one line.
    options: with their defaults, those without one last named alone.
    example: what it gives for what, in one line.
    """

    name: str
    says: str
    options: str
    example: str
    sees_group: bool


def terms() -> Iterator[tuple[str, list[ListedTerm]]]:
    """Titles with their terms, by name; imports every verifier."""
    by_package: dict[str, list[ListedTerm]] = {}
    for name, module in sorted(BUILT_IN.items()):
        by_package.setdefault(module.rpartition(".")[0], []).append(_listed(name, resolve(name)))
    for package in sorted(by_package, key=lambda package: (package not in _KINDS, [*_KINDS, package].index(package))):
        yield _KINDS.get(package, package), by_package[package]


def _listed(name: str, term: Term) -> ListedTerm:
    says = " ".join((inspect.getdoc(term.function) or "").partition("\n\n")[0].split())
    options = ", ".join(
        option if default is inspect.Parameter.empty else f"{option}={default!r}"
        for option, default in options_of(term.function).items()
        if option != "models"  # the recipe's, and no option
    )
    return ListedTerm(name, says, options, _shown(name, term.example), term.sees == "group")


def _shown(name: str, example: Example | None) -> str:
    if example is None:
        return ""
    recipe = f"{{name: {name}, options: {json.dumps(dict(example.options), ensure_ascii=False)}}}"
    recipe = recipe if example.options else name
    if isinstance(example.given, Group):
        values = example.value if isinstance(example.value, tuple) else ()
        answers = [
            f"{_answer(response)}, {_found(found)}: {_number(value)}"
            for response, found, value in zip(example.given.responses, example.given.terms, values, strict=True)
        ]
        history = {**example.given.history, **example.given.shared}
        said = _said(example.replies)
        return f"{recipe} on [{'; '.join(answers)}]" + (f" remembering {_found(history)}" if history else "") + said
    against = example.given.reference
    right = "" if against is None else f" against {_text(against)}"
    value = "" if example.value is None else f": {_number(example.value)}"
    return f"{recipe} on {_answer(example.given)}{right}{_said(example.replies)}{value}"


def _said(replies: Sequence[Reply]) -> str:
    """What the model says, each reply once."""
    shown = [_text(reply) if isinstance(reply, str) else json.dumps(reply) for reply in dict.fromkeys(replies)]
    return f" where the model says {', '.join(shown)}" if shown else ""


def _answer(response: Response) -> str:
    """What matters of an answer: its text, or else its length and calls."""
    if response.text != "...":
        return _text(response.text)
    if response.tool_calls or not response.response_tokens:
        return f"{len(response.tool_calls)} tool calls"
    return f"{response.response_tokens} tokens"


def _text(text: str) -> str:
    shown = json.dumps(text, ensure_ascii=False).replace("\\\\", "\\")
    return shown if len(shown) <= _LONGEST else shown[: _LONGEST - 4] + '..."'


def _found(values: Mapping[str, float]) -> str:
    return " ".join(f"{name}={_number(value)}" for name, value in values.items())


def _number(value: object) -> str:
    if isinstance(value, Mapping):
        return _found(value)
    return f"{value:.4g}" if isinstance(value, int | float) else str(value)


def as_text() -> str:
    """For the screen."""
    lines: list[str] = []
    for title, found in terms():
        lines += [title, ""]
        for term in found:
            lines += [f"  {term.name}", f"      {term.says}"]
            lines += [f"      options: {term.options}"] if term.options else []
            lines += [f"      example: {term.example}"] if term.example else []
        lines.append("")
    return "\n".join(lines)


def as_markdown() -> str:
    """The second half of docs/rewards.md."""
    lines = ["## The terms", "", "Terms marked * see all answers to a prompt together."]
    for title, found in terms():
        lines += ["", f"### {title}", "", "| term | what it computes | options | example |", "|---|---|---|---|"]
        lines += [_row(term) for term in found]
    return "\n".join(lines) + "\n"


def _row(term: ListedTerm) -> str:
    cells: Sequence[str] = (
        f"`{term.name}`" + (" *" if term.sees_group else ""),
        term.says,
        f"`{term.options}`" if term.options else "",
        f"`` {term.example} ``" if term.example else "",
    )
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
