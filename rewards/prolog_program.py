"""The `prolog` term: do the answer's facts and rules give each query the solutions that the problem expects?

SWI-Prolog (https://www.swi-prolog.org) loads the program and asks it in a sandbox (`rewards.sandbox`), each query in a
process of its own; the solutions come out as text and are compared here, so a program that prints, or leaves, answers
nothing. After ProtoReasoning (arXiv 2506.15211), where the interpreter's verdict is the reward.
"""

import json
import re
import shutil
from collections.abc import Mapping

from rewards.extraction import last_code_block
from rewards.registry import refusing_options, term
from rewards.response import Json, Response
from rewards.sandbox.choice import sandbox as safe_sandbox
from rewards.sandbox.job import Job, Limits, Outcome, Run
from rewards.sandbox.layout import minimal_environment

_LANGUAGES = ("prolog", "pl", "swipl")
_PROGRAM, _DRIVER = "program.pl", "driver.pl"
_MOST_SOLUTIONS = 1000
_ASK = f"""
:- set_prolog_flag(verbose, silent).
ask :-
    current_prolog_flag(argv, [Text | _]),
    term_to_atom(Goal-Names, Text),
    load_files(user:'{_PROGRAM}', [silent(true)]),
    forall(limit({_MOST_SOLUTIONS}, user:Goal), (write_term(Names, [quoted(true)]), nl)).
:- initialization((catch(ask, _, halt(1)), halt(0)), main).
"""
_VARIABLE = re.compile(r"(?<![\w'])[A-Z]\w*")
_QUOTED = re.compile(r"'(?:[^'\\]|\\.|'')*'|\"(?:[^\"\\]|\\.)*\"")
_QUOTED_NAME = re.compile(r"'([A-Z]\w*)'=")
_SPACE = re.compile(r"\s+")

_EXAMPLE = Response(
    "example",
    "",
    "```prolog\nparent(ann, bob).\n```",
    metadata={"tests": [{"query": "parent(ann, X)", "answers": [{"X": "bob"}]}]},
)


class NoInterpreterError(RuntimeError):
    """SWI-Prolog is not installed."""


@term("prolog", example=_EXAMPLE, confined=False)
def prolog_reward(
    response: Response,
    *,
    score: str = "all",
    run_s: float = 3.0,
    job_s: float = 8.0,
    sandbox: str | None = None,
    unsafe_no_sandbox: bool = False,
) -> float:
    """1.0 where every query has exactly the expected solutions, in any order; or the share of queries.

    Args:
        response: keeps the queries in ``metadata["tests"]``, such as
            ``{"query": "parent(ann, X)", "answers": [{"X": "bob"}]}``, or with true or false as ``answers`` of a query
            without variables. Values are terms, quoted where Prolog needs it. A query that has no solutions is no
            test by itself: an empty program passes it.
        score: `all`, or `share` of the queries.
        run_s, job_s: for one query and for all, seconds; `job_s` below `reward.deadline_s`.
        sandbox, unsafe_no_sandbox: as `rewards.python_code.python_stdio_reward`.

    Raises:
        NoInterpreterError: `swipl` is not installed.
        ValueError: the row has no queries, or `score` is neither.
        NoSandboxError, SandboxError: there is no safe sandbox, or it failed.
    """
    if score not in ("all", "share"):
        raise ValueError(f"score={score!r}; choose all or share")
    if shutil.which("swipl", path=minimal_environment()["PATH"]) is None:
        raise NoInterpreterError("the prolog term needs SWI-Prolog; install the Debian package swi-prolog-nox")
    with refusing_options():
        box = safe_sandbox(sandbox, unsafe_no_sandbox=unsafe_no_sandbox)
    tests = _tests(response.metadata)
    program = last_code_block(response.text, *_LANGUAGES)
    if program is None:
        return 0.0
    files = {_PROGRAM: program.encode("utf-8", "replace"), _DRIVER: _ASK.encode()}
    runs = tuple(Run(command=("swipl", "-f", "none", _DRIVER, "--", _asked(query))) for query, _ in tests)
    outcomes = box.run(Job(files, runs, Limits(run_s=run_s, job_s=job_s, memory_mb=2048)))
    right = [_solutions(outcome) == expected for (_, expected), outcome in zip(tests, outcomes, strict=True)]
    return float(all(right)) if score == "all" else sum(right) / len(right)


def _tests(metadata: Mapping[str, Json]) -> list[tuple[str, frozenset[str]]]:
    held = metadata.get("tests")
    held = json.loads(held) if isinstance(held, str) else held
    if not isinstance(held, list) or not held:
        raise ValueError("metadata holds no tests; this term needs a column named tests")
    tests = []
    for test in held:
        if not isinstance(test, dict) or not isinstance(test.get("query"), str):
            raise ValueError('a test in metadata needs a "query" and its "answers"')
        tests.append((str(test["query"]).strip().rstrip("."), _expected(test.get("answers"))))
    return tests


def _expected(answers: Json) -> frozenset[str]:
    match answers:
        case bool():
            return frozenset([_written({})] if answers else [])
        case list() if all(isinstance(answer, dict) for answer in answers):
            return frozenset(_written(answer) for answer in answers if isinstance(answer, dict))
    raise ValueError('the "answers" of a test are true, false, or a list such as [{"X": "bob"}]')


def _written(answer: Mapping[str, Json]) -> str:
    return _bare("[" + ",".join(f"{name}={answer[name]}" for name in sorted(answer)) + "]")


def _asked(query: str) -> str:
    """The query with what is to be written of it: its variables by their names, in order of the alphabet."""
    names = sorted(set(_VARIABLE.findall(_QUOTED.sub("''", query))))
    pairs = ",".join(f"'{name}'={name}" for name in names)
    return f"({query})-[{pairs}]"


def _solutions(outcome: Outcome) -> frozenset[str] | None:
    """None where the program failed rather than answered."""
    if not outcome.is_clean:
        return None
    # The names of variables are quoted atoms to Prolog.
    lines = outcome.stdout.decode("utf-8", "replace").splitlines()
    return frozenset(_bare(_QUOTED_NAME.sub(r"\1=", line)) for line in lines)


def _bare(text: str) -> str:
    """Without spaces outside quotes."""
    parts, at = [], 0
    for quoted in _QUOTED.finditer(text):
        parts += [_SPACE.sub("", text[at : quoted.start()]), quoted.group()]
        at = quoted.end()
    return "".join([*parts, _SPACE.sub("", text[at:])])
