"""The SQL terms: is the query in the answer right, or at least on its way? Partial rewards after arXiv 2503.23157.

Four terms, each in [0, 1] and logged apart, so that a recipe weighs them (execution highest):
- `sql`: it returns what the reference returns, on each of the row's databases;
- `sql_syntax`: it compiles against the database; it is not run;
- `sql_schema`: Jaccard overlap of the tables and columns that it and the reference read, as SQLite resolved them;
- `sql_ngrams`: Jaccard overlap of the n-grams of their tokens.

The query is the last fenced block in `sql` (or of no language), the reference a query in `Response.reference`. Both run
on `rewards.sql_database`, read-only and bounded. A reference that fails raises: that is the data's fault.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

from rewards.extraction import last_code_block
from rewards.registry import Example, term
from rewards.response import Response
from rewards.sql_database import Answer, QueryError, ReadOnlyDatabase, Row, databases

_LANGUAGES = ("sql", "sqlite", "sqlite3")
_TOKEN = re.compile(
    r"""'(?:[^']|'')*(?:'|\Z) | "[^"]*(?:"|\Z) | `[^`]*(?:`|\Z) | \[[^\]]*(?:\]|\Z)  # text, names in three quotes
    | --[^\n]* | /\*.*?(?:\*/|\Z)                                               # comments
    | \w+(?:\.\d+)? | <> | [<>=!]= | \|\| | \S""",
    re.DOTALL | re.VERBOSE,
)
"""What is never closed reaches to the end, so that the time is linear."""
_MOST_ROWS = 20_000
_MOST_COLUMNS = 64
_TOKENS_COMPARED = 2000
_DIGITS = 9
"""Of a fraction: sums in another order differ in the last ones."""

_EXAMPLE = Response(
    "example",
    "",
    "```sql\nSELECT name FROM people\n```",
    reference="SELECT name FROM people",
    metadata={"schema": "CREATE TABLE people (name TEXT); INSERT INTO people VALUES ('Ada');"},
)


@term("sql", example=Example(_EXAMPLE, 1.0), confined=False)
def sql_reward(response: Response, *, timeout_s: float = 2.0) -> float:
    """1.0 where the query's rows are the reference's, 0.0 otherwise.

    Rows count as often as they come; their order counts where the reference has an ORDER BY of its own; names and the
    order of columns do not count. Where the reference finds nothing in any database, so that any query without rows
    would do, the query must also read what the reference reads. A query that reads no table where the reference does
    is a guess, and wrong.

    Args:
        response: has the reference query; ``metadata["database"]`` is the path of a file, ``metadata["schema"]`` the
            SQL that makes one; either may be a list.
        timeout_s: for one query on one database.

    Raises: ValueError where the row has no database, or its reference fails on it.
    """
    reference, query = _reference(response), _query(response)
    sources = databases(response.metadata)
    if query is None:
        return 0.0
    is_ordered = _is_ordered(reference)
    pairs: list[tuple[Answer, Answer]] = []
    for source in sources:
        with _database(source, timeout_s) as database:
            expected = _answer_of_reference(database, reference)
            try:
                pairs.append((expected, database.answer(query)))
            except QueryError:
                return 0.0
    if not all(_is_same(expected, got, is_ordered) for expected, got in pairs):
        return 0.0
    tells = any(expected.rows for expected, _ in pairs)
    return float(tells or all(expected.reads == got.reads for expected, got in pairs))


@term("sql_syntax", example=Example(_EXAMPLE, 1.0), confined=False)
def sql_syntax_reward(response: Response) -> float:
    """1.0 where the query compiles against the row's first database: one statement, reading, of things that exist."""
    query = _query(response)
    with _database(databases(response.metadata)[0], 1.0) as database:
        return float(query is not None and _reads(database, query) is not None)


@term("sql_schema", example=Example(_EXAMPLE, 1.0), confined=False)
def sql_schema_reward(response: Response) -> float:
    """Overlap of the tables and columns read, 0.0 where the query does not compile.

    Raises: ValueError where the reference does not compile.
    """
    reference, query = _reference(response), _query(response)
    with _database(databases(response.metadata)[0], 1.0) as database:
        expected = _reads(database, reference)
        if expected is None:
            raise ValueError(f"the reference {reference[:60]!r} does not compile on its database")
        got = None if query is None else _reads(database, query)
    return 0.0 if got is None else _jaccard(_items(expected), _items(got))


@term("sql_ngrams", example=Example(_EXAMPLE, 1.0))
def sql_ngrams_reward(response: Response, *, n: int = 2) -> float:
    """Overlap of the n-grams of tokens, case and comments aside; a query of fewer than n tokens is one gram."""
    if n < 1:
        raise ValueError(f"n={n} must be at least 1")
    query = _query(response)
    return 0.0 if query is None else _jaccard(_ngrams(_reference(response), n), _ngrams(query, n))


def _reference(response: Response) -> str:
    if not response.reference:
        raise ValueError("the prompt has no reference query; set data.answer_column")
    return _one_statement(last_code_block(response.reference, *_LANGUAGES) or response.reference)


def _query(response: Response) -> str | None:
    block = last_code_block(response.text, *_LANGUAGES)
    return _one_statement(block) or None if block is not None else None


def _one_statement(text: str) -> str:
    return text.strip().rstrip(";").strip()


def _database(source: Path | str, timeout_s: float) -> ReadOnlyDatabase:
    return ReadOnlyDatabase(source, timeout_s=timeout_s, most_rows=_MOST_ROWS)


def _answer_of_reference(database: ReadOnlyDatabase, reference: str) -> Answer:
    try:
        return database.answer(reference)
    except QueryError as error:
        raise ValueError(f"the reference {reference[:60]!r} fails on its database: {error}") from error


def _reads(database: ReadOnlyDatabase, query: str) -> frozenset[tuple[str, str]] | None:
    try:
        return database.compile(query)
    except QueryError:
        return None


def _items(reads: frozenset[tuple[str, str]]) -> frozenset[str]:
    """Tables, and columns by their table."""
    return frozenset(part for table, column in reads for part in (table, f"{table}.{column}" if column else table))


def _is_same(expected: Answer, got: Answer, is_ordered: bool) -> bool:
    if expected.reads and not got.reads:
        return False
    return same_rows(expected.rows, got.rows, is_ordered=is_ordered)


def same_rows(expected: Sequence[Row], got: Sequence[Row], *, is_ordered: bool) -> bool:
    """Whether the rows are the same under some order of the columns; as multisets, or in order."""
    if len(expected) != len(got):
        return False
    if not expected:
        return True
    width = len(expected[0])
    if len(got[0]) != width or width > _MOST_COLUMNS:
        return False
    wanted = [tuple(map(_comparable, row)) for row in expected]
    given = [tuple(map(_comparable, row)) for row in got]
    if not is_ordered:
        # Cheap, and mostly enough: the columns as multisets say which may stand for which.
        return any(Counter(wanted) == Counter(_permuted(given, order)) for order in _orders(wanted, given))
    return any(wanted == _permuted(given, order) for order in _orders(wanted, given))


_ORDERS_TRIED = 200
"""Columns of equal content may be many; then nearly all orders are the same rows, and the first ones tell."""


def _orders(wanted: Sequence[Row], given: Sequence[Row]) -> Iterator[tuple[int, ...]]:
    """Ways to put the given columns in the wanted places, by equal contents; at most `_ORDERS_TRIED`."""
    ours = [Counter(column) for column in zip(*wanted, strict=True)]
    theirs = [Counter(column) for column in zip(*given, strict=True)]
    places = [[index for index, content in enumerate(theirs) if content == own] for own in ours]
    tried = 0
    waiting: list[tuple[int, ...]] = [()]
    while waiting and tried < _ORDERS_TRIED:
        chosen = waiting.pop()
        if len(chosen) == len(places):
            tried += 1
            yield chosen
            continue
        waiting += [(*chosen, place) for place in reversed(places[len(chosen)]) if place not in chosen]


def _permuted(rows: Sequence[Row], order: tuple[int, ...]) -> list[Row]:
    return [tuple(row[place] for place in order) for row in rows]


def _comparable(value: object) -> object:
    """Numbers by value, fractions to `_DIGITS` significant digits; NULL, text and bytes as they are."""
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}")
    return ("bytes", value) if isinstance(value, bytes) else value


def _is_ordered(query: str) -> bool:
    """Whether an ORDER BY stands outside all parentheses."""
    depth, before = 0, ""
    for token in _tokens(query):
        depth += {"(": 1, ")": -1}.get(token, 0)
        if depth == 0 and before == "order" and token == "by":
            return True
        before = token
    return False


@lru_cache(maxsize=256)
def _tokens(query: str) -> tuple[str, ...]:
    """Words, numbers, quoted text and signs, in lower case but for text in quotes; comments left out."""
    tokens = [match.group() for match in _TOKEN.finditer(query)]
    kept = [token for token in tokens if not token.startswith(("--", "/*"))]
    return tuple(token if token.startswith("'") else token.lower().strip('"`[]') or token for token in kept)


def _ngrams(query: str, n: int) -> frozenset[tuple[str, ...]]:
    tokens = _tokens(query)[:_TOKENS_COMPARED]
    size = min(n, len(tokens)) or 1
    return frozenset(tokens[start : start + size] for start in range(len(tokens) - size + 1))


def _jaccard(one: frozenset[object], other: frozenset[object]) -> float:
    return len(one & other) / len(one | other) if one | other else 1.0
