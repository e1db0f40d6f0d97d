"""Examples to learn by likelihood, read from a file of JSON lines, with a weight for each token.

A line is one of

    {"messages": [{"role": "user", "content": ...}, {"role": "assistant", "content": ...}]}
    {"prompt": ..., "response": ...}
    {"spans": [{"text": ..., "label": "critique"}, {"text": ..., "weight": 0.5}]}
    {"text": ...}

and becomes pieces of text, each with one weight: that of its label (a role, `prompt`, `response`, `text` or a name of
one's own), unless it names its own. Pieces are encoded one by one, as in reinforcement learning, where the answer's
tokens follow the prompt's and never merge with them; prompts go through the same template as there.

Invariants: tokens of weight 0 are read and take no loss; what follows the last token with a weight is cut off, since
nothing depends on it; the first token of all has nothing before it and is never learned.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Literal

from jinja2 import TemplateError
from pydantic import model_validator

from learners.settings import Section
from orchestrator.data.prompts import Prompt, Tokenizer, opened, prompt_text, render
from orchestrator.errors import SettingError
from orchestrator.nearest import did_you_mean
from orchestrator.storage.address import local_path

SHIPPED = "shipped:"
FORMS = ("messages", "prompt", "spans", "text")
LEARNED = {"assistant": 1.0, "response": 1.0, "text": 1.0}


class ExamplesSettings(Section):
    """What supervised steps learn from."""

    path: str
    """A file of JSON lines; `shipped:NAME` is one that comes with Paceline, beside its recipes."""
    weights: dict[str, float] | Literal["all"] = LEARNED
    """Weight of the loss by label; a label that is not named has 0. `all` gives every token 1, as in continued
    pre-training."""
    template: str = "{question}"
    """Text of a `prompt`, as `data.template`."""
    chat: bool = False
    """Put `prompt` and `response` into the tokenizer's chat template; `messages` always are."""
    system: str | None = None
    """System turn of such a chat."""
    end: bool = True
    """Close a line that is no chat with the tokenizer's end token, with the weight of what stands before it."""
    aggregation: Literal["token", "sequence"] = "token"
    """`token`: every learned token of a step weighs the same. `sequence`: every example does."""
    longer: Literal["refuse", "drop"] = "refuse"
    """What becomes of an example that the model or a micro-batch cannot hold."""
    shuffle: bool = True
    """Each epoch has an order of its own, by the recipe's seed; off, that of the file."""

    @model_validator(mode="after")
    def _some_weight(self) -> "ExamplesSettings":
        if isinstance(self.weights, dict):
            if any(not 0 <= weight < float("inf") for weight in self.weights.values()):
                raise ValueError("weights must be finite and not below 0")
            if not any(self.weights.values()):
                raise ValueError("weights give no label a weight: nothing would be learned")
        if self.system is not None and not self.chat:
            raise ValueError("system is a turn of a chat; set chat=true or leave it out")
        return self

    def weight_of(self, label: str) -> float:
        return 1.0 if self.weights == "all" else self.weights.get(label, 0.0)


@dataclass(frozen=True, slots=True)
class Piece:
    """Tokens of one weight."""

    ids: tuple[int, ...]
    weight: float


@dataclass(frozen=True, slots=True)
class Example:
    """Attributes:
    line: of the file, counted from 1.
    prompt_ids: what stands before the first token with a weight; at least one token.
    response_ids: from there to the last token with a weight; weights: of each of them.
    """

    line: int
    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]
    weights: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.response_ids)


def read_examples(settings: ExamplesSettings, tokenizer: Tokenizer, *, longest: int) -> tuple[tuple[Example, ...], int]:
    """All examples in the order of the file, and how many were dropped as too long.

    Args:
        longest: tokens that an example may have.

    Raises:
        SettingError: names the line that is no example, or the setting that does not fit the data.
    """
    examples: list[Example] = []
    seen: set[str] = set()
    dropped = 0
    for line, row in _rows(_located(settings.path)):
        pieces = _at_line(settings.path, line, partial(_pieces, row, settings, tokenizer, seen))
        example = _encoded(line, pieces)
        if example is None:
            reason = f"{settings.path} line {line}: no token has a weight"
            raise SettingError("examples.weights", reason, f"its labels are among {', '.join(sorted(seen))}")
        if len(example) > longest and settings.longer == "refuse":
            reason = f"{settings.path} line {line}: {len(example)} tokens, allowed are {longest}"
            raise SettingError("trainer.token_budget", reason, "raise it, or set examples.longer=drop")
        if len(example) > longest:
            dropped += 1
        else:
            examples.append(example)
    _check_labels(settings, seen)
    if not examples:
        raise SettingError("examples.path", f"{settings.path} has no example to learn", "give a file with some")
    return tuple(examples), dropped


def _located(path: str) -> Path:
    if path.startswith(SHIPPED):
        return Path(str(resources.files("orchestrator") / "recipes" / path.removeprefix(SHIPPED)))
    return local_path(path)


def _rows(path: Path) -> Iterator[tuple[int, Mapping[str, object]]]:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise SettingError("examples.path", f"{path} is not UTF-8", "save the file as UTF-8") from None
    except OSError as error:
        raise SettingError("examples.path", f"{path}: {error.strerror}", "give a file of JSON lines") from None
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise SettingError("examples.path", f"{path} line {number}: not JSON ({error.msg})", "mend it") from None
        if not isinstance(row, dict):
            raise SettingError("examples.path", f"{path} line {number}: not an object", "see docs/stages.md")
        yield number, row


def _at_line(path: str, line: int, read: Callable[[], list[Piece]]) -> list[Piece]:
    try:
        return read()
    except SettingError as error:  # of the prompt's template, which is `data`'s elsewhere
        setting = error.setting.replace("data.", "examples.")
        raise SettingError(setting, f"{path} line {line}: {error.reason}", error.fix) from None
    except (ValueError, TemplateError) as error:
        raise SettingError("examples.path", f"{path} line {line}: {error}", "see docs/stages.md") from None


def _pieces(row: Mapping[str, object], settings: ExamplesSettings, tokenizer: Tokenizer, seen: set[str]) -> list[Piece]:
    """Args: seen: gets the labels that occur."""
    form = next((form for form in FORMS if form in row), None)
    if form is None:
        raise ValueError(f"none of {', '.join(FORMS)} is in it")
    if form == "messages":
        return of_messages(_messages(row["messages"]), settings, tokenizer, seen)
    if form == "prompt":
        return _of_prompt(row, settings, tokenizer, seen)
    if form == "text":
        seen.add("text")
        return _joined([(_text(row, "text"), settings.weight_of("text"))], settings, tokenizer)
    return _joined([_span(span, settings, seen) for span in _list(row, "spans")], settings, tokenizer)


def _of_prompt(
    row: Mapping[str, object], settings: ExamplesSettings, tokenizer: Tokenizer, seen: set[str]
) -> list[Piece]:
    question, response = _text(row, "prompt"), _text(row, "response")
    asked = Prompt("prompt", 0, question, None, {key: str(value) for key, value in row.items()})
    if settings.chat:
        turns = [
            ("system", settings.system),
            ("user", prompt_text(asked, settings.template)),
            ("assistant", response),
        ]
        return of_messages([(r, c, None) for r, c in turns if c is not None], settings, tokenizer, seen)
    seen.update(("prompt", "response"))
    pieces = [
        Piece(render(asked, settings, tokenizer), settings.weight_of("prompt")),
        Piece(_ids(response, tokenizer), settings.weight_of("response")),
    ]
    return _closed(pieces, settings, tokenizer)


Turn = tuple[str, str, float | None]
"""Role, content, and the weight that the line names for it."""


def of_messages(turns: Sequence[Turn], settings: ExamplesSettings, tokenizer: Tokenizer, seen: set[str]) -> list[Piece]:
    """A chat, each turn as the tokenizer's template writes it.

    An assistant's turn is what follows the template's prompt for it, which is what an engine would sample, the end of
    the turn included; that prompt has the weight of the turn before it.

    Raises:
        ValueError: the template cannot render the turns one after another.
    """
    if not tokenizer.chat_template:
        raise ValueError("the model's tokenizer has no chat template")
    seen.update(role for role, _, _ in turns)
    pieces: list[Piece] = []
    written = ""
    for count, prompt, weight in _stops(turns, settings):
        text = _continued(written, _chat(turns[:count], tokenizer, prompt=prompt))
        pieces.append(Piece(_ids(text, tokenizer), weight))
        written += text
    return pieces


def _stops(turns: Sequence[Turn], settings: ExamplesSettings) -> Iterator[tuple[int, bool, float]]:
    """Where pieces end: (turns until there, whether with the prompt for an answer, weight of the piece).

    Turns of one weight are one piece, since a template may refuse a chat that ends between them.
    """
    for number, turn in enumerate(turns):
        weight = _weight(turn, settings)
        following = turns[number + 1] if number + 1 < len(turns) else None
        answered = following is not None and following[0] == "assistant" and turn[0] != "assistant"
        goes_on = following is not None and not answered and turn[0] != "assistant"
        if following is not None and goes_on and _weight(following, settings) == weight:
            continue
        yield number + 1, answered, weight


def _weight(turn: Turn, settings: ExamplesSettings) -> float:
    role, _, own = turn
    return settings.weight_of(role) if own is None else own


def _chat(turns: Sequence[Turn], tokenizer: Tokenizer, *, prompt: bool) -> str:
    conversation = [{"role": role, "content": content} for role, content, _ in turns]
    return tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=prompt)


def _continued(written: str, chat: str) -> str:
    if not chat.startswith(written):
        raise ValueError("the chat template writes earlier turns anew when others follow: give one answer a line")
    return chat[len(written) :]


def _joined(spans: Sequence[tuple[str, float]], settings: ExamplesSettings, tokenizer: Tokenizer) -> list[Piece]:
    pieces = [
        Piece(_ids(text, tokenizer) if number else opened(text, tokenizer), weight)
        for number, (text, weight) in enumerate(spans)
    ]
    return _closed(pieces, settings, tokenizer)


def _closed(pieces: list[Piece], settings: ExamplesSettings, tokenizer: Tokenizer) -> list[Piece]:
    if not settings.end or tokenizer.eos_token_id is None:
        return pieces
    return [*pieces, Piece((tokenizer.eos_token_id,), pieces[-1].weight)]


def _encoded(line: int, pieces: Sequence[Piece]) -> Example | None:
    """None where no token can be learned."""
    ids = tuple(token for piece in pieces for token in piece.ids)
    weights = tuple(piece.weight for piece in pieces for _ in piece.ids)
    learned = [place for place, weight in enumerate(weights) if weight and place]
    if not learned:
        return None
    begin, end = learned[0], learned[-1] + 1
    return Example(line, ids[:begin], ids[begin:end], weights[begin:end])


def _ids(text: str, tokenizer: Tokenizer) -> tuple[int, ...]:
    return tuple(tokenizer.encode(text, add_special_tokens=False))


def _messages(value: object) -> list[Turn]:
    if not isinstance(value, list) or not value:
        raise ValueError("messages is not a list of turns")
    turns: list[Turn] = []
    for turn in value:
        if not isinstance(turn, dict):
            raise ValueError("a turn is not an object with role and content")
        turns.append((_text(turn, "role"), _text(turn, "content"), _own_weight(turn)))
    return turns


def _span(value: object, settings: ExamplesSettings, seen: set[str]) -> tuple[str, float]:
    if not isinstance(value, dict):
        raise ValueError("a span is not an object with a text")
    label = _text(value, "label") if "label" in value else "text"
    own = _own_weight(value)
    seen.add(label)
    return _text(value, "text"), settings.weight_of(label) if own is None else own


def _own_weight(entry: Mapping[str, object]) -> float | None:
    weight = entry.get("weight")
    if weight is None:
        return None
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < float("inf"):
        raise ValueError(f"weight {weight!r} is not a finite number of 0 or more")
    return float(weight)


def _text(row: Mapping[str, object], key: str) -> str:
    value = row.get(key)
    if not isinstance(value, str) or not value:
        raise ValueError(f"{key} is missing, empty or no text")
    return value


def _list(row: Mapping[str, object], key: str) -> list[object]:
    value = row.get(key)
    if not isinstance(value, list) or not value:
        raise ValueError(f"{key} is not a list with something in it")
    return value


def _check_labels(settings: ExamplesSettings, seen: set[str]) -> None:
    """Refuse a weight of a label that never occurs, but for those of the default."""
    if settings.weights == "all":
        return
    for label in settings.weights:
        if label not in seen and settings.weights != LEARNED:
            known = f"its labels are {', '.join(sorted(seen))}"
            guess = did_you_mean(label, sorted(seen))
            raise SettingError(f"examples.weights.{label}", f"{settings.path} has no such label{guess}", known)
