"""Programs with known verdicts: right ones in many styles, wrong ones, and ones that would rather not solve anything.

Each problem is a function of one line of input to the expected output; the tests are made from it, so that no program
below has seen them.
"""

# ruff: noqa: E501 - programs stand on one line each

import math
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from rewards.response import Json


@dataclass(frozen=True, slots=True)
class StdioProblem:
    name: str
    inputs: tuple[str, ...]
    solve: Callable[[str], str]
    right: tuple[str, ...]
    wrong: tuple[str, ...]

    @property
    def tests(self) -> list[Json]:
        return [{"input": given, "output": self.solve(given)} for given in self.inputs]


@dataclass(frozen=True, slots=True)
class CallProblem:
    name: str
    tests: Json
    right: tuple[str, ...]
    wrong: tuple[str, ...]
    function: str | None = None


_rng = random.Random(7)
_numbers = tuple(" ".join(str(_rng.randint(-99, 99)) for _ in range(n)) for n in (1, 2, 5, 9, 30))
_words = ("a", "level", "abcab", "zzzy", "the quick brown fox")


def _primes(line: str) -> str:
    return " ".join(str(n) for n in range(2, int(line) + 1) if all(n % d for d in range(2, math.isqrt(n) + 1)))


STDIO = (
    StdioProblem(
        "sum",
        _numbers,
        lambda line: str(sum(map(int, line.split()))),
        right=(
            "print(sum(map(int, input().split())))",
            "import sys\nt = 0\nfor x in sys.stdin.read().split():\n    t += int(x)\nsys.stdout.write(str(t))",
            "def main():\n    a = list(map(int, open(0).read().split()))\n    print('  ', sum(a), '\\n\\n')\n"
            "if __name__ == '__main__':\n    main()",
            "import os\nprint(sum(int(x) for x in os.read(0, 1 << 16).split()))",
            "import threading, sys\nsys.setrecursionlimit(10**6)\n"
            "def main():\n    print(sum(map(int, input().split())))\n"
            "threading.stack_size(1 << 26)\nt = threading.Thread(target=main)\nt.start()\nt.join()",
            "from functools import reduce\nprint(reduce(int.__add__, map(int, input().split())), flush=True)\nexit()",
            "print(sum(map(int, open('/dev/stdin').read().split())))",
            "import atexit\natexit.register(lambda: print(sum(map(int, input().split()))))",
        ),
        wrong=(
            "",
            "print(0)",
            "print(sum(map(int, input().split())) + 1)",
            "print(sum(map(int, input().split()))); print(0)",
            "print(sum(map(int, input().split()[:5])))",
            "print('The sum is', sum(map(int, input().split())))",
            "print(sum(map(int, input().split())) + 0.0)",
            "print(sum(map(int, input().split())), end='0')",
            "print(sum(map(int, input().split())))\nraise SystemExit(1)",
            "print(sum(map(int, input().split())))\nimport os\nos.kill(os.getpid(), 11)",
            "exit(0)",
            "import os; os._exit(0)",
            "print(sum(map(int input().split())))",
            "while True: pass",
            "print(input())",
            "import sys; print(sys.stdin.read(), file=sys.stderr)",
        ),
    ),
    StdioProblem(
        "primes up to n",
        ("2", "3", "10", "50", "200"),
        _primes,
        right=(
            "n = int(input())\nprint(*[p for p in range(2, n + 1) if all(p % d for d in range(2, int(p**.5) + 1))])",
            "n = int(input())\ns = [True] * (n + 1)\nfor i in range(2, n + 1):\n    if s[i]:\n        print(i)\n"
            "        for j in range(i * i, n + 1, i):\n            s[j] = False",
        ),
        wrong=(
            "n = int(input())\nprint(*[p for p in range(1, n + 1) if all(p % d for d in range(2, int(p**.5) + 1))])",
            "n = int(input())\nprint(*[p for p in range(2, n) if all(p % d for d in range(2, int(p**.5) + 1))])",
            "n = int(input())\nprint([p for p in range(2, n + 1) if all(p % d for d in range(2, int(p**.5) + 1))])",
            "n = int(input())\nprint(*range(2, n + 1))",
        ),
    ),
    StdioProblem(
        "mean and deviation",
        _numbers[1:],
        lambda line: _statistics([int(x) for x in line.split()]),
        right=(
            "import statistics as s\na = list(map(int, input().split()))\nprint(s.fmean(a), s.pstdev(a))",
            "a = list(map(int, input().split()))\nm = sum(a) / len(a)\n"
            "print('%.9f' % m)\nprint('%.9e' % (sum((x - m)**2 for x in a) / len(a))**.5)",
            "from fractions import Fraction as F\nimport math\na = [F(x) for x in input().split()]\nm = sum(a) / len(a)\n"
            "print(float(m), math.sqrt(sum((x - m)**2 for x in a) / len(a)))",
        ),
        wrong=(
            "import statistics as s\na = list(map(int, input().split()))\nprint(s.fmean(a), s.stdev(a))",
            "import statistics as s\na = list(map(int, input().split()))\nprint(round(s.fmean(a), 2), s.pstdev(a) + .01)",
            "import statistics as s\na = list(map(int, input().split()))\nprint(s.fmean(a))",
            "print('nan nan')",
            "print('inf', 'inf')",
        ),
    ),
    StdioProblem(
        "most frequent letter, alphabetically first",
        _words,
        lambda line: min(Counter(line.replace(" ", "")).items(), key=lambda item: (-item[1], item[0]))[0],
        right=(
            "from collections import Counter\nc = Counter(input().replace(' ', ''))\n"
            "print(min(c, key=lambda k: (-c[k], k)))",
            "s = input()\nbest = max(sorted(set(s) - {' '}), key=s.count)\nprint(best)",
        ),
        wrong=(
            "s = input()\nprint(max(sorted(set(s)), key=s.count).upper())",
            "s = input()\nprint(sorted(s.replace(' ', ''))[0])",
            "s = input()\nprint(repr(max(sorted(set(s) - {' '}), key=s.count)))",
        ),
    ),
    StdioProblem(
        "palindrome",
        (*_words, "noon"),
        lambda line: "YES" if line == line[::-1] else "NO",
        right=("s = input()\nprint('YES' if s == s[::-1] else 'NO')",),
        wrong=(
            "print('YES')",
            "print('NO')",
            "s = input()\nprint('Yes' if s == s[::-1] else 'No')",
            "print('YES NO')",
            "print('YES'); print('NO')",
        ),
    ),
    StdioProblem(
        "big power",
        ("2 1000", "7 777", "10 4000"),
        lambda line: str(pow(int(line.split()[0]), int(line.split()[1]))),
        right=("a, b = map(int, input().split())\nprint(a ** b)",),
        wrong=(
            "a, b = map(int, input().split())\nprint(float(a) ** 20)",
            "a, b = map(int, input().split())\nprint(pow(a, b, 10**9 + 7))",
            "print(9**9**9)",
        ),
    ),
)


def _statistics(values: list[int]) -> str:
    mean = sum(values) / len(values)
    return f"{mean:.12f} {math.sqrt(sum((value - mean) ** 2 for value in values) / len(values)):.12f}"


_EQUALS_ALL = "class E:\n    def __eq__(self, other): return True\n    def __bool__(self): return True\n"
_FOOLING = (
    "import os\nos._exit(0)",
    "import sys\nsys.exit(0)",
    _EQUALS_ALL + "def f(*a): return E()\nmedian = two_sum = is_even = area = counts = f",
    "def f(*a):\n    import inspect, gc\n    for o in gc.get_objects():\n        if isinstance(o, dict) and 'expected' in o:\n"
    "            return o['expected']\nmedian = two_sum = is_even = area = counts = f",
    "import json, os\njson.dumps = lambda *a, **k: 'true'\nmedian = two_sum = is_even = area = counts = lambda *a: True",
    "import os\nfor fd in range(3, 30):\n    try: os.write(fd, b'true')\n    except OSError: pass\nos._exit(0)",
    "class S(str):\n    def __eq__(self, o): return True\nmedian = two_sum = is_even = area = counts = lambda *a: S('x')",
    "class N(float):\n    def __eq__(self, o): return True\n    def __sub__(self, o): return 0.0\n"
    "median = two_sum = is_even = area = counts = lambda *a: N(-12345.5)",
    "import builtins, math\nbuiltins.bool = lambda x: True\nmath.isclose = lambda *a, **k: True\n"
    "median = two_sum = is_even = area = counts = lambda *a: None",
    "import unittest.mock as m\nmedian = two_sum = is_even = area = counts = m.MagicMock()",
    "def two_sum(",
    "import sys\ndef f(*a):\n    frame = sys._getframe()\n    while frame:\n"
    "        for run in getattr(frame.f_locals.get('spec'), 'runs', ()):\n"
    "            if run[0] == 'expected.py': return eval(run[1])\n        frame = frame.f_back\n"
    "import math\nmedian = two_sum = is_even = area = counts = f",
)
"""Answers to all of the problems below at once, and to none of them rightly."""

CALLS = (
    CallProblem(
        "median",
        ["assert median([3, 1, 2]) == 2", "assert median([4, 1, 2, 3]) == 2.5", "assert median((5,)) == 5"],
        right=(
            "def median(a):\n    s = sorted(a)\n    n = len(s)\n    return s[n // 2] if n % 2 else (s[n//2 - 1] + s[n//2]) / 2",
            "from statistics import median",
        ),
        wrong=(
            "def median(a):\n    return sorted(a)[len(a) // 2]",
            "def median(a):\n    print(2)",
            "def median(a):\n    return str(sorted(a)[len(a) // 2])",
            *_FOOLING,
        ),
    ),
    CallProblem(
        "two sum",
        {
            "inputs": [[[2, 7, 11, 15], 9], [[3, 2, 4], 6], [[3, 3], 6]],
            "outputs": [[0, 1], [1, 2], [0, 1]],
            "fn_name": "two_sum",
        },
        right=(
            "def two_sum(a, t):\n    for i in range(len(a)):\n        for j in range(i + 1, len(a)):\n"
            "            if a[i] + a[j] == t: return (i, j)",
            "class Solution:\n    def two_sum(self, a, t):\n        seen = {}\n        for i, x in enumerate(a):\n"
            "            if t - x in seen: return [seen[t - x], i]\n            seen[x] = i",
        ),
        wrong=(
            "def two_sum(a, t): return [0, 1]",
            "def two_sum(a, t): return [1, 0]",
            "def two_sum(a, t): return '[0, 1]'",
            "def two_sum(a): return [0, 1]",
            "def twosum(a, t): return [0, 1]",
            *_FOOLING,
        ),
    ),
    CallProblem(
        "even",
        ["assert is_even(4)", "assert not is_even(7)", "assert is_even(0) is True", "assert is_even(-3) == False"],
        right=("def is_even(n):\n    return n % 2 == 0", "is_even = lambda n: not n & 1"),
        wrong=("def is_even(n): return True", "def is_even(n): return False", *_FOOLING),
    ),
    CallProblem(
        "area",
        ["assert math.isclose(area(1.0), math.pi, rel_tol=1e-6)", "assert math.isclose(area(2.5), 19.634954084936208)"],
        right=(
            "import math\ndef area(r):\n    return math.pi * r ** 2",
            "def area(r): return 3.14159265358979 * r * r",
        ),
        wrong=("def area(r): return 3.14 * r * r", "def area(r): return float('nan')", *_FOOLING),
    ),
    CallProblem(
        "counts",
        [
            "assert counts('abca') == {'a': 2, 'b': 1, 'c': 1}",
            "assert counts('') == dict()",
            "assert set(counts('xyx')) == set('xy')",
        ],
        right=("from collections import Counter as counts", "def counts(s):\n    return {c: s.count(c) for c in s}"),
        wrong=("def counts(s):\n    return {c: 1 for c in s}", "def counts(s):\n    return list(s)", *_FOOLING),
    ),
    CallProblem(
        "swap",
        [{"input": [{"a": 1, "b": [2]}], "output": {"1": "a"}}, {"input": [{"x": 5}], "output": {"5": "x"}}],
        function="Tools.swap",
        right=(
            "class Tools:\n    def swap(self, d):\n        return {v: k for k, v in d.items() if not isinstance(v, list)}",
        ),
        wrong=("class Tools:\n    def swap(self, d):\n        return d", "def swap(d): return {5: 'x'}", *_FOOLING),
    ),
)
