"""A folder in storage that fsspec reaches, in a few verbs, none of which waits for ever.

Invariants: an object appears whole or not at all (S3 and its like hold it; where a driver does not, a marker that is
written last says what is whole); a verb ends with its result or with a `StorageFault`, at the latest when no byte has
moved for `timeout_s`. What hangs beyond that is left behind in a thread that does not keep the process.
"""

import math
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Thread
from typing import TypeVar

import fsspec
from fsspec.callbacks import Callback

from orchestrator.storage.address import scheme_of
from orchestrator.storage.fault import StorageFault, fault_of, missing_driver

T = TypeVar("T")
POLL_S = 0.2
S3 = ("s3", "s3a")
PART, MOST_PARTS = 8 * 2**20, 9000
"""Bytes of a part of an upload, so small that a slow line shows signs of life; and how many S3 takes (10,000)."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A file there: bytes, and a mark that changes with its content."""

    size: int
    mark: str


class RemoteFolder:
    """Args:
    url: of the folder; it need not exist.
    timeout_s: without a byte moved, after which a verb has failed.

    Raises:
        StorageFault: the driver for its scheme is missing.
    """

    def __init__(self, url: str, timeout_s: float) -> None:
        self.url, self._timeout_s = url.rstrip("/"), timeout_s
        self._in_parts = scheme_of(url) in S3
        self.moved_at = self._answered_at = time.monotonic()
        """When the content of a file last moved, and when there was any sign of life; of the monotonic clock."""
        scheme = scheme_of(url) or "file"
        try:
            fsspec.get_filesystem_class(scheme)
        except (ImportError, ValueError) as error:
            raise missing_driver(scheme, error) from error
        self._files, self._root = self._in_time(lambda: fsspec.url_to_fs(self.url, **_options(scheme, timeout_s)))

    def entries(self, below: str = "") -> dict[str, Entry]:
        """All files in a folder and those in it, by their names from this one on; none where it does not exist."""
        root = self._path(below) if below else self._root
        found = self._in_time(lambda: self._files.find(root, detail=True))
        return {self._name(path): _entry(facts) for path, facts in found.items()}

    def has(self, name: str) -> bool:
        return bool(self._in_time(lambda: self._files.exists(self._path(name))))

    def read(self, name: str) -> bytes:
        return bytes(self._in_time(lambda: self._files.cat_file(self._path(name))))

    def write(self, name: str, content: bytes) -> None:
        with tempfile.NamedTemporaryFile() as file:  # `put_file` makes folders where the storage has some
            file.write(content)
            file.flush()
            self.put(Path(file.name), name)

    def put(self, local: Path, name: str) -> None:
        """Copy a file there, over what has its name."""
        parts = _parts(local.stat().st_size) if self._in_parts else {}
        self._in_time(lambda: self._files.put_file(str(local), self._path(name), callback=self._pulse(), **parts))

    def get(self, name: str, local: Path) -> None:
        """Copy a file here; its folder exists."""
        self._in_time(lambda: self._files.get_file(self._path(name), str(local), callback=self._pulse()))

    def probe(self) -> None:
        """Write, read and delete one small file. Raises: StorageFault: one of these is not possible."""
        content = uuid.uuid4().hex
        name = f".paceline-probe-{content}"
        self.write(name, content.encode())
        if self.read(name) != content.encode():
            raise StorageFault("what is read is not what was written", "look at the storage")
        self.remove([name])

    def remove(self, names: Sequence[str]) -> None:
        """Whether they are there or not."""
        for name in names:
            self._in_time(partial(self._remove, self._path(name)))

    def move(self, name: str, to: str) -> None:
        """Within this storage: nothing passes through this machine."""
        self._in_time(lambda: self._files.cp_file(self._path(name), self._path(to)))
        self.remove([name])

    def _remove(self, path: str) -> None:
        with suppress(FileNotFoundError):
            self._files.rm_file(path)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _name(self, path: str) -> str:
        return path.removeprefix(self._root).lstrip("/") or path.rpartition("/")[2]

    def _pulse(self) -> Callback:
        return Callback(hooks={"moved": self._moved})

    def _moved(self, size: int | None, value: int, **_: object) -> None:
        if value:  # the first call says how much there will be
            self.moved_at = self._answered_at = time.monotonic()

    def _in_time(self, call: Callable[[], T]) -> T:
        """Raises: StorageFault: the driver's words in ours, or no byte moved in time."""
        outcome: Future[T] = Future()
        Thread(target=_work, args=(outcome, call), daemon=True, name=f"storage {self._timeout_s:g} s").start()
        began = time.monotonic()
        while not wait([outcome], timeout=POLL_S).done:
            if time.monotonic() - max(began, self._answered_at) > self._timeout_s:
                raise StorageFault(f"it has not answered for {self._timeout_s:g} s", "look at the network")
        error = outcome.exception(timeout=0)
        if error is not None:
            assert isinstance(error, Exception), "others are not caught in the thread"
            raise fault_of(error) from error
        self._answered_at = time.monotonic()
        return outcome.result(timeout=0)


def _work(outcome: "Future[T]", call: Callable[[], T]) -> None:
    try:
        outcome.set_result(call())
    except Exception as error:  # noqa: BLE001 - a driver raises what its library likes; who waits gets it
        outcome.set_exception(error)


def _options(scheme: str, timeout_s: float) -> dict[str, object]:
    """What the driver is told beside its own configuration, which goes first."""
    options: dict[str, object] = {"skip_instance_cache": True, "use_listings_cache": False}
    if scheme in S3:
        own = fsspec.config.conf.get("s3", {}).get("config_kwargs", {})
        # An answer that is lost is asked for again within our time; beyond that, whoever waits asks again.
        patience = timeout_s / 3
        bounds = {"connect_timeout": patience, "read_timeout": patience, "retries": {"max_attempts": 2}}
        options |= {"config_kwargs": {**bounds, **own}, "max_concurrency": 4}
    return options


def _parts(size: int) -> dict[str, int]:
    return {"chunksize": max(PART, math.ceil(size / MOST_PARTS))}


def _entry(facts: dict[str, object]) -> Entry:
    mark = next((facts[key] for key in ("ETag", "etag", "md5", "mtime", "LastModified") if facts.get(key)), "")
    return Entry(int(str(facts.get("size") or 0)), str(mark))
