"""Bubblewrap (https://github.com/containers/bubblewrap), the Debian package `bubblewrap`: small, audited, everywhere.

Installed nowhere setuid root any more; as whom it is run, see `rewards.sandbox.identity`.
"""

import shutil
from pathlib import Path

from rewards.sandbox import inside
from rewards.sandbox.identity import NOBODY, Identity, identity
from rewards.sandbox.job import Job, Limits, Outcome, SandboxError
from rewards.sandbox.layout import DEVICES, INSIDE, PYTHON_OPTIONS, STDIN_LINK, WORK, layout, minimal_environment
from rewards.sandbox.process_life import ProcessLife
from rewards.sandbox.supervise import outcomes


class Bubblewrap:
    """Raises: SandboxError where `bwrap` is not installed."""

    name = "bubblewrap"

    def __init__(self) -> None:
        program = shutil.which("bwrap")
        if program is None:
            raise SandboxError("bwrap is not installed")
        self._program = program

    def run(self, job: Job) -> tuple[Outcome, ...]:
        who = identity()
        life = ProcessLife(self._command(job.limits, who), minimal_environment(), user=who.before)
        return outcomes(job, life, directory=WORK, uid=who.within, is_init=True)

    def close(self) -> None:
        """Nothing outlives a job."""

    def _command(self, limits: Limits, who: Identity) -> list[str]:
        seen = layout()
        command = [
            self._program,
            "--unshare-pid",
            "--unshare-net",
            "--unshare-ipc",
            "--unshare-uts",
            "--hostname",
            "sandbox",
        ]
        command += ["--unshare-cgroup-try", "--die-with-parent", "--new-session", "--as-pid-1", "--cap-drop", "ALL"]
        if who.builds_as_root:
            for capability in ("CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP"):
                command += ["--cap-add", capability]
        else:
            command += ["--unshare-user", "--uid", str(NOBODY), "--gid", str(NOBODY)]
        for parent in dict.fromkeys((*seen.parents, "/dev")):
            command += ["--perms", "0755", "--dir", parent]
        for path in seen.read_only:
            command += ["--ro-bind", path, path]
        for path, target in seen.links:
            command += ["--symlink", target, path]
        for device in DEVICES:
            command += ["--dev-bind", device, device]
        command += ["--symlink", STDIN_LINK, "/dev/stdin", "--ro-bind", str(Path(inside.__file__)), INSIDE]
        command += ["--perms", "1777", "--size", str(limits.file_mb << 20), "--tmpfs", WORK]
        command += ["--remount-ro", "/", "--chdir", WORK]
        return [*command, "--", seen.python, *PYTHON_OPTIONS, INSIDE]
