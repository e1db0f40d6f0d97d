"""One S3 server for all tests of storage, empty for each."""

from collections.abc import Iterator

import pytest

from tests.object_store import ObjectStore, object_store


@pytest.fixture(scope="package")
def server() -> Iterator[ObjectStore]:
    with object_store() as store:
        yield store


@pytest.fixture
def store(server: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    """An empty bucket, and this process's environment such that S3 is there."""
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    server.clear()
    return server
