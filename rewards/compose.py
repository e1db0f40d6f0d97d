"""The reward of a recipe: its terms, resolved once, and what they make of each response.

Two passes. `score` runs the terms that see one response; `score_group` runs those that see all answers to a prompt,
and needs nothing but what the first pass found. Without group terms the first pass is all there is.

Invariant: both return a score for each response whatever a term does, short of ending the process or filling its
memory. What a term raises becomes one line in `Score.error`, and the total is then the fallback: half a sum would be a
reward that nobody asked for.
"""

import asyncio
import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import cast

from rewards.confinement import confined
from rewards.disturbance import disturbed
from rewards.group import Group
from rewards.registry import RefusedOptionError, Term, resolve
from rewards.response import Failure, Response, Score, SpanReward
from rewards.settings import RewardSettings, TermSettings
from rewards.total import holds, named, total_of
from rewards.verdict import Answer, Verdict, as_verdict

_LONGEST_ERROR = 300


class RewardSetupError(RuntimeError):
    """The reward of the recipe cannot work: a term is missing, or refuses its options. One line."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """A line of the recipe with the term that it names."""

    number: int
    settings: TermSettings
    term: Term

    @property
    def label(self) -> str:
        return self.settings.logged_as


class Reward:
    """The terms of `settings`, ready to score.

    Args:
        at_work: is told the number of the term that begins, for whoever has to say which one never ended.

    Raises: RewardSetupError where a term cannot be found or imported, does not take its options, or waits for one that
        comes later.
    """

    def __init__(self, settings: RewardSettings, at_work: Callable[[int], None] = lambda number: None) -> None:
        self._settings, self._at_work = settings, at_work
        entries = tuple(_Entry(number, entry, _resolved(entry)) for number, entry in enumerate(settings.terms))
        self._single = tuple(entry for entry in entries if entry.term.sees == "response")
        self._grouped = tuple(entry for entry in entries if entry.term.sees == "group")
        self._loop: asyncio.Runner | None = None
        _check_order(self._single, self._grouped)

    @property
    def sees_groups(self) -> bool:
        """Whether a term sees all answers to a prompt together."""
        return bool(self._grouped)

    def warm_up(self) -> None:
        """Score each term's own example, so that everything loaded or compiled on first use is there.

        Raises: RewardSetupError where a term refuses an option.
        """
        for entry in (*self._single, *self._grouped):
            example = entry.term.example
            if example is None:
                continue
            try:
                self._called(entry.term, example.given, {**example.options, **entry.settings.options})
            except RefusedOptionError as refusal:
                raise RewardSetupError(f"reward.terms[{entry.settings.name}].options: {refusal}") from refusal
            except ValueError:
                # The example may lack what these options ask for, which is no fault of theirs.
                self._called(entry.term, example.given, example.options)

    def score(self, response: Response) -> Score:
        """The verdict; terms are logged in the order of the recipe, those before a failed one included.

        A term that answers several values logs each as ``label/name``; its weight counts for all of them.

        Raises: MemoryError, which is the process's business: what filled the memory may stay.
        """
        started = time.perf_counter()
        score = Score(0.0, {})
        for entry in self._single:
            if not holds(entry.settings.when, score.terms):
                continue
            try:
                answer = self._called(entry.term, response, entry.settings.options, entry.number)
                score = self._with(score, entry, as_verdict(cast(Answer, answer)))
            except MemoryError:
                raise
            except Exception as raised:  # noqa: BLE001 - a term is anybody's code and may raise anything; it is reported
                score = self._failed(score, entry, raised)
                break
        return replace(self._settled(score, response), seconds=time.perf_counter() - started)

    def score_group(
        self,
        responses: Sequence[Response],
        scores: Sequence[Score],
        history: Mapping[str, float],
        shared: Mapping[str, float],
    ) -> list[Score]:
        """The scores of one prompt's answers with the group terms in them; scores that carry an error stay.

        Raises: MemoryError, as `score` does.
        """
        started = time.perf_counter()
        scored = {number: score for number, score in enumerate(scores) if score.error is None}
        seen = tuple(responses[number] for number in scored)
        for entry in self._grouped if scored else ():
            group = Group(seen, tuple(score.terms for score in scored.values()), history, shared)
            try:
                answers = self._called(entry.term, group, entry.settings.options, entry.number)
                verdicts = [as_verdict(answer) for answer in cast(Sequence[Answer], answers)]
                if len(verdicts) != len(seen):
                    raise ValueError(f"{len(verdicts)} values for {len(seen)} responses")
                scored = {
                    number: self._with(score, entry, verdict) if holds(entry.settings.when, score.terms) else score
                    for (number, score), verdict in zip(scored.items(), verdicts, strict=True)
                }
            except MemoryError:
                raise
            except Exception as raised:  # noqa: BLE001 - as above; a group's terms fail for all of it
                scored = {number: self._failed(score, entry, raised) for number, score in scored.items()}
                break
        took = (time.perf_counter() - started) / max(1, len(scored))
        settled = {
            number: replace(self._settled(score, responses[number]), seconds=score.seconds + took)
            for number, score in scored.items()
        }
        return [settled.get(number, score) for number, score in enumerate(scores)]

    def _called(self, term: Term, given: Response | Group, options: Mapping[str, object], number: int = 0) -> object:
        """What the term's function returns, awaited where it is a coroutine's."""
        self._at_work(number)
        with confined() if term.confined else nullcontext():
            answer = term.function(given, **options)
            if not inspect.isawaitable(answer):
                return answer

            async def awaited() -> object:
                return await answer

            self._loop = self._loop or asyncio.Runner()
            return self._loop.run(awaited())

    def _with(self, score: Score, entry: _Entry, verdict: Verdict) -> Score:
        values = dict(named(entry.label, verdict.value))
        weight = entry.settings.weight
        spans = tuple(SpanReward(span.start, span.stop, weight * span.value, span.on) for span in verdict.spans)
        terms = {**score.terms, **values}
        return replace(score, terms=terms, spans=score.spans + spans, facts=score.facts + verdict.facts)

    def _failed(self, score: Score, entry: _Entry, raised: Exception) -> Score:
        return replace(score, error=one_line(entry.label, raised), failure=Failure("raised", entry.label))

    def _settled(self, score: Score, response: Response) -> Score:
        """With its total, and its terms in the order of the recipe."""
        if score.error is not None:
            return replace(score, total=self._settings.fallback, spans=(), facts=())
        total, ordered = total_of(self._settings.terms, score.terms)
        disturb = self._settings.disturb
        if disturb is not None:
            name = response.sample_id if disturb.per == "answer" else response.item or response.question
            options = disturb.model_dump(exclude={"per"})
            total = disturbed(total, name, **options)
        return replace(score, total=total, terms=ordered)


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
    try:
        signature.bind(None, **entry.options)
    except TypeError as mismatch:
        taken = ", ".join(list(signature.parameters)[1:]) or "none"
        raise RewardSetupError(f"reward.terms[{entry.name}].options: {mismatch}; it takes: {taken}") from mismatch
    return resolved


def _check_order(single: Sequence[_Entry], grouped: Sequence[_Entry]) -> None:
    """A term that sees one response cannot wait for one that sees the group: that comes after all of them."""
    late = {entry.label for entry in grouped}
    for entry in single:
        waits_for = entry.settings.when
        if waits_for is not None and waits_for.term.partition("/")[0] in late:
            raise RewardSetupError(
                f"reward.terms[{entry.label}].when: {waits_for.term} sees the whole group and comes after "
                f"{entry.label}, which sees one answer; let {waits_for.term} wait for {entry.label}"
            )
