"""Check of a `run_dir` in storage: that it can be listed, written, read and deleted from."""

from orchestrator.doctor.finding import Finding, ok
from orchestrator.storage.fault import StorageFault
from orchestrator.storage.remote_folder import RemoteFolder
from orchestrator.storage.settings import StorageSettings


def check_remote(url: str, storage: StorageSettings) -> Finding:
    """One object is written there and deleted again."""
    try:
        remote = RemoteFolder(url, storage.timeout_s)
        remote.entries()
        remote.probe()
    except StorageFault as fault:
        return Finding("storage", "fault", f"{url}: {fault.reason}", fault.fix)
    return ok("storage", f"{url} can be written")
