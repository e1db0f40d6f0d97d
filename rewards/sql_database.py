"""A read-only SQLite database for queries that a model wrote: no write, no other file, bounded time, memory and rows.

SQLite itself is the guard: a database opened immutable or built in memory, an authorizer that allows reading and
nothing else (no ATTACH, no PRAGMA, no `load_extension`), a progress handler that keeps the time, and its own limits.
The query never becomes Python, so this runs in the scoring process.
"""

import re
import sqlite3
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from rewards.response import Json

Row = tuple[object, ...]
Read = tuple[str, str]
"""A table and a column of it, in lower case; the column is empty where rows alone are read, as by `count(*)`."""

_READING = frozenset((sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE))
_REFUSED_FUNCTIONS = frozenset(("load_extension", "readfile", "writefile", "edit", "fts3_tokenizer"))
_QUERY = re.compile(r"(?:\s|--[^\n]*\n|/\*.*?\*/|\()*(?:select|with|values)\b", re.IGNORECASE | re.DOTALL)
"""How a statement begins that may be a query. Not all others ask the authorizer: VACUUM INTO compiles unasked."""
_WIDE = re.compile(r"%[^%A-Za-z]*(?:\*|\d{4})")
_STEPS_BETWEEN_LOOKS = 1000
_LONGEST_QUERY = 20_000
_LONGEST_VALUE = 1 << 20
_HEAP = 128 << 20


class QueryError(ValueError):
    """The query is none, does what it may not, or took too much; one line."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Attributes:
    rows: all of them, in the order of the query.
    reads: tables and columns that the query is compiled to read, whether or not a row was.
    """

    rows: tuple[Row, ...]
    reads: frozenset[Read]


class ReadOnlyDatabase:
    """One database; a context manager. One thread.

    Args:
        source: a file, or the SQL statements that make one in memory (the dataset's, so trusted).

    Raises: ValueError where the dataset's source is none.
    """

    def __init__(self, source: Path | str, *, timeout_s: float, most_rows: int) -> None:
        self._timeout_s, self._most_rows = timeout_s, most_rows
        self._reads: set[Read] = set()
        self._until = 0.0
        try:
            self._connection = _opened(source)
        except sqlite3.Error as error:
            raise ValueError(f"the database of the row cannot be opened: {error}") from error
        # The time is looked at between SQLite's own steps, so no single step may be long.
        self._formatter = sqlite3.connect(":memory:")
        for name in ("format", "printf"):
            self._connection.create_function(name, -1, self._formatted, deterministic=True)
        self._connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LONGEST_VALUE)
        self._connection.setlimit(sqlite3.SQLITE_LIMIT_SQL_LENGTH, _LONGEST_QUERY)
        self._connection.setlimit(sqlite3.SQLITE_LIMIT_EXPR_DEPTH, 100)
        self._connection.setlimit(sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 200)
        self._connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
        self._connection.execute(f"PRAGMA hard_heap_limit={_HEAP}").close()
        self._connection.execute("PRAGMA temp_store=MEMORY").close()
        self._connection.set_authorizer(self._authorize)
        self._connection.set_progress_handler(self._is_late, _STEPS_BETWEEN_LOOKS)

    def compile(self, query: str) -> frozenset[Read]:
        """What the query would read; it is not run. Raises: QueryError."""
        return self._run(query, 0, "EXPLAIN ").reads

    def answer(self, query: str) -> Answer:
        """Raises: QueryError."""
        return self._run(query, self._most_rows)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()
        self._formatter.close()

    def _run(self, query: str, most_rows: int, prefix: str = "") -> Answer:
        if len(query) > _LONGEST_QUERY or not _QUERY.match(query):
            raise QueryError("not a query, or too long for one")
        self._reads.clear()
        self._until = time.monotonic() + self._timeout_s
        try:
            cursor = self._connection.execute(prefix + query)
            rows = cursor.fetchmany(most_rows + 1) if most_rows else []
            cursor.close()
        except (sqlite3.Error, sqlite3.Warning, UnicodeError, ValueError, OverflowError, MemoryError) as error:
            raise QueryError(" ".join(f"{error}".split()) or type(error).__name__) from error
        if len(rows) > most_rows:
            raise QueryError(f"more than {most_rows} rows")
        return Answer(tuple(rows), frozenset(self._reads))

    def _authorize(
        self, action: int, first: str | None, second: str | None, database: str | None, trigger: str | None
    ) -> int:
        if action not in _READING:
            return sqlite3.SQLITE_DENY
        if action == sqlite3.SQLITE_FUNCTION and (second or "").lower() in _REFUSED_FUNCTIONS:
            return sqlite3.SQLITE_DENY
        if action == sqlite3.SQLITE_READ:
            self._reads.add(((first or "").lower(), (second or "").lower()))
        return sqlite3.SQLITE_OK

    def _formatted(self, *arguments: str | bytes | float | None) -> str | None:
        """SQLite's own, but for widths at which it would write spaces for half a minute."""
        if len(str(arguments[:1])) > 1000 or _WIDE.search(str(arguments[:1])):
            raise ValueError("a format as wide as that")
        asked = ", ".join("?" * len(arguments))
        text: str | None = self._formatter.execute(f"SELECT printf({asked})", arguments).fetchone()[0]
        return text

    def _is_late(self) -> bool:
        return time.monotonic() > self._until


def databases(metadata: Mapping[str, Json]) -> tuple[Path | str, ...]:
    """Where a row's databases are: ``database`` (a path, or a list of them), or ``schema`` (SQL, or a list of it).

    Several databases of one schema with other contents make a right guess by luck unlikely (test-suite accuracy,
    arXiv 2010.02840).

    Raises: ValueError where there is none, or a file is missing.
    """
    held, is_path = metadata.get("database"), True
    if held is None:
        held, is_path = metadata.get("schema"), False
    entries: Sequence[Json] = held if isinstance(held, list) else [held]
    if not entries or not all(isinstance(entry, str) and entry for entry in entries):
        raise ValueError("metadata names no database; this term needs a column database (a path) or schema (SQL)")
    if not is_path:
        return tuple(str(entry) for entry in entries)
    paths = tuple(Path(str(entry)).expanduser() for entry in entries)
    for path in paths:
        if not path.is_file():
            raise ValueError(f"the database {path} of metadata is no file")
    return paths


def _opened(source: Path | str) -> sqlite3.Connection:
    # No cache of statements: the authorizer is asked when a statement is compiled, and it tells what is read.
    if isinstance(source, Path):
        # Immutable: no lock, no journal, and nobody else's change in the middle of a query.
        address = f"{source.resolve().as_uri()}?mode=ro&immutable=1"
        opened = sqlite3.connect(address, uri=True, isolation_level=None, cached_statements=0)
        opened.execute("SELECT count(*) FROM sqlite_master").close()
        return opened
    made = sqlite3.connect(":memory:", isolation_level=None, cached_statements=0)
    made.executescript(source)
    return made
