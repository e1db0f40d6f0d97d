"""nsjail (https://github.com/google/nsjail), where it is installed.

Written from its documentation and not run: there is no package of it here. The probe of `rewards.sandbox.choice`
decides whether it isolates, as for every other; where it does not, the next one is taken.
"""

import shutil
from pathlib import Path

from rewards.sandbox import inside
from rewards.sandbox.identity import NOBODY, Identity, identity
from rewards.sandbox.job import Job, Outcome, SandboxError
from rewards.sandbox.layout import DEVICES, INSIDE, PYTHON_OPTIONS, STDIN_LINK, WORK, layout, minimal_environment
from rewards.sandbox.process_life import ProcessLife
from rewards.sandbox.supervise import outcomes

_LONGEST_S = 30


class Nsjail:
    """Raises: SandboxError where `nsjail` is not installed."""

    name = "nsjail"

    def __init__(self) -> None:
        program = shutil.which("nsjail")
        if program is None:
            raise SandboxError("nsjail is not installed")
        self._program = program

    def run(self, job: Job) -> tuple[Outcome, ...]:
        who = identity()
        life = ProcessLife(self._command(job, who), minimal_environment(), user=who.before)
        return outcomes(job, life, directory=WORK, uid=None, is_init=True)

    def close(self) -> None:
        """Nothing outlives a job."""

    def _command(self, job: Job, who: Identity) -> list[str]:
        seen = layout()
        outside = "" if who.within is None else f":{who.within}:1"  # root may map any number, others only their own
        command = [self._program, "--mode", "o", "--really_quiet", "--disable_proc", "--iface_no_lo"]
        command += ["--user", f"{NOBODY}{outside}", "--group", f"{NOBODY}{outside}", "--hostname", "sandbox"]
        command += ["--time_limit", str(int(job.limits.job_s) + _LONGEST_S), "--cwd", WORK, "--keep_env"]
        # Limits are set inside, for each run; nsjail's own defaults would be in the way.
        for limit in ("as", "cpu", "fsize", "nofile", "nproc", "stack"):
            command += [f"--rlimit_{limit}", "hard"]
        for path in seen.read_only:
            command += ["--bindmount_ro", path]
        for path, target in (*seen.links, ("/dev/stdin", STDIN_LINK)):
            command += ["--symlink", f"{target}:{path}"]
        for device in DEVICES:
            command += ["--bindmount", device]
        command += ["--bindmount_ro", f"{Path(inside.__file__)}:{INSIDE}"]
        command += ["--mount", f"none:{WORK}:tmpfs:size={job.limits.file_mb << 20},mode=1777"]
        return [*command, "--", seen.python, *PYTHON_OPTIONS, INSIDE]
