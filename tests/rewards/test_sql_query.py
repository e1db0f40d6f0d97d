"""The SQL terms on queries with known verdicts, and what a query may not do to the machine."""

import sqlite3
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.response import Json, Response
from rewards.sql_database import QueryError, ReadOnlyDatabase
from rewards.sql_query import same_rows, sql_ngrams_reward, sql_reward, sql_schema_reward, sql_syntax_reward

SCHEMA = """
CREATE TABLE people (id INTEGER, name TEXT, age REAL, city INTEGER);
INSERT INTO people VALUES (1, 'Ada', 36.5, 1), (2, 'Bob', NULL, 2), (3, 'Cyd', 20.1, 1), (4, 'Ada', 20.2, NULL);
CREATE TABLE cities (id INTEGER, title TEXT);
INSERT INTO cities VALUES (1, 'Rome'), (2, 'Oslo'), (3, 'Bern');
"""
OTHER = SCHEMA + "INSERT INTO people VALUES (5, 'Eve', 70, 3); DELETE FROM people WHERE id = 1;"


def asked(query: str, reference: str, **metadata: Json) -> Response:
    return Response("s", "q", f"Here:\n```sql\n{query}\n```", reference, metadata or {"schema": SCHEMA})


PER_CITY = "SELECT title, count(*) FROM people JOIN cities ON cities.id = people.city GROUP BY title"
RIGHT = [
    (PER_CITY, PER_CITY + ";"),
    (PER_CITY, "select count(p.id) as n, c.title t from cities c, people p where c.id = p.city group by c.id"),
    (
        PER_CITY,
        "WITH j AS (SELECT title t FROM people JOIN cities ON cities.id = city) SELECT t, count(1) FROM j GROUP BY 1",
    ),
    (
        PER_CITY,
        "-- why\nSELECT title, /* n */ (SELECT count(*) FROM people WHERE city = cities.id) n FROM cities WHERE n > 0",
    ),
    ("SELECT name FROM people ORDER BY id", "SELECT name FROM people ORDER BY id ASC"),
    ("SELECT name FROM people", "SELECT name FROM people ORDER BY id DESC"),
    ("SELECT avg(age) FROM people", "SELECT sum(age) / count(age) FROM people"),
    ("SELECT name FROM people WHERE age > 99", "SELECT name FROM people WHERE age > 98.5"),
    ("SELECT 1", "SELECT 2 - 1"),
    (
        "SELECT printf('%.1f|%5d|%s%%', age, id, name) FROM people",
        "SELECT format('%.1f|%5d|%s%%', age, id, name) FROM people",
    ),
    ("SELECT count(*) FROM (SELECT name FROM people ORDER BY id)", "SELECT count(name) FROM people"),
]
WRONG = [
    (PER_CITY, "SELECT title, count(*) FROM people JOIN cities ON cities.id = people.city"),
    (PER_CITY, "SELECT title FROM people JOIN cities ON cities.id = people.city GROUP BY title"),
    (PER_CITY, "SELECT 'Rome', 2 UNION SELECT 'Oslo', 1"),
    (PER_CITY, "SELECT title, 2 FROM people JOIN cities ON cities.id = people.city GROUP BY title"),
    ("SELECT name FROM people ORDER BY id", "SELECT name FROM people ORDER BY id DESC"),
    ("SELECT name FROM people", "SELECT DISTINCT name FROM people"),
    ("SELECT name FROM people", "SELECT name FROM people UNION ALL SELECT name FROM people"),
    ("SELECT name FROM people WHERE age > 99", "SELECT name FROM people WHERE 0 AND id"),
    ("SELECT name FROM people WHERE age > 99", "SELECT 1 WHERE 0"),
    ("SELECT age FROM people WHERE id = 2", "SELECT '' FROM people WHERE id = 2"),
    ("SELECT count(*) FROM people", "SELECT 4"),
    ("SELECT count(*) FROM people", "SELECT '4' FROM people LIMIT 1"),
    ("SELECT id, city FROM people", "SELECT id, id FROM people"),
    (PER_CITY, ""),
    (PER_CITY, "SELECT"),
    (PER_CITY, "I would join the two tables."),
    (PER_CITY, PER_CITY + "; " + PER_CITY),
]


@pytest.mark.parametrize(("reference", "query"), RIGHT)
def test_right_queries(reference: str, query: str) -> None:
    assert sql_reward(asked(query, reference)) == 1.0
    assert sql_syntax_reward(asked(query, reference)) == 1.0


@pytest.mark.parametrize(("reference", "query"), WRONG)
def test_wrong_queries(reference: str, query: str) -> None:
    assert sql_reward(asked(query, reference)) == 0.0


def test_a_guess_that_is_right_on_one_database_fails_on_another() -> None:
    lucky = "SELECT name FROM people WHERE id IN (1, 3) OR age < 21"
    reference = "SELECT name FROM people WHERE age IS NOT NULL"
    assert sql_reward(asked(lucky, reference)) == 1.0
    assert sql_reward(asked(lucky, reference, schema=[SCHEMA, OTHER])) == 0.0
    assert sql_reward(asked(reference, reference, schema=[SCHEMA, OTHER])) == 1.0


FORBIDDEN = [
    "DROP TABLE people",
    "DELETE FROM people",
    "INSERT INTO people VALUES (9, 'x', 1, 1)",
    "CREATE TEMP TABLE t (a)",
    "ATTACH DATABASE '{path}' AS other",
    "VACUUM INTO '{path}'",
    "PRAGMA user_version",
    "PRAGMA writable_schema = 1",
    "SELECT load_extension('x')",
    "SELECT writefile('{path}', 'x')",
    "SELECT * FROM pragma_database_list",
    "BEGIN",
]


@pytest.mark.parametrize("query", FORBIDDEN)
def test_a_query_changes_nothing(query: str, tmp_path: Path) -> None:
    held = tmp_path / "held.sqlite"
    with sqlite3.connect(held) as made:
        made.executescript(SCHEMA)
    made.close()
    before, written = held.read_bytes(), tmp_path / "written"
    response = asked(query.format(path=written), "SELECT name FROM people", database=str(held))
    assert sql_reward(response) == sql_syntax_reward(response) == sql_schema_reward(response) == 0.0
    assert held.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["held.sqlite"]


ENDLESS = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT {} FROM n"


@pytest.mark.parametrize(
    "query",
    [
        ENDLESS.format("sum(x)"),
        ENDLESS.format("x"),
        "SELECT count(*) FROM people a, people b, people c, people d, people e, people f, people g, people h, "
        "people i, people j, people k, people l, people m",
        ENDLESS.replace("x + 1", "x || x").replace("SELECT 1", "SELECT 'x'").format("x"),
        "SELECT zeroblob(1 << 30) FROM people",
        "SELECT printf('%.*c', 1 << 30, 'x') FROM people",
        ENDLESS.format("group_concat(x)"),
        "SELECT " + "(" * 2000 + "1" + ")" * 2000,
        "SELECT name FROM people WHERE name LIKE '" + "%a" * 5000 + "'",
        "SELECT '" + "x" * 100_000 + "'",
    ],
)
def test_a_query_takes_no_more_than_it_may(query: str) -> None:
    started = time.monotonic()
    assert sql_reward(asked(query, "SELECT name FROM people"), timeout_s=0.5) == 0.0
    assert time.monotonic() - started < 3.0


def test_partial_rewards_are_overlaps_worked_by_hand() -> None:
    reference = "SELECT name FROM people WHERE age > 30"
    near = asked("SELECT name, id FROM people WHERE age > 30", reference)
    # Items: people, people.name, people.age; and people.id beside them.
    assert sql_schema_reward(near) == pytest.approx(3 / 4)
    # Tokens: select name from people where age > 30, against select name , id from people where age > 30.
    assert sql_ngrams_reward(near, n=1) == pytest.approx(8 / 10)
    # Seven bigrams, six of them shared; nine on the other side.
    assert sql_ngrams_reward(near, n=2) == pytest.approx(6 / (7 + 9 - 6))
    assert sql_syntax_reward(near) == 1.0
    unknown = asked("SELECT nobody FROM people", reference)
    assert (sql_syntax_reward(unknown), sql_schema_reward(unknown)) == (0.0, 0.0)
    assert sql_ngrams_reward(unknown, n=1) > 0.0


def test_a_perfect_query_outranks_every_partial_one() -> None:
    terms = (sql_reward, sql_syntax_reward, sql_schema_reward, sql_ngrams_reward)
    best = [term(asked(PER_CITY, PER_CITY)) for term in terms]
    assert best == [1.0] * 4
    for _, query in WRONG:
        assert sum(term(asked(query, PER_CITY)) for term in terms) < 3.0 + 1.0


def test_the_datas_faults_are_errors() -> None:
    with pytest.raises(ValueError, match="fails on its database"):
        sql_reward(asked("SELECT 1", "SELECT nothing FROM nowhere"))
    with pytest.raises(ValueError, match="no reference query"):
        sql_reward(Response("s", "q", "```sql\nSELECT 1\n```", None, {"schema": SCHEMA}))
    with pytest.raises(ValueError, match="names no database"):
        sql_reward(Response("s", "q", "```sql\nSELECT 1\n```", "SELECT 1"))
    with pytest.raises(ValueError, match="is no file"):
        sql_reward(asked("SELECT 1", "SELECT 1", database="/nowhere.sqlite"))
    with pytest.raises(ValueError, match="cannot be opened"):
        sql_reward(asked("SELECT 1", "SELECT 1", schema="CREATE NONSENSE"))
    with pytest.raises(ValueError, match="n=0"):
        sql_ngrams_reward(asked("SELECT 1", "SELECT 1"), n=0)


ROWS = st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["a", "b", None]), st.floats(0, 1)), max_size=8)


@given(ROWS, st.permutations(range(3)), st.randoms(use_true_random=False))
def test_rows_are_the_same_under_any_order_of_columns(
    rows: list[tuple[object, ...]], order: list[int], random: object
) -> None:
    permuted = [tuple(row[place] for place in order) for row in rows]
    assert same_rows(rows, permuted, is_ordered=True)
    shuffled = list(permuted)
    random.shuffle(shuffled)
    assert same_rows(rows, shuffled, is_ordered=False)
    assert not same_rows(rows, [*shuffled, (0, "a", 0.5)], is_ordered=False)


def test_columns_are_paired_as_whole_rows_and_not_one_by_one() -> None:
    assert not same_rows([(1, 2), (2, 1), (3, 3)], [(1, 1), (2, 2), (3, 3)], is_ordered=False)
    assert same_rows([(1, 2), (1, 3)], [(2, 1), (3, 1)], is_ordered=False)


@given(st.text(max_size=80))
def test_no_text_is_too_strange_for_a_query(text: str) -> None:
    response = asked(text, "SELECT name FROM people")
    for term in (sql_reward, sql_syntax_reward, sql_schema_reward, sql_ngrams_reward):
        assert 0.0 <= term(response) <= 1.0


def test_a_long_row_of_quotes_is_read_in_no_time() -> None:
    started = time.monotonic()
    for text in ("'" * 20_000, '"' * 20_000, "/*" * 10_000, "[" * 20_000):
        sql_ngrams_reward(asked(text, "SELECT 1"))
    assert time.monotonic() - started < 2.0


def test_a_database_says_what_a_query_reads_each_time_it_is_asked() -> None:
    with ReadOnlyDatabase(SCHEMA, timeout_s=1.0, most_rows=2) as database:
        once, again = database.compile("SELECT name FROM people"), database.compile("SELECT name FROM people")
        assert once == again == {("people", "name")}
        with pytest.raises(QueryError, match="more than 2 rows"):
            database.answer("SELECT name FROM people")
