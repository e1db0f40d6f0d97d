"""The list of methods: every part that a recipe can name, from the registries themselves.

What is written about a part is what its docstring says; what can be set is what its parameters say. So neither can be
forgotten, and docs/methods.md is printed by `paceline methods --markdown`.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from learners.advantages import ADVANTAGES, NORMS, TRACE_ADVANTAGES
from learners.critic.advantages import VALUE_ADVANTAGES
from learners.masks import MASKS
from learners.off_policy import OFF_POLICY
from learners.options import options_of
from learners.preferences import PREFERENCES
from learners.surrogates import SURROGATES
from learners.terms import TERMS
from orchestrator.policies.group_filters import GROUP_FILTERS

Part = Callable[..., object]


@dataclass(frozen=True, slots=True)
class Method:
    """Attributes:
    setting: what a recipe or a command line writes to choose it.
    says: the first paragraph of its docstring, in one line.
    options: its options with their defaults.
    """

    setting: str
    says: str
    options: dict[str, object]

    @property
    def options_text(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in self.options.items())


def methods() -> Iterator[tuple[str, list[Method]]]:
    """Titles with their methods, by name."""
    advantages = {f"{ADVANTAGES.kind}={name}": ADVANTAGES[name] for name in ADVANTAGES.names()}
    from_values = {f"{VALUE_ADVANTAGES.kind}={name}": VALUE_ADVANTAGES[name] for name in VALUE_ADVANTAGES.names()}
    norms = {f"{NORMS.kind}={name}": NORMS[name] for name in NORMS.names()}
    traces = {f"{TRACE_ADVANTAGES.kind}={name}": TRACE_ADVANTAGES[name] for name in TRACE_ADVANTAGES.names()}
    surrogates = {f"{SURROGATES.kind}={name}": SURROGATES[name] for name in SURROGATES.names()}
    terms = {f"{TERMS.kind}=[{{name: {name}, weight: 0.01}}]": TERMS[name].loss for name in TERMS.names()}
    masks = {f"{MASKS.kind}=[{{name: {name}}}]": MASKS[name] for name in MASKS.names()}
    off_policy = {f"{OFF_POLICY.kind}={name}": OFF_POLICY[name] for name in OFF_POLICY.names()}
    filters = {f"{GROUP_FILTERS.kind}=[{{name: {name}}}]": GROUP_FILTERS[name] for name in GROUP_FILTERS.names()}
    preferences = {f"{PREFERENCES.kind}={name}": PREFERENCES[name].loss for name in PREFERENCES.names()}
    yield "Advantages: what a reward is compared with", _described(advantages)
    yield "Advantages that differ along an answer, from probes of it or rewards of its parts", _described(traces)
    yield "Advantages of tokens, from the values of a critic", _described(from_values)
    yield "Norms: what is done to the advantages of a batch", _described(norms)
    yield "Surrogates: the loss of a token", _described(surrogates)
    yield "Masks: which tokens the surrogate trains, and how much", _described(masks)
    yield "Off-policy: the loss of a token that another than the policy wrote", _described(off_policy)
    yield "Terms: what is added to the loss of a token", _described(terms)
    yield "Group filters: what becomes of a scored group before it is trained", _described(filters)
    yield "Preferences (`kind: preference`): the loss of a pair or a group of answers", _described(preferences)


def _described(parts: Mapping[str, Part]) -> list[Method]:
    return [Method(setting, _first_paragraph(part), options_of(part)) for setting, part in parts.items()]


def _first_paragraph(part: Part) -> str:
    return " ".join((inspect.getdoc(part) or "").partition("\n\n")[0].split())


def as_text() -> str:
    """For the screen."""
    lines: list[str] = []
    for title, found in methods():
        lines += [title, ""]
        for method in found:
            lines.append(f"  {method.setting}")
            lines.append(f"      {method.says}")
            if method.options:
                lines.append(f"      options: {method.options_text}")
        lines.append("")
    return "\n".join(lines)


def as_markdown() -> str:
    """The content of docs/methods.md."""
    lines = [
        "# Methods",
        "",
        "Every part that a recipe can name, with its formula and source; printed by `paceline methods --markdown`.",
        "Choose one on the command line, `paceline train quickstart algorithm.surrogate=gspo`, or in a recipe; its",
        "options go beside it: `algorithm.surrogate_options.tau_pos=2`, `algorithm.advantage_options.std=sample`, or",
        "`options` of a term.",
    ]
    for title, found in methods():
        lines += ["", f"## {title}", "", "| setting | what it computes | options |", "|---|---|---|"]
        for method in found:
            says = method.says.replace("|", "\\|")
            options = f"`{method.options_text}`" if method.options else ""
            lines.append(f"| `{method.setting}` | {says} | {options} |")
    return "\n".join(lines) + "\n"
