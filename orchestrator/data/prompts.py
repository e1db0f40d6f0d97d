"""Prompts: what a run asks its model, where that comes from, and the token ids it becomes.

A source is endless and seeded: the n-th prompt is a pure function of the settings, the seed and n, so a cursor is all
the state there is, and a resumed run goes on with the prompts that it would have drawn. What is held out for evaluation
is never drawn for training, neither the item nor another with the same question.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from pydantic import Field, JsonValue, field_validator, model_validator

from learners.settings import Section
from orchestrator.errors import SettingError
from rewards.response import Json

_TEMPLATE_FIELD = re.compile(r"\{question\}|\{metadata\[(?P<key>[^\[\]{}]+)\]\}")


@dataclass(frozen=True, slots=True)
class Prompt:
    """One item to ask.

    Attributes:
        prompt_id: unique in a run, and the same in every run on the same data, e.g. ``row17@0``: what stands before
            the ``@`` names the item in all its epochs.
        index: position in the source's stream (or in the held-out set), counted from 0; gaps where items were skipped.
        question: as the data state it, before any template.
        reference: the right answer; None where the task's own scorer knows it.
        metadata: the row's other columns; for a reasoning-gym item ``task`` and ``entry``.
    """

    prompt_id: str
    index: int
    question: str
    reference: str | None
    metadata: Mapping[str, Json]


class PromptSource(Protocol):
    """An endless stream of training prompts beside a held-out set."""

    def next(self) -> Prompt:
        """The next prompt to train on."""

    def eval_prompts(self) -> list[Prompt]:
        """The held-out set, always in the same order."""

    def preview(self) -> list[Prompt]:
        """Some training prompts, the longest where they are known, without moving the cursor: to check lengths."""

    def state(self) -> dict[str, JsonValue]:
        """What `restore` needs to go on from here."""

    def restore(self, state: Mapping[str, JsonValue]) -> None:
        """Go on where `state` was taken. Raises: SettingError where it belongs to other data or settings."""


class TaskSettings(Section):
    """One reasoning-gym task of a mixture."""

    name: str
    weight: float = Field(1.0, gt=0, allow_inf_nan=False)
    options: dict[str, JsonValue] = Field(default_factory=dict)
    """Fields of the task's own config; `seed` and `size` are the source's."""


class DataSettings(Section):
    """Where prompts come from (one of `path`, `hub`, `tasks`) and how they are put to the model."""

    path: str | None = None
    """A .jsonl, .json, .csv or .parquet file, or a folder of such files of one kind; also in storage (`s3://...`)."""
    hub: str | None = None
    """A data set's id on the Hugging Face hub."""
    subset: str | None = None
    """Configuration of the hub's data set, e.g. `main`."""
    split: str = "train"
    """Split of the hub's data set."""
    tasks: tuple[TaskSettings, ...] | None = Field(None, min_length=1)
    question_column: str = "question"
    answer_column: str | None = "answer"
    """None where the data have no answers."""
    answer_pattern: str | None = None
    """Regular expression whose one group is the reference within the answer column, e.g. `#### (.+)`."""
    template: str = "{question}"
    r"""Text of the prompt: `{question}` and `{metadata[NAME]}` are filled in, other braces (`\boxed{}`) stay."""
    chat: bool = False
    """Put the text into the tokenizer's chat template, as the user's turn."""
    system: str | None = None
    """System turn of a chat."""
    eval_size: int = Field(64, ge=0)
    """Prompts held out for evaluation."""
    train_size: int | None = Field(None, ge=1)
    """Prompts to train on again and again: the first so many that are not held out. None: all there are; of tasks there
    is no end."""
    eval_seed: int = 1
    """Picks the held-out set, apart from the run's seed: runs with different seeds are evaluated on the same."""

    @field_validator("answer_pattern")
    @classmethod
    def _one_group(cls, pattern: str | None) -> str | None:
        if pattern is None:
            return None
        try:
            groups = re.compile(pattern).groups
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from None
        if groups != 1:
            raise ValueError(f"needs one group around the reference, and has {groups}")
        return pattern

    @field_validator("template")
    @classmethod
    def _asks_something(cls, template: str) -> str:
        if not _TEMPLATE_FIELD.search(template):
            raise ValueError("has neither {question} nor {metadata[NAME]} in it")
        return template

    @model_validator(mode="after")
    def _one_source(self) -> "DataSettings":
        given = [name for name in ("path", "hub", "tasks") if getattr(self, name) is not None]
        if len(given) != 1:
            found = f"{' and '.join(given)} are given" if given else "none is given"
            raise ValueError(f"prompts come from exactly one of path, hub and tasks, {found}")
        if self.subset is not None and self.hub is None:
            raise ValueError("subset belongs to hub")
        if self.system is not None and not self.chat:
            raise ValueError("system is a turn of a chat; set chat=true or leave it out")
        return self


class Form(Protocol):
    """How a prompt is put to the model: see the fields of `DataSettings`."""

    @property
    def template(self) -> str: ...

    @property
    def chat(self) -> bool: ...

    @property
    def system(self) -> str | None: ...


class Tokenizer(Protocol):
    """What `render` needs of a Hugging Face tokenizer."""

    chat_template: str | None
    eos_token_id: int | None

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]: ...

    def apply_chat_template(
        self, conversation: list[dict[str, str]], *, tokenize: Literal[False], add_generation_prompt: bool
    ) -> str: ...


def open_source(settings: DataSettings, seed: int) -> PromptSource:
    """The source that the settings ask for, read and checked.

    Raises:
        SettingError: the data cannot be read, or are not what the settings say.
    """
    # Either pulls in a library that takes seconds to load, and the other kind of run does not need it.
    if settings.tasks is not None:
        from orchestrator.data.task_prompts import TaskPrompts

        return TaskPrompts(settings, seed)
    from orchestrator.data.file_prompts import FilePrompts

    return FilePrompts(settings, seed)


def prompt_text(prompt: Prompt, template: str) -> str:
    """The template filled in. What is filled in is not searched for fields again.

    Raises:
        SettingError: the template names metadata that the prompt lacks.
    """

    def value(field: re.Match[str]) -> str:
        key = field["key"]
        if key is None:
            return prompt.question
        if key not in prompt.metadata:
            has = ", ".join(prompt.metadata) or "none"
            raise SettingError(
                "data.template", f"{prompt.prompt_id} has no metadata {key!r}", f"use one of what it has: {has}"
            )
        return str(prompt.metadata[key])

    return _TEMPLATE_FIELD.sub(value, template)


def render(prompt: Prompt, settings: Form, tokenizer: Tokenizer) -> tuple[int, ...]:
    """Token ids that the engine continues.

    Plain text gets the tokenizer's opening special tokens; a closing one is dropped, because the answer follows. A
    chat template writes its special tokens itself.

    Raises:
        SettingError: the tokenizer has no chat template, or the template does not fit.
    """
    text = prompt_text(prompt, settings.template)
    if settings.chat:
        return tuple(tokenizer.encode(_as_chat(text, settings.system, tokenizer), add_special_tokens=False))
    return opened(text, tokenizer)


def opened(text: str, tokenizer: Tokenizer) -> tuple[int, ...]:
    """Token ids of plain text that something follows: opening special tokens stay, a closing one is dropped."""
    ids = tokenizer.encode(text, add_special_tokens=True)
    bare = tokenizer.encode(text, add_special_tokens=False)
    if ids and ids[-1] == tokenizer.eos_token_id and (not bare or bare[-1] != tokenizer.eos_token_id):
        ids = ids[:-1]
    return tuple(ids)


def _as_chat(text: str, system: str | None, tokenizer: Tokenizer) -> str:
    if not tokenizer.chat_template:
        raise SettingError("data.chat", "the model's tokenizer has no chat template", "set data.chat=false")
    turns: Sequence[tuple[str, str | None]] = (("system", system), ("user", text))
    conversation = [{"role": role, "content": content} for role, content in turns if content is not None]
    return tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)
