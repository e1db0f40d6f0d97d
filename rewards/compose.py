"""The reward of a recipe: its terms, resolved once, and what they make of each response.

Two passes. `score` runs the terms that see one response; `score_group` runs those that see all answers to a prompt,
and needs nothing but what the passes before it found. Without group terms the first pass is all there is. Terms that
ask a model are none of theirs: see `rewards.asked_terms`.

Invariant: both return a score for each response whatever a term does, short of ending the process or filling its
memory. What a term raises becomes one line in `Score.error`, and the total is then the fallback: half a sum would be a
reward that nobody asked for.
"""

import asyncio
import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import cast

from rewards.confinement import confined
from rewards.entries import RewardSetupError, entries_of, failed, settled, settled_together, with_verdict
from rewards.group import Group
from rewards.registry import RefusedOptionError, Term
from rewards.response import Response, Score
from rewards.settings import RewardSettings
from rewards.total import holds
from rewards.verdict import Answer, as_verdict


class Reward:
    """The terms of `settings`, ready to score.

    Args:
        at_work: is told the number of the term that begins, for whoever has to say which one never ended.

    Raises: RewardSetupError; see `entries_of`.
    """

    def __init__(self, settings: RewardSettings, at_work: Callable[[int], None] = lambda number: None) -> None:
        self._settings, self._at_work = settings, at_work
        entries = tuple(entry for entry in entries_of(settings) if not entry.asks)
        self._single = tuple(entry for entry in entries if entry.term.sees == "response")
        self._grouped = tuple(entry for entry in entries if entry.term.sees == "group")
        self._loop: asyncio.Runner | None = None

    @property
    def sees_groups(self) -> bool:
        """Whether a term that asks no model sees all answers to a prompt together."""
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
                score = with_verdict(score, entry, as_verdict(cast(Answer, answer)))
            except MemoryError:
                raise
            except Exception as raised:  # noqa: BLE001 - a term is anybody's code and may raise anything; it is reported
                score = failed(score, entry, raised)
                break
        return replace(settled(score, response, self._settings), seconds=time.perf_counter() - started)

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
                    number: with_verdict(score, entry, verdict) if holds(entry.settings.when, score.terms) else score
                    for (number, score), verdict in zip(scored.items(), verdicts, strict=True)
                }
            except MemoryError:
                raise
            except Exception as raised:  # noqa: BLE001 - as above; a group's terms fail for all of it
                scored = {number: failed(score, entry, raised) for number, score in scored.items()}
                break
        return settled_together(scores, scored, responses, self._settings, time.perf_counter() - started)

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
