"""Any text in the place of an answer, or of a model's verdict on one: which terms must bear it, and how that is told.

Texts are put together of what the parsers look for, so that they are nearly right more often than chance would have it.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Iterable, Sequence
from dataclasses import replace
from functools import cache

from rewards.extraction import after_answer_word, by_marker, last_code_block
from rewards.group import Group
from rewards.models.asking import ModelFailed
from rewards.models.scripted import ScriptedModels
from rewards.registry import BUILT_IN, JUDGING, Term, resolve
from rewards.response import Response
from rewards.total import named
from rewards.verdict import Answer, as_verdict
from tests.rewards.test_registry import GUARDED_OTHERWISE

SLOWEST_S = 2.0
"""CPU time, of the ten seconds of wall time that an answer has by default: other work on the machine does not count."""
SQL = {"sql", "sql_ngrams", "sql_schema", "sql_syntax"}
EXACT = {"math", "adaptthink", "anytime_brpo"}
"""They compute what an answer says, and an answer may say 9^9^9^9: the child that scores is killed for it."""
ASKING = {name for name, module in BUILT_IN.items() if module.startswith(JUDGING)}
READERS = sorted((BUILT_IN.keys() - GUARDED_OTHERWISE - EXACT - ASKING) | SQL)
LISTENERS = sorted(ASKING - {"reward_model", "rpr", "sd_e2"})
"""Terms whose model answers in words."""
MATHEMATICS = r"""
\boxed{ \text{ \frac{ \frac12 \sqrt[3]{ \left( \right) \begin{pmatrix} \\ \pi \infty \( \) \%
{ } [ ] ( ) $ $$ % ^ ^{ _ ! ** * / - + & = 0 1 9 1e 1e999 9^9^9^9 1/0 0. .5 1,000 1_000 inf nan i x sin log
∪ ≤ ٣ ½ ² − １
"""
TAGS_AND_NAMES = """
<think> </think> <answer> </answer> <confidence> </confidence> <answer #### Answer: (A) A B. is d1 d2 [d1] > , ;
"""
CODE = """
```python ```sql ``` SELECT name FROM people WITH -- /* */ ' " <<<<<<< SEARCH ======= >>>>>>> REPLACE a.py x=1 ###
"""
ODD_SIGNS = (
    "\n",
    "\t",
    "\0",
    "\r",
    " ",
    "🎉",
    "\u202e",
    "\u200b",
    "é",
    "e\u0301",
    "\ud800",
    "\ufffd",
    "日本",
    "9" * 40,
)
PIECES = (*MATHEMATICS.split(), *TAGS_AND_NAMES.split(), *CODE.split(), *ODD_SIGNS, "9" * 40)
WORDS_OF_VERDICTS = [
    "Score:",
    "Verdict:",
    "Answer:",
    "Rating:",
    "correct:",
    "Step",
    "steps",
    "none",
    "yes",
    "no",
    "A",
    "B",
    "1",
    "2,",
    "3",
    "-",
]
HARD = (
    "\\boxed{" * 3000,
    "{" * 20000 + "}" * 20000,
    "\\boxed{" + "(" * 2000 + "1" + ")" * 2000 + "}",
    "\\boxed{9^{9^{9^{9}}}}",
    "\\boxed{" + "9" * 50000 + "!}",
    "<answer>" + "(" * 5000 + "1" + "+1)" * 5000 + "</answer>",
    "<answer>" * 5000,
    "<answer>" + "1-" * 20000 + "1</answer>",
    "<answer>9**9**9**9</answer>",
    "<confidence>" + "9" * 5000 + "</confidence>",
    "a.py\n<<<<<<< SEARCH\n" + "x\n" * 5000 + "=======\n" + "y\n" * 5000 + ">>>>>>> REPLACE\n",
    "```sql\n" + "SELECT (" * 2000 + "\n```",
    "```sql\nWITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t) SELECT count(*) FROM t\n```",
    "so " * 20000,
    "[d1] > " * 10000,
    "\\frac" * 10000,
)


@cache
def known(name: str) -> Term:
    return resolve(name)


def answers(name: str, text: str) -> Iterable[Answer]:
    """What the term says of this text, in the place of its example's."""
    term = known(name)
    assert term.example is not None
    given, options = term.example.given, term.example.options
    if isinstance(given, Response):
        return [term.function(retold(given, text), **options)]  # type: ignore[list-item]
    told = Group(tuple(retold(one, text) for one in given.responses), given.terms, given.history, given.shared)
    return term.function(told, **options)  # type: ignore[return-value]


def retold(response: Response, text: str) -> Response:
    return replace(response, text=text, response_tokens=len(text), token_ids=tuple(range(min(len(text), 200))))


def judge(name: str, text: str) -> None:
    known(name)  # what it imports is not the text's fault
    started = time.process_time()
    for answer in answers(name, text):
        verdict = as_verdict(answer)
        assert all(math.isfinite(value) for _, value in named(name, verdict.value))
        assert all(span.start <= span.stop and math.isfinite(span.value) for span in verdict.spans)
    assert time.process_time() - started < SLOWEST_S, f"{name} takes too long for {text[:60]!r}"


def hear(name: str, text: str, verdict: str) -> None:
    """The model says this of an answer with that text: a value comes of it, or what a failed call makes."""
    term = known(name)
    assert term.example is not None
    given, options = term.example.given, {**term.example.options, "models": ScriptedModels((verdict,))}
    if isinstance(given, Response):
        told: Response | Group = retold(given, text)
    else:
        told = Group(tuple(retold(one, text) for one in given.responses), given.terms, given.history, given.shared)
    started = time.process_time()
    try:
        found = asyncio.run(waited(term.function(told, **options)))  # type: ignore[arg-type]
    except ModelFailed:
        return
    for answer in [found] if isinstance(told, Response) else found:  # type: ignore[union-attr]
        if not isinstance(answer, ModelFailed):
            value = as_verdict(answer).value
            assert all(math.isfinite(part) for _, part in named(name, value))
    assert time.process_time() - started < SLOWEST_S, f"{name} takes too long for {verdict[:60]!r}"


async def waited(answer: Awaitable[Answer | Sequence[Answer]]) -> Answer | Sequence[Answer]:
    return await answer


def extract(text: str) -> None:
    for found in (
        last_code_block(text, "python", "sql"),
        after_answer_word(text),
        *[by_marker(text, marker) for marker in ("####", "\\boxed{}", "<answer></answer>")],
    ):
        assert found is None or all(line in text for line in found.split("\n"))
