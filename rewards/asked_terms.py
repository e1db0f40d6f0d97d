"""The terms that ask models: what they make of answers that the other terms have seen.

All answers of all prompts are asked about at the same time, as far as `concurrency` of each model allows, so a slow
judge holds up the answers that it is asked about and no others.

Invariant: each answer gets a score within `reward.deadline_s` of time not spent in line for a model. What a model fails
at becomes the term's fallback and a trouble that is counted, or, where the term has none, the answer's failure.
"""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import replace
from typing import cast

from rewards.entries import Entry, RewardSetupError, asking_entries_of, failed, settled, settled_together, with_verdict
from rewards.group import Group
from rewards.models.asking import ModelFailed, ModelFailureKind, Models
from rewards.models.patience import patience
from rewards.models.scripted import ScriptedModels
from rewards.registry import Example, RefusedOptionError, Term
from rewards.response import Response, Score
from rewards.settings import RewardSettings
from rewards.total import holds
from rewards.verdict import Answer, Verdict, as_verdict
from rewards.wire import AskRequest, GroupRequest

_Said = Answer | ModelFailed
"""What a term that asks has to say about one answer."""


class AskedTerms:
    """The terms of `settings` that ask, and whom they ask.

    Raises: RewardSetupError; see `asking_entries_of`.
    """

    def __init__(self, settings: RewardSettings, models: Models) -> None:
        self._settings, self._models = settings, models
        asking = asking_entries_of(settings)
        self._single = tuple(entry for entry in asking if entry.term.sees == "response")
        self._grouped = tuple(entry for entry in asking if entry.term.sees == "group")

    @property
    def sees_groups(self) -> bool:
        return bool(self._grouped)

    async def warm_up(self) -> None:
        """Score each term's own example; no model is asked.

        Raises: RewardSetupError where a term refuses an option.
        """
        for entry in (*self._single, *self._grouped):
            if entry.term.example is None:
                continue
            try:
                await _shown(entry.term, entry.term.example, {**entry.term.example.options, **entry.settings.options})
            except RefusedOptionError as refusal:
                raise RewardSetupError(f"reward.terms[{entry.settings.name}].options: {refusal}") from refusal
            except (ValueError, ModelFailed):
                # The example may lack what these options ask for, which is no fault of theirs.
                await _shown(entry.term, entry.term.example, entry.term.example.options)

    async def score(self, request: AskRequest) -> tuple[Score, ...]:
        """The scores with these terms in them, in order; those that carry an error stay as they are."""
        given = request.given
        if request.sees == "group":
            return tuple(await self._score_group(given))
        pairs = zip(given.responses, given.scores, strict=True)
        return tuple(await _all([self._score_one(response, score) for response, score in pairs]))

    async def _score_one(self, response: Response, score: Score) -> Score:
        if score.error is not None:
            return score
        started, found = time.perf_counter(), score
        for entry in self._single:
            if found.error is None and holds(entry.settings.when, found.terms):
                (found,) = await self._asked(entry, response, [found])
        seconds = score.seconds + time.perf_counter() - started
        return replace(settled(found, response, self._settings), seconds=seconds)

    async def _score_group(self, given: GroupRequest) -> list[Score]:
        started = time.perf_counter()
        scored = {number: score for number, score in enumerate(given.scores) if score.error is None}
        for entry in self._grouped:
            seen = {number: score for number, score in scored.items() if score.error is None}
            if not seen:
                break
            answers, terms = (given.responses[number] for number in seen), (score.terms for score in seen.values())
            group = Group(tuple(answers), tuple(terms), given.history, given.shared)
            found = await self._asked(entry, group, list(seen.values()))
            scored |= dict(zip(seen, found, strict=True))
        seconds = time.perf_counter() - started
        return settled_together(given.scores, scored, given.responses, self._settings, seconds)

    async def _asked(self, entry: Entry, given: Response | Group, scores: list[Score]) -> list[Score]:
        """The scores with this term in them: one for a response, one for each of a group's.

        Raises: MemoryError.
        """
        try:
            async with patience(self._settings.deadline_s):
                answer = await _called(entry.term, given, {**entry.settings.options, "models": self._models})
            said = [cast(Answer, answer)] if isinstance(given, Response) else cast(Sequence[_Said], answer)
            if len(said) != len(scores):
                raise ValueError(f"{len(said)} values for {len(scores)} responses")
            return [
                _with(score, entry, value) if holds(entry.settings.when, score.terms) else score
                for score, value in zip(scores, said, strict=True)
            ]
        except MemoryError:
            raise
        except ModelFailed as failure:
            return [_without(score, entry, failure, failure.kind) for score in scores]
        except TimeoutError:
            late = TimeoutError(f"no verdict within reward.deadline_s={self._settings.deadline_s:g}")
            return [_without(score, entry, late, "timeout") for score in scores]
        except Exception as raised:  # noqa: BLE001 - a term is anybody's code and may raise anything; it is reported
            return [failed(score, entry, raised) for score in scores]


async def _called(term: Term, given: Response | Group, options: Mapping[str, object]) -> object:
    answer = term.function(given, **options)
    return await answer if inspect.isawaitable(answer) else answer


async def _shown(term: Term, example: Example, options: Mapping[str, object]) -> object:
    """What the term makes of its example, where the model says what the example says."""
    return await _called(term, example.given, {**options, "models": ScriptedModels(example.replies)})


async def _all(scorings: Sequence[Awaitable[Score]]) -> list[Score]:
    # Each ends by itself: see `_asked`.
    return list(await asyncio.gather(*scorings))


def _with(score: Score, entry: Entry, said: _Said) -> Score:
    if isinstance(said, ModelFailed):
        return _without(score, entry, said, said.kind)
    return with_verdict(score, entry, as_verdict(said))


def _without(score: Score, entry: Entry, why: Exception, kind: ModelFailureKind) -> Score:
    """The score of an answer about which no model could tell this term anything."""
    if entry.fallback is None:
        return failed(score, entry, why, kind)
    return with_verdict(score, entry, Verdict(entry.fallback, troubles=(kind,)))
