"""Prompts from reasoning-gym's procedural tasks (https://github.com/open-thought/reasoning-gym): an endless mixture.

Invariants: item i is a pure function of the settings, the seed and i, whichever items were asked for before; an item
whose question is in the held-out set is skipped in training.

A task is generated in blocks, each a data set with a seed of its own: some tasks prepare all their items when they
are made, so one data set without end is not to be had, and one for each item would prepare again each time.
"""

import hashlib
import json
import random
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import TypedDict

import reasoning_gym
from pydantic import JsonValue
from reasoning_gym.dataset import ProceduralDataset
from reasoning_gym.factory import DATASETS

import rewards.puzzles.tasks  # noqa: F401 - it registers the tasks of this package
from orchestrator.data.file_prompts import cursor_of
from orchestrator.data.prompts import DataSettings, Prompt, TaskSettings
from orchestrator.errors import SettingError
from orchestrator.nearest import did_you_mean
from rewards.response import Json

_BLOCK = 256
_SEEDS = 2**32 - _BLOCK
"""Tasks add an item's number to the seed, and some hand the sum to numpy, which takes 32 bits."""
_MOST_SKIPPED = 10_000
_HASH_DEPENDENT = frozenset(
    ("isomorphic_strings", "knight_swap", "polynomial_multiplication", "ransom_note", "word_ladder")
)
"""Tasks of reasoning-gym 0.1.25 that walk through a set of strings while they draw: the same seed gives other items in
another process, unless Python's hashes are fixed. Found by comparing all 106 tasks under two hash seeds."""
_PREVIEWED = 64


class Item(TypedDict):
    """What a reasoning-gym data set makes; `answer` is None where a scorer alone knows what is right."""

    question: str
    answer: str | None
    metadata: dict[str, Json]


class TaskPrompts:
    """A `PromptSource` over `data.tasks`.

    Raises:
        SettingError: a task does not exist or refuses its options.
    """

    def __init__(self, settings: DataSettings, seed: int) -> None:
        tasks = settings.tasks or ()
        self._train = _Mixture(tasks, f"train/{seed}")
        held_out = _Mixture(tasks, f"eval/{settings.eval_seed}")
        self._eval = [_prompt(held_out, index, "eval") for index in range(settings.eval_size)]
        self._held_questions = {prompt.question for prompt in self._eval}
        self._cursor = 0
        few = [] if settings.train_size is None else [settings.train_size]
        made_of = [seed, settings.eval_seed, settings.eval_size, [task.model_dump() for task in tasks], *few]
        self._fingerprint = hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:16]
        self._few = self._first(settings.train_size) if settings.train_size else []
        """The items of all epochs, where these are bounded."""

    def next(self) -> Prompt:
        if self._few:
            epoch, place = divmod(self._cursor, len(self._few))
            item = self._few[place].prompt_id.partition("@")[0]
            prompt = replace(self._few[place], prompt_id=f"{item}@{epoch}", index=self._cursor)
            self._cursor += 1
            return prompt
        prompt, self._cursor = self._first_from(self._cursor)
        return prompt

    def eval_prompts(self) -> list[Prompt]:
        return list(self._eval)

    def preview(self) -> list[Prompt]:
        """The first training items."""
        return self._few[:_PREVIEWED] or self._first(_PREVIEWED)

    def state(self) -> dict[str, JsonValue]:
        return {"cursor": self._cursor, "data": self._fingerprint}

    def restore(self, state: Mapping[str, JsonValue]) -> None:
        self._cursor = cursor_of(state, self._fingerprint)

    def _first(self, count: int) -> list[Prompt]:
        prompts, cursor = [], 0
        for _ in range(count):
            prompt, cursor = self._first_from(cursor)
            prompts.append(prompt)
        return prompts

    def _first_from(self, cursor: int) -> tuple[Prompt, int]:
        """The first item at or behind the cursor that is not held out, and the cursor behind it."""
        for index in range(cursor, cursor + _MOST_SKIPPED):
            prompt = _prompt(self._train, index, "0")
            if prompt.question not in self._held_questions:
                return prompt, index + 1
        raise SettingError(
            "data.eval_size",
            f"{_MOST_SKIPPED} items in a row are in the held-out set: the tasks have hardly more questions than it",
            "lower it, or widen the tasks' options",
        )


class _Mixture:
    """Items drawn from the tasks by weight."""

    def __init__(self, tasks: tuple[TaskSettings, ...], seed: str) -> None:
        self._tasks = tasks
        self._weights = [task.weight for task in tasks]
        self._seed = seed
        # One block a task: a stream walks through them in order.
        self._blocks: dict[int, tuple[int, ProceduralDataset]] = {}

    def item(self, index: int) -> tuple[str, Item]:
        """Task name and item at this index."""
        draw = random.Random(f"{self._seed}/{index}")
        (number,) = draw.choices(range(len(self._tasks)), self._weights)
        block, place = divmod(index, _BLOCK)
        item: Item = self._block(number, block)[place]
        return self._tasks[number].name, item

    def _block(self, number: int, block: int) -> ProceduralDataset:
        held = self._blocks.get(number)
        if held is None or held[0] != block:
            made = _made(self._tasks[number], random.Random(f"{self._seed}/{number}/{block}").randrange(_SEEDS))
            self._blocks[number] = held = (block, made)
        return held[1]


def _prompt(mixture: _Mixture, index: int, epoch: str) -> Prompt:
    task, item = mixture.item(index)
    entry: dict[str, Json] = dict(item)  # type: ignore[arg-type]  # a TypedDict of JSON-like values
    return Prompt(f"{task}-{index}@{epoch}", index, item["question"], item["answer"], {"task": task, "entry": entry})


def _made(task: TaskSettings, seed: int) -> ProceduralDataset:
    """The task's data set for one block.

    Raises:
        SettingError: no such task, an option that it does not have, or a value that it refuses.
    """
    if task.name not in DATASETS:
        raise SettingError(
            "data.tasks",
            f"reasoning-gym has no task {task.name!r}{did_you_mean(task.name, list(DATASETS), most=3)}",
            "check the name",
        )
    if task.name in _HASH_DEPENDENT and sys.flags.hash_randomization:
        reason = f"{task.name} makes other items in each process, so a run on it could not be repeated or resumed"
        raise SettingError("data.tasks", reason, "start with PYTHONHASHSEED=0 in the environment")
    fields = [name for name in DATASETS[task.name][1].__dataclass_fields__ if name not in ("seed", "size")]
    unknown = [name for name in task.options if name not in fields]
    if unknown:
        reason = f"{task.name} has no option {unknown[0]!r}{did_you_mean(unknown[0], fields, most=3)}"
        raise SettingError("data.tasks", reason, f"its options are {', '.join(fields)}")
    try:
        return reasoning_gym.create_dataset(task.name, seed=seed, size=_BLOCK, **task.options)
    except (AssertionError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise SettingError("data.tasks", f"{task.name} refuses its options: {reason}", "change the options") from None
