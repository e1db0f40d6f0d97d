"""Reads a Dockerfile and a .dockerignore, as far as ours go."""

import re
import shlex
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCKERFILES = {"gpu": ROOT / "deploy" / "Dockerfile", "cpu": ROOT / "deploy" / "Dockerfile.cpu"}


@dataclass(frozen=True, slots=True)
class Instruction:
    name: str
    rest: str


@dataclass(frozen=True, slots=True)
class Step:
    """A RUN instruction: `environment` is set for its command alone."""

    environment: Mapping[str, str]
    command: str

    @property
    def setup(self) -> list[str]:
        """The arguments of deploy/setup.sh; empty for another command."""
        words = shlex.split(self.command)
        return words[1:] if words[0] == "deploy/setup.sh" else []


def instructions(dockerfile: Path) -> list[Instruction]:
    lines = [line for line in dockerfile.read_text(encoding="utf-8").splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [Instruction(*line.split(maxsplit=1)) for line in joined.splitlines() if line.strip()]


def stages(dockerfile: Path) -> list[list[Instruction]]:
    """From one FROM to the next; what stands before the first is left out."""
    found: list[list[Instruction]] = []
    for instruction in instructions(dockerfile):
        if instruction.name == "FROM":
            found.append([])
        if found:
            found[-1].append(instruction)
    return found


def steps(stage: list[Instruction]) -> Iterator[Step]:
    for instruction in stage:
        if instruction.name == "RUN":
            words = [word for word in instruction.rest.split() if not word.startswith("--mount")]
            count = next(n for n, word in enumerate(words) if "=" not in word)
            environment = dict(word.split("=", 1) for word in words[:count])
            yield Step(environment, " ".join(words[count:]))


def environment(stage: list[Instruction]) -> dict[str, str]:
    """What ENV sets."""
    pairs = [shlex.split(one.rest) for one in stage if one.name == "ENV"]
    return dict(pair.split("=", 1) for line in pairs for pair in line)


def context() -> list[str]:
    """The files of this repository that a builder gets: what git knows of, less what .dockerignore leaves out."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    rules = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    return [file for file in listed.stdout.splitlines() if not _ignored(file, [rule for rule in rules if rule])]


def _ignored(file: str, rules: list[str]) -> bool:
    """The last rule that meets the file, or a folder above it, decides."""
    above = [file, *(str(parent) for parent in Path(file).parents if str(parent) != ".")]
    ignored = False
    for rule in rules:
        pattern = rule.removeprefix("!")
        anywhere = pattern.startswith("**/")
        names = (
            [Path(path).name for path in above]
            if anywhere
            else [path for path in above if _deep(path) == _deep(pattern)]
        )
        if any(fnmatch(name, pattern.removeprefix("**/")) for name in names):
            ignored = not rule.startswith("!")
    return ignored


def _deep(path: str) -> int:
    return path.count("/")
