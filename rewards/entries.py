"""The lines of a recipe's reward with the terms that they name, and what each may add to a score. Pure."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from rewards.disturbance import disturbed
from rewards.registry import BUILT_IN, JUDGING, Term, resolve
from rewards.response import Failure, FailureKind, Response, Score, SpanReward
from rewards.settings import RewardSettings, TermSettings
from rewards.total import named, total_of
from rewards.verdict import Verdict

_LONGEST_ERROR = 300


class RewardSetupError(RuntimeError):
    """The reward of the recipe cannot work: a term is missing, or refuses its options. One line."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the recipe with the term that it names."""

    number: int
    settings: TermSettings
    term: Term

    @property
    def label(self) -> str:
        return self.settings.logged_as

    @property
    def asks(self) -> bool:
        """Whether it asks a model."""
        return self.term.asks(self.settings.options)

    @property
    def fallback(self) -> float | None:
        """Its value where a model gave no usable reply; None where the answer's scoring has then failed."""
        return self.term.fallback if self.settings.fallback is None else self.settings.fallback


def entries_of(settings: RewardSettings) -> tuple[Entry, ...]:
    """All lines, in the order of the recipe.

    Raises: RewardSetupError where a term cannot be found or imported, does not take its options, asks a model that is
        not there, or waits for a term that comes later.
    """
    entries = tuple(Entry(number, entry, _resolved(entry)) for number, entry in enumerate(settings.terms))
    for entry in entries:
        _check_model(entry, settings)
    _check_order(entries)
    return entries


def asking_entries_of(settings: RewardSettings) -> tuple[Entry, ...]:
    """Those lines that ask a model. Terms of this package that never do are not imported: their verifiers are heavy.

    Raises: RewardSetupError; what needs all lines is checked by `entries_of` alone.
    """
    may_ask = [
        (number, entry)
        for number, entry in enumerate(settings.terms)
        if BUILT_IN.get(entry.name, JUDGING).startswith(JUDGING)
    ]
    entries = tuple(Entry(number, entry, _resolved(entry)) for number, entry in may_ask)
    for entry in entries:
        _check_model(entry, settings)
    return tuple(entry for entry in entries if entry.asks)


def with_verdict(score: Score, entry: Entry, verdict: Verdict) -> Score:
    """Raises: ValueError where a value is no finite number."""
    values = dict(named(entry.label, verdict.value))
    weight = entry.settings.weight
    spans = tuple(SpanReward(span.start, span.stop, weight * span.value, span.on) for span in verdict.spans)
    troubles = tuple(Failure(kind, entry.label) for kind in verdict.troubles)
    return replace(
        score,
        terms={**score.terms, **values},
        spans=score.spans + spans,
        facts=score.facts + verdict.facts,
        troubles=score.troubles + troubles,
    )


def failed(score: Score, entry: Entry, raised: BaseException, kind: FailureKind = "raised") -> Score:
    return replace(score, error=one_line(entry.label, raised), failure=Failure(kind, entry.label))


def settled(score: Score, response: Response, settings: RewardSettings) -> Score:
    """With its total, and its terms in the order of the recipe."""
    if score.error is not None:
        return replace(score, total=settings.fallback, spans=(), facts=())
    total, ordered = total_of(settings.terms, score.terms)
    disturb = settings.disturb
    if disturb is not None:
        name = response.sample_id if disturb.per == "answer" else response.item or response.question
        options = disturb.model_dump(exclude={"per"})
        total = disturbed(total, name, **options)
    return replace(score, total=total, terms=ordered)


def settled_together(
    scores: Sequence[Score],
    found: Mapping[int, Score],
    responses: Sequence[Response],
    settings: RewardSettings,
    seconds: float,
) -> list[Score]:
    """A group's scores after a pass over all of it; those that the pass left out stay as they are.

    Args:
        found: what the pass made of the others, by number.
        seconds: that it took, which they share.
    """
    took = seconds / max(1, len(found))
    return [
        replace(settled(found[number], responses[number], settings), seconds=found[number].seconds + took)
        if number in found
        else score
        for number, score in enumerate(scores)
    ]


def given_up(scores: Sequence[Score], fallback: float, reason: str, failure: Failure) -> list[Score]:
    """A pass over a group came to nothing: each answer that had a verdict gets the fallback and keeps its terms."""
    return [
        score if score.error is not None else Score(fallback, score.terms, reason, score.seconds, failure=failure)
        for score in scores
    ]


def one_line(label: str, raised: BaseException) -> str:
    """An exception as a line of bounded length; its text may come from a model."""
    reason = " ".join(f"{type(raised).__name__}: {raised}".split())
    return f"{label}: {reason}"[:_LONGEST_ERROR].encode("utf-8", "replace").decode()


def _resolved(entry: TermSettings) -> Term:
    try:
        resolved = resolve(entry.name)
    except Exception as raised:  # importing a user's module may raise anything
        raise RewardSetupError(one_line(f"reward.terms[{entry.name}]", raised)) from raised
    signature = inspect.signature(resolved.function)
    models: dict[str, object] = {"models": None} if resolved.takes_models else {}
    try:
        signature.bind(None, **{**entry.options, **models})
    except TypeError as mismatch:
        taken = ", ".join(name for name in list(signature.parameters)[1:] if name != "models") or "none"
        raise RewardSetupError(f"reward.terms[{entry.name}].options: {mismatch}; it takes: {taken}") from mismatch
    return resolved


def _check_model(entry: Entry, settings: RewardSettings) -> None:
    if entry.asks and not settings.models:
        fix = "describe one as reward.models.judge, by its url or as a model of your own"
        raise RewardSetupError(f"reward.models: {entry.label} asks a model, and reward.models is empty; {fix}")
    if entry.settings.fallback is not None and not entry.asks:
        fix = "leave it out; where any scoring fails, reward.fallback is the answer's reward"
        raise RewardSetupError(f"reward.terms[{entry.label}].fallback: {entry.label} asks no model; {fix}")
    if "models" in entry.settings.options:
        raise RewardSetupError(f"reward.terms[{entry.label}].options: models are described in reward.models; see there")
    model = entry.term.model_asked(entry.settings.options)
    if model is not None and model not in settings.models:
        there = ", ".join(settings.models) or "none"
        raise RewardSetupError(
            f"reward.models: {entry.label} asks {model!r}, and there is {there}; describe it as reward.models.{model}, "
            f"or name another by the option model of reward.terms[{entry.label}]"
        )


def _check_order(entries: Sequence[Entry]) -> None:
    """A term cannot wait for one that comes after it. Terms run in four passes: those that see one response, those of
    them that ask a model, those that see the group, and those of them that ask one."""
    turns = {entry.label: (entry.term.sees == "group", entry.asks) for entry in entries}
    for entry in entries:
        waits_for = entry.settings.when
        first = None if waits_for is None else waits_for.term.partition("/")[0]
        if waits_for is None or first is None or turns[first] <= turns[entry.label]:
            continue
        whole, asks = turns[first]
        late = "sees the whole group" if whole > turns[entry.label][0] else "asks a model"
        own = "sees one answer" if whole > turns[entry.label][0] else "asks none"
        assert whole or asks
        raise RewardSetupError(
            f"reward.terms[{entry.label}].when: {waits_for.term} {late} and comes after "
            f"{entry.label}, which {own}; let {waits_for.term} wait for {entry.label}"
        )
