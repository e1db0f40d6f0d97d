"""The `prolog` term with the real interpreter, where it is installed."""

import shutil
import time

import pytest

from rewards.prolog_program import NoInterpreterError, prolog_reward
from rewards.response import Json, Response
from rewards.sandbox.choice import NoSandboxError, sandbox

TESTS: list[Json] = [
    {"query": "grandparent(ann, X)", "answers": [{"X": "cy"}, {"X": "'Di Ot'"}]},
    {"query": "grandparent(X, Y).", "answers": [{"X": "ann", "Y": "cy"}, {"Y": "'Di Ot'", "X": "ann"}]},
    {"query": "grandparent(ann, 'Bo')", "answers": False},
    {"query": "grandparent(ann, cy), \\+ grandparent(cy, ann)", "answers": True},
]
FACTS = "parent(ann, bob). parent(bob, cy). parent(bob, 'Di Ot').\n"


@pytest.fixture(autouse=True)
def _interpreter(request: pytest.FixtureRequest) -> None:
    if shutil.which("swipl") is None and "missing" not in request.node.name:
        pytest.skip("SWI-Prolog is not installed")
    try:
        sandbox()
    except NoSandboxError as error:
        pytest.skip(str(error))


def said(program: str, tests: Json = TESTS) -> Response:
    return Response("s", "q", f"```prolog\n{program}\n```", metadata={"tests": tests})


@pytest.mark.parametrize(
    "rules",
    [
        "grandparent(X, Z) :- parent(X, Y), parent(Y, Z).",
        "grandparent(ann, 'Di Ot').\ngrandparent(ann, cy).\ngrandparent(ann, cy).",
        "all(L) :- findall(X-Y, (parent(X, Z), parent(Z, Y)), L).\ngrandparent(A, C) :- all(L), member(A-C, L).",
    ],
)
def test_right_programs(rules: str) -> None:
    assert prolog_reward(said(FACTS + rules)) == 1.0


@pytest.mark.parametrize(
    "program",
    [
        "",
        FACTS,
        FACTS + "grandparent(X, Y) :- parent(X, Y).",
        FACTS + "grandparent(_, _).",
        FACTS + "grandparent(X, Z) :- parent(X, Y), parent(Y, Z)",
        ":- halt(0).",
        ":- write('[''X''=cy]'), nl, halt(0).",
        ":- initialization((write([]), nl)).",
        "user:portray(_) :- write(true).\ngrandparent(a, b).",
        "grandparent(X, Y) :- grandparent(X, Y).",
        ":- shell('kill -9 1'), shell('cat /etc/passwd').",
        ":- dynamic(x/1).\ngo(N) :- assertz(x(N)), M is N + 1, go(M).\n:- go(0).",
    ],
)
def test_wrong_programs(program: str) -> None:
    started = time.monotonic()
    assert prolog_reward(said(program), run_s=1.0, job_s=5.0) == 0.0
    assert time.monotonic() - started < 10.0


def test_the_share_of_queries() -> None:
    assert prolog_reward(said(FACTS + "grandparent(ann, cy)."), score="share") == 0.5


def test_lists_and_numbers_come_as_text() -> None:
    tests: Json = [
        {"query": "total([1, 2, 3], T)", "answers": [{"T": "6"}]},
        {"query": "twice([1], L)", "answers": [{"L": "[1, 1]"}]},
    ]
    assert prolog_reward(said("total(L, T) :- sum_list(L, T).\ntwice(L, R) :- append(L, L, R).", tests)) == 1.0


@pytest.mark.parametrize("tests", [None, [], [{"query": "a"}], [{"answers": True}], [{"query": "a", "answers": ["b"]}]])
def test_the_datas_faults_are_errors(tests: Json) -> None:
    with pytest.raises(ValueError, match=r"answers|tests"):
        prolog_reward(said("a.", tests))


def test_a_missing_interpreter_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(NoInterpreterError, match="install the Debian package swi-prolog-nox"):
        prolog_reward(said("a."))
