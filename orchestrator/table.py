"""A table of prompts from files or from the Hugging Face hub, read by `datasets`, with errors that name the place.

Local files are read without network, telemetry or progress bars, and memory-mapped from the library's own cache.
Guarantees: what `load_table` returns has rows, the question column, and the answer column where one is asked for.
"""

import csv
import difflib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from learners.errors import first_line
from orchestrator.data.prompts import DataSettings
from orchestrator.errors import SettingError
from orchestrator.nearest import did_you_mean
from orchestrator.storage.address import local_path

if TYPE_CHECKING:
    from datasets import Dataset

KINDS = (".jsonl", ".json", ".csv", ".parquet")


def load_table(settings: DataSettings) -> "Dataset":
    """The rows that `data.path` or `data.hub` names.

    Raises:
        SettingError: nothing is there, it cannot be read, it is empty, or a column is missing.
    """
    if settings.path is not None:
        where, table = settings.path, _from_files(_files(local_path(settings.path)))
    else:
        where, table = str(settings.hub), _from_hub(settings)
    if len(table) == 0:
        raise SettingError(
            "data.path" if settings.path is not None else "data.hub",
            f"{where} has no rows",
            "give data with at least one prompt",
        )
    for setting in ("question_column", "answer_column"):
        column = getattr(settings, setting)
        if column is not None and column not in table.column_names:
            guess = did_you_mean(column, table.column_names)
            others = "; set data.answer_column=null where there are no answers" if setting == "answer_column" else ""
            fix = f"the columns are {', '.join(table.column_names)}{others}"
            raise SettingError(f"data.{setting}", f"{where} has no column {column!r}{guess}", fix)
    return table


def _files(path: Path) -> list[Path]:
    if not path.exists():
        near = difflib.get_close_matches(path.name, _names(path.parent), n=1, cutoff=0.5)
        guess = f", did you mean {path.parent / near[0]}?" if near else ""
        raise SettingError("data.path", f"{path} does not exist{guess}", "give a file or a folder of files")
    if path.is_file():
        if path.suffix not in KINDS:
            raise SettingError("data.path", f"{path} is not one of {', '.join(KINDS)}", "convert it, or rename it")
        return [path]
    files = sorted(file for file in path.iterdir() if file.suffix in KINDS and file.is_file())
    kinds = sorted({file.suffix for file in files})
    if len(kinds) != 1:
        found = (
            f"holds files of {len(kinds)} kinds ({', '.join(kinds)})" if kinds else f"holds no {', '.join(KINDS)} file"
        )
        raise SettingError(
            "data.path", f"the folder {path} {found}", "give a folder with files of one kind, or one file"
        )
    return files


def _names(folder: Path) -> list[str]:
    return [entry.name for entry in folder.iterdir()] if folder.is_dir() else []


def _from_files(files: list[Path]) -> "Dataset":
    from datasets import Dataset
    from datasets.exceptions import DatasetsError

    empty = [file for file in files if file.stat().st_size == 0]
    if empty:
        raise SettingError("data.path", f"{empty[0]} is empty", "give data with at least one prompt")
    read = {".csv": Dataset.from_csv, ".parquet": Dataset.from_parquet}.get(files[0].suffix, Dataset.from_json)
    try:
        with _quiet():
            table = read([str(file) for file in files])
            table.data.table.validate(full=True)  # the reader takes any bytes for text
            return table
    except (DatasetsError, OSError, ValueError, StopIteration) as error:
        for file in files:
            _name_the_fault(file)
        root = error.__cause__ or error
        reason = " ".join(str(root).split())[:200] or "no rows"
        raise SettingError("data.path", f"{files[0]} cannot be read: {reason}", "mend the file") from None


def _name_the_fault(file: Path) -> None:
    """Raises: SettingError with the first line that is no row, where there is one."""
    try:
        if file.suffix == ".jsonl":
            _check_lines(file)
        elif file.suffix == ".json":
            json.loads(file.read_text(encoding="utf-8"))
        elif file.suffix == ".csv":
            _check_csv(file)
    except json.JSONDecodeError as error:
        raise SettingError("data.path", f"{file} line {error.lineno}: {error.msg}", "mend the line") from None
    except UnicodeDecodeError as error:
        line = file.read_bytes()[: error.start].count(b"\n") + 1
        raise SettingError("data.path", f"{file} line {line}: not UTF-8", "save the file as UTF-8") from None


def _check_lines(file: Path) -> None:
    text = file.read_bytes().decode("utf-8")
    if not text.strip():
        raise SettingError("data.path", f"{file} has no rows", "give data with at least one prompt")
    for number, line in enumerate(text.split("\n"), start=1):
        try:
            row = json.loads(line) if line.strip() else {}
        except json.JSONDecodeError as error:
            reason = f"{file} line {number}: not JSON ({error.msg})"
            raise SettingError("data.path", reason, "mend or remove the line") from None
        if not isinstance(row, dict):
            reason = f"{file} line {number}: not an object with named columns"
            raise SettingError("data.path", reason, "mend or remove the line")


def _check_csv(file: Path) -> None:
    with file.open(encoding="utf-8", newline="") as lines:
        rows = csv.reader(lines)
        width, row = len(next(rows, [])), None
        for row in rows:
            if row and len(row) != width:
                reason = f"{file} line {rows.line_num}: {len(row)} columns, the first line has {width}"
                raise SettingError("data.path", reason, "quote fields that hold commas")
        if row is None:
            raise SettingError("data.path", f"{file} has no rows", "give data with at least one prompt")


def _from_hub(settings: DataSettings) -> "Dataset":
    from datasets import load_dataset
    from datasets.exceptions import DatasetNotFoundError, DatasetsError
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # of the client that this version uses

    try:
        with _quiet():
            return load_dataset(settings.hub, settings.subset, split=settings.split)
    except DatasetNotFoundError:
        reason = f"there is no data set {settings.hub!r} on the hub, or it cannot be seen without logging in"
        raise SettingError("data.hub", reason, "check the id, or give data.path") from None
    except (OSError, HTTPError) as error:
        reason = f"the hub cannot be reached for {settings.hub!r} ({first_line(error)})"
        raise SettingError("data.hub", reason, "check the network, or give a local file as data.path") from None
    except (DatasetsError, ValueError) as error:
        # What remains: a subset or split that the data set does not have; the message lists those that it has.
        reason = f"{settings.hub!r} cannot be loaded: {first_line(error)}"
        raise SettingError("data.hub", reason, "check data.subset and data.split") from None


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars, and no log lines for what becomes an error of ours."""
    import datasets
    import huggingface_hub

    loggers = (datasets.logging, huggingface_hub.logging)
    bars, levels = datasets.are_progress_bars_disabled(), [logger.get_verbosity() for logger in loggers]
    datasets.disable_progress_bars()
    for logger in loggers:
        logger.set_verbosity(logger.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.set_verbosity(level)
        if not bars:
            datasets.enable_progress_bars()
