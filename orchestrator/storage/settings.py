"""The `storage` section: how a run deals with a `run_dir` that is no folder of this machine."""

from pydantic import Field

from learners.settings import Section


class StorageSettings(Section):
    """Means nothing where `run_dir` is a folder."""

    working_dir: str | None = None
    """Folder in which a folder of this machine is made for the run to work in; None is `runs`."""
    sync_every_s: float = Field(60.0, gt=0)
    """Seconds between two copies of the logs: what a killed driver loses of them. A copy that takes long is followed by
    ten times its duration without one."""
    timeout_s: float = Field(60.0, gt=0)
    """Seconds without a byte after which a request has failed; it is made again."""
    patience_s: float = Field(600.0, ge=0)
    """Seconds that a run waits at a checkpoint, or at its end, for storage that takes nothing."""
