"""No sandbox: limits and the filter of system calls, but the host's file system in full, as this very user.

Only where a user asks for it by name (`unsafe_no_sandbox`). No network and no tracing even so; but a program may read
all that this process may, write where it may, and signal its processes.
"""

import tempfile

from rewards.sandbox import inside
from rewards.sandbox.job import Job, Outcome
from rewards.sandbox.layout import PYTHON_OPTIONS, layout, minimal_environment
from rewards.sandbox.process_life import ProcessLife
from rewards.sandbox.supervise import outcomes


class Bare:
    """The working directory is a temporary one, removed after the job; its size is bounded per file only."""

    name = "none"

    def run(self, job: Job) -> tuple[Outcome, ...]:
        with tempfile.TemporaryDirectory(prefix="job", ignore_cleanup_errors=True) as directory:
            environment = {**minimal_environment(), "HOME": directory, "TMPDIR": directory}
            life = ProcessLife([layout().python, *PYTHON_OPTIONS, str(inside.__file__)], environment, user=None)
            return outcomes(job, life, directory=directory, uid=None, is_init=False)

    def close(self) -> None:
        """Nothing outlives a job."""
