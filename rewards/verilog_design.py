"""The `verilog` term: does the design in the answer behave as the reference does, under the row's testbench?

Icarus Verilog (https://steveicarus.github.io/iverilog/) compiles and simulates in a sandbox (`rewards.sandbox`). The
testbench prints what it sees, and that is compared here with what it prints for the reference design, or with the
expected text. Since design and testbench share one simulation, a design could speak in the testbench's name: one that
calls system tasks, or reaches into the testbench, is refused unseen. Tiers as in VeriReason (arXiv 2505.11849).
"""

import re
import shutil
from functools import lru_cache

from rewards.extraction import last_code_block
from rewards.output_match import same_output
from rewards.registry import refusing_options, term
from rewards.response import Response
from rewards.sandbox.choice import sandbox as safe_sandbox
from rewards.sandbox.job import Job, Limits, Outcome, Run, Sandbox
from rewards.sandbox.layout import minimal_environment

_LANGUAGES = ("verilog", "systemverilog", "sv", "v")
_TESTBENCH, _DESIGN, _BUILT = "testbench.v", "design.v", "design.vvp"
_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/|\"(?:[^\"\\\n]|\\.)*\"", re.S)
_SYSTEM_NAME = re.compile(r"\$\s*(\w+)")
_HARMLESS = frozenset(
    ("signed", "unsigned", "clog2", "bits", "size", "high", "low", "left", "right", "countones", "onehot")
)
_DIRECTIVE = re.compile(r"`(?:include|pragma|line|begin_keywords|uselib)\b")
_REACHING = re.compile(r"\b(?:force|release|defparam|bind|program)\b")
_MODULE = re.compile(r"\bmodule\s+(?:automatic\s+|static\s+)?(\w+)")
_FINISH = re.compile(rb"^[^\n]*\$finish called at [^\n]*\n?", re.M)

_EXAMPLE = Response(
    "example",
    "",
    "```verilog\nmodule inverter(input a, output b);\nassign b = ~a;\nendmodule\n```",
    reference="module inverter(input a, output b);\nassign b = !a;\nendmodule\n",
    metadata={
        "testbench": "module test;\nreg a = 0; wire b;\ninverter dut(a, b);\n"
        'initial begin #1 $display("%b", b); a = 1; #1 $display("%b", b); end\nendmodule\n'
    },
)


class NoSimulatorError(RuntimeError):
    """Icarus Verilog is not installed."""


@term("verilog", example=_EXAMPLE, confined=False)
def verilog_reward(
    response: Response,
    *,
    compiles: float = 0.0,
    run_s: float = 3.0,
    job_s: float = 8.0,
    sandbox: str | None = None,
    unsafe_no_sandbox: bool = False,
) -> float:
    """1.0 where the testbench prints the same for the design as for the reference; `compiles` where it compiles only.

    Args:
        response: keeps the testbench in ``metadata["testbench"]``; ``metadata["expected"]`` is what it prints for a
            right design, and where that is missing `Response.reference` is such a design.
        compiles: reward of a design that compiles and is wrong.
        run_s, job_s: for one compilation or simulation, and for all, seconds; `job_s` below `reward.deadline_s`.
        sandbox, unsafe_no_sandbox: as `rewards.python_code.python_stdio_reward`.

    Raises:
        NoSimulatorError: `iverilog` is not installed.
        ValueError: the row has no testbench or nothing to compare with, or its reference fails.
        NoSandboxError, SandboxError: there is no safe sandbox, or it failed.
    """
    if shutil.which("iverilog", path=minimal_environment()["PATH"]) is None:
        raise NoSimulatorError("the verilog term needs Icarus Verilog; install the Debian package iverilog")
    with refusing_options():
        box = safe_sandbox(sandbox, unsafe_no_sandbox=unsafe_no_sandbox)
    testbench, expected = _text(response, "testbench"), response.metadata.get("expected")
    reference = None if isinstance(expected, str) else response.reference
    if testbench is None or (expected is None and reference is None):
        raise ValueError("metadata needs a testbench, and expected or a reference design to compare with")
    design = last_code_block(response.text, *_LANGUAGES)
    if design is None or not is_fair(design, testbench):
        return 0.0
    limits = Limits(run_s=run_s, job_s=job_s)
    wanted = expected if isinstance(expected, str) else _printed_by(box, str(reference), testbench, limits)
    compiled, simulated = _simulated(box, design, testbench, limits)
    if not compiled.is_clean:
        return 0.0
    return 1.0 if simulated.is_clean and same_output(wanted, _printed(simulated), 0.0) else compiles


def is_fair(design: str, testbench: str) -> bool:
    """Whether a design only describes hardware: no system tasks that print, stop or read, no reaching out of itself.

    Comments and text in quotes are not looked at; a design has no use for quotes where it may not print.
    """
    code, bench = _COMMENT.sub(" ", design), _COMMENT.sub(" ", testbench)
    if _DIRECTIVE.search(code) or _REACHING.search(code) or "\\" in code:
        return False
    if any(name not in _HARMLESS for name in _SYSTEM_NAME.findall(code)):
        return False
    return not any(re.search(rf"\b{re.escape(name)}\b", code) for name in _MODULE.findall(bench))


def _simulated(box: Sandbox, design: str, testbench: str, limits: Limits) -> tuple[Outcome, Outcome]:
    """Compilation and simulation. The testbench comes first, so that no macro of the design reaches it."""
    files = {_TESTBENCH: testbench.encode("utf-8", "replace"), _DESIGN: design.encode("utf-8", "replace")}
    compilation = Run(command=("iverilog", "-g2012", "-o", _BUILT, _TESTBENCH, _DESIGN))
    job = Job(files, (compilation, Run(command=("vvp", "-n", _BUILT))), limits, stop_at_failure=True)
    compiled, simulated = box.run(job)
    return compiled, simulated


@lru_cache(maxsize=1024)
def _printed_by(box: Sandbox, reference: str, testbench: str, limits: Limits) -> str:
    """What the testbench prints for the row's own design, which all answers of a group share."""
    for outcome in (outcomes := _simulated(box, reference, testbench, limits)):
        if not outcome.is_clean:
            said = (outcome.stderr.decode("utf-8", "replace").splitlines() or [outcome.end.name])[0]
            raise ValueError(f"the row's reference design fails under its testbench: {said}")
    printed = _printed(outcomes[-1]).decode("utf-8", "replace")
    if not printed.strip():
        raise ValueError("the row's testbench prints nothing, so it tells no design from another")
    return printed


def _printed(simulated: Outcome) -> bytes:
    """Without the simulator's own remark on the end, which names a line of the testbench."""
    return _FINISH.sub(b"", simulated.stdout)


def _text(response: Response, name: str) -> str | None:
    held = response.metadata.get(name)
    return held if isinstance(held, str) else None
