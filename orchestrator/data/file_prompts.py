"""Prompts from the rows of a table: epochs over all of them, each in an order of its own.

Invariants: the held-out rows are picked by `eval_seed` alone; a row whose question is held out is not trained on;
within an epoch every training row comes once; the n-th prompt depends on the table, the settings, the seed and n.
"""

import hashlib
import random
import re
from collections.abc import Mapping

from pydantic import JsonValue

from orchestrator.data.prompts import DataSettings, Prompt
from orchestrator.errors import SettingError
from orchestrator.table import load_table
from rewards.response import Json

_PREVIEWED = 64


class FilePrompts:
    """A `PromptSource` over `data.path` or `data.hub`.

    Raises:
        SettingError: the data cannot be read or do not fit the settings.
    """

    def __init__(self, settings: DataSettings, seed: int) -> None:
        self._table = load_table(settings)
        self._seed = seed
        self._named = (settings.question_column, settings.answer_column)
        self._questions = _questions(list(self._table[settings.question_column]), settings.question_column)
        answers = self._table[settings.answer_column] if settings.answer_column else [None] * len(self._table)
        self._references = _references(list(answers), settings)
        self._held_out, training = _split(self._questions, settings)
        self._training = training[: settings.train_size]
        self._cursor = 0
        self._epoch = -1
        self._order: list[int] = []
        self._fingerprint = self._digest(settings)

    def next(self) -> Prompt:
        epoch, place = divmod(self._cursor, len(self._training))
        if epoch != self._epoch:
            self._epoch, self._order = epoch, shuffled(self._training, f"{self._seed}/epoch/{epoch}")
        prompt = self._prompt(self._order[place], self._cursor, str(epoch))
        self._cursor += 1
        return prompt

    def eval_prompts(self) -> list[Prompt]:
        return [self._prompt(row, index, "eval") for index, row in enumerate(self._held_out)]

    def preview(self) -> list[Prompt]:
        """The training rows with the longest questions."""
        longest = sorted(self._training, key=lambda row: len(self._questions[row]), reverse=True)[:_PREVIEWED]
        return [self._prompt(row, index, "preview") for index, row in enumerate(longest)]

    def state(self) -> dict[str, JsonValue]:
        return {"cursor": self._cursor, "data": self._fingerprint}

    def restore(self, state: Mapping[str, JsonValue]) -> None:
        self._cursor = cursor_of(state, self._fingerprint)

    def _prompt(self, row: int, index: int, epoch: str) -> Prompt:
        columns: dict[str, Json] = self._table[row]
        metadata = {name: value for name, value in columns.items() if name not in self._named}
        return Prompt(f"row{row}@{epoch}", index, self._questions[row], self._references[row], metadata)

    def _digest(self, settings: DataSettings) -> str:
        made_of = f"{self._seed}/{settings.eval_size}/{settings.eval_seed}"
        made_of += "" if settings.train_size is None else f"/{settings.train_size}"
        digest = hashlib.sha256(made_of.encode())
        for question, reference in zip(self._questions, self._references, strict=True):
            digest.update(f"{len(question)}:{question}{reference}".encode("utf-8", "surrogatepass"))
        return digest.hexdigest()[:16]


def cursor_of(state: Mapping[str, JsonValue], fingerprint: str) -> int:
    """The cursor in a source's state.

    Raises:
        SettingError: the state was taken from other data, another seed or another held-out set.
    """
    cursor = state.get("cursor")
    if state.get("data") != fingerprint or not isinstance(cursor, int):
        raise SettingError(
            "data",
            "the checkpoint was made with other prompts or another seed",
            "resume with the data it was made with",
        )
    return cursor


def shuffled(items: list[int], seed: str) -> list[int]:
    """The items in an order that depends on the seed alone."""
    order = list(items)
    random.Random(seed).shuffle(order)
    return order


def _questions(column: list[object], name: str) -> list[str]:
    for row, value in enumerate(column):
        if value is None or not str(value).strip():
            raise SettingError("data.question_column", f"row {row} has an empty {name!r}", "mend or remove the row")
    return [str(value) for value in column]


def _references(column: list[object], settings: DataSettings) -> list[str | None]:
    if settings.answer_pattern is None:
        return [None if value is None else str(value) for value in column]
    pattern = re.compile(settings.answer_pattern)
    references: list[str | None] = []
    for row, value in enumerate(column):
        match = pattern.search(str(value))
        if match is None or match[1] is None:
            reason = f"does not match the answer of row {row}, {str(value)[-60:]!r}"
            raise SettingError("data.answer_pattern", reason, "change the pattern, or mend or remove the row")
        references.append(match[1].strip())
    return references


def _split(questions: list[str], settings: DataSettings) -> tuple[list[int], list[int]]:
    """Rows held out, and rows to train on."""
    order = shuffled(list(range(len(questions))), f"{settings.eval_seed}/held-out")
    held_out = order[: settings.eval_size]
    held_questions = {questions[row] for row in held_out}
    training = [row for row in range(len(questions)) if questions[row] not in held_questions]
    if not training:
        reason = f"holding out {settings.eval_size} of {len(questions)} rows leaves none to train on"
        raise SettingError("data.eval_size", reason, "lower it, or give more data")
    return held_out, training
