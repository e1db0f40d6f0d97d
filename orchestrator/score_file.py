"""Answers in a file, graded from the command line by the rewards of a recipe: no engine, no learner, no Ray.

A row has the answer, and where the terms need them the prompt and the right answer; its other fields are the row's
metadata, as in training. Rows with the same prompt are one group.
"""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from orchestrator.errors import SettingError
from orchestrator.model_addresses import endpoint_addresses
from orchestrator.progress import Progress
from rewards.child_pool import ChildPool
from rewards.entries import RewardSetupError
from rewards.response import Json, Response, Score
from rewards.settings import RewardSettings

SHOWN = 5
"""Answers without a verdict that are shown."""
BATCH = 512
"""Answers handed to the pool at a time, where no term sees their group."""


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of the fields of a row; only `response` must be there."""

    response: str = "response"
    answer: str = "answer"
    prompt: str = "prompt"


@dataclass(frozen=True, slots=True)
class Grades:
    """What became of the answers, in the order of the file; `seconds` without the loading of the terms."""

    scores: list[Score]
    seconds: float

    @property
    def failures(self) -> Counter[str]:
        """Answers without a verdict, by what happened and the term that was at work."""
        failed = [score.failure for score in self.scores if score.failure is not None]
        return Counter(f"{failure.kind} in {failure.term}" if failure.term else failure.kind for failure in failed)

    @property
    def troubles(self) -> Counter[str]:
        """What models could not tell terms that have a value of their own for that; these answers are scored."""
        return Counter(f"{one.kind} in {one.term}" for score in self.scores for one in score.troubles)

    @property
    def means(self) -> dict[str, float]:
        """Mean reward, and mean of each term over the answers that have it."""
        names = list(dict.fromkeys(name for score in self.scores for name in score.terms))
        by_term = {name: fmean(s.terms[name] for s in self.scores if name in s.terms) for name in names}
        return {"reward": fmean(score.total for score in self.scores), **by_term}


def read_responses(file: Path, columns: Columns) -> list[Response]:
    """The rows of a JSONL file.

    Raises: SettingError names the line that is none.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(str(file), f"cannot be read: {error}", "give a JSONL file in UTF-8") from None
    responses = [_response(row, number, columns) for number, row in _rows(file, lines, columns)]
    if not responses:
        raise SettingError(str(file), "has no rows", "give a JSONL file with one answer a line")
    return responses


def grade(responses: Sequence[Response], settings: RewardSettings, on_progress: Callable[[int, int], None]) -> Grades:
    """Score them in child processes, as in training; `on_progress(done, total)` follows.

    Raises: SettingError where the reward cannot work.
    """
    for name, model in settings.models.items():
        if model.served:
            fix = "give the url of an endpoint, such as one of `vllm serve`"
            raise SettingError(f"reward.models.{name}", "a run serves it, and grading a file starts none", fix)
    scores: dict[int, Score] = {}
    started = time.perf_counter()
    with ChildPool(settings, endpoint_addresses(settings)) as pool:
        try:
            pool.warm_up()
        except RewardSetupError as error:
            raise SettingError("--reward", str(error), "see `paceline rewards`") from None
        started = time.perf_counter()
        for part in _parts(responses, by_group=pool.sees_groups):
            chosen = [responses[number] for number in part]
            found = pool.score_group(chosen) if pool.sees_groups else pool.score(chosen)
            scores.update(zip(part, found, strict=True))
            on_progress(len(scores), len(responses))
    return Grades([scores[number] for number in range(len(responses))], time.perf_counter() - started)


def write_grades(file: Path, responses: Sequence[Response], grades: Grades) -> None:
    """One row for each answer: its sample_id (line of the input), reward, terms and error.

    Raises: SettingError where the file cannot be written.
    """
    rows = [
        {"sample": response.sample_id, "reward": score.total, "terms": dict(score.terms), "error": score.error}
        for response, score in zip(responses, grades.scores, strict=True)
    ]
    try:
        file.write_text("".join(json.dumps(row, ensure_ascii=True) + "\n" for row in rows), encoding="utf-8")
    except OSError as error:
        raise SettingError(str(file), f"cannot be written: {error.strerror}", "give another --out") from None


def print_grades(responses: Sequence[Response], grades: Grades, progress: Progress) -> None:
    """The means, the speed, and what could not be scored."""
    total = len(grades.scores)
    progress.say(f"{total} answers in {grades.seconds:.1f} s, {total / grades.seconds:.0f}/s", "bold")
    for name, mean in grades.means.items():
        progress.say(f"  {name:<18} {mean:.4f}")
    for reason, count in grades.failures.most_common():
        progress.warn(f"{count} not scored: {reason}")
    for reason, count in grades.troubles.most_common():
        progress.warn(f"{count} times the term's own value, for want of a model's: {reason}")
    failed = [(response, score) for response, score in zip(responses, grades.scores, strict=True) if score.error]
    for response, score in failed[:SHOWN]:
        progress.say(f"  line {response.sample_id}: {score.error}\n    {_shortened(response.text)}")


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 100 else f"{line[:97]}..."


def _rows(file: Path, lines: Sequence[str], columns: Columns) -> Iterator[tuple[int, dict[str, Json]]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{file}, line {number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise SettingError(where, f"not JSON: {error}", "mend or remove the line") from None
        if not isinstance(row, dict) or not isinstance(row.get(columns.response), str):
            has = ", ".join(row) if isinstance(row, dict) else type(row).__name__
            raise SettingError(where, f"has no text {columns.response!r} ({has})", "name it with --response-column")
        yield number, row


def _response(row: dict[str, Json], number: int, columns: Columns) -> Response:
    named = (columns.response, columns.answer, columns.prompt)
    prompt, answer, tokens = row.get(columns.prompt), row.get(columns.answer), row.get("response_tokens")
    return Response(
        sample_id=str(number),
        question="" if prompt is None else str(prompt),
        text=str(row[columns.response]),
        reference=None if answer is None else str(answer),
        metadata={name: value for name, value in row.items() if name not in named},
        truncated=row.get("truncated") is True,
        response_tokens=tokens if isinstance(tokens, int) else 0,
        prompt_id="" if prompt is None else str(prompt),
    )


def _parts(responses: Sequence[Response], *, by_group: bool) -> Iterator[list[int]]:
    """Numbers of the responses that are scored together: those of one prompt, or any."""
    if not by_group:
        for start in range(0, len(responses), BATCH):
            yield list(range(start, min(start + BATCH, len(responses))))
        return
    groups: dict[str, list[int]] = {}
    for number, response in enumerate(responses):
        groups.setdefault(response.question or f"\0{number}", []).append(number)
    yield from groups.values()
