"""The first step of a submitted job, on the cluster: are the versions those of who submitted? Then begin, or go on.

It is sent with the job and runs on whatever Python the cluster has, so it imports the standard library alone. What is
wrong is one line and exit code 2, as everywhere.
"""

import json
import os
import sys
from importlib import metadata
from pathlib import Path
from typing import NoReturn

NOTE = "paceline_job.json"
FIX = "use the image or the environment that you submit from on all nodes, or submit with --any-version"


def main() -> None:
    """Become `paceline train`, in this process: signals that end the job reach it."""
    note = json.loads(Path(NOTE).read_text(encoding="utf-8"))
    if fault := version_fault(note["versions"], note["with_source"], checked=not note["any_version"]):
        _refuse(fault)
    run_dir = os.path.expanduser(note["run_dir"])
    command = ["-m", "deploy", "train", "recipe.yaml", f"run_dir={run_dir}", "--resume"]
    os.execv(sys.executable, [sys.executable, *command])


def version_fault(sent: dict[str, str], with_source: bool, *, checked: bool) -> str | None:
    """What stands against running here, as one line.

    Args:
        sent: versions of Python (major and minor), Ray and Paceline where the job was submitted.
        with_source: Paceline came with the job.
        checked: versions have to be equal.
    """
    here = {"python": "{}.{}".format(*sys.version_info), "ray": _installed("ray"), "paceline": _installed("paceline")}
    if here["ray"] is None:
        return f"--address: {sys.executable} on the cluster has no Ray; name the Python of its nodes by --python"
    if here["paceline"] is None and not with_source:
        return "--address: Paceline is not installed on the cluster; submit with --with-source, or install it there"
    if not checked:
        return None
    of_note = [name for name in ("python", "ray", "paceline") if name != "paceline" or not with_source]
    for name in of_note:
        if here[name] != sent[name]:
            return f"--address: the cluster has {name} {here[name]}, the job was made with {sent[name]}; {FIX}"
    return None


def _installed(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _refuse(fault: str) -> NoReturn:
    print(f"paceline: {fault}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
