"""What most of the learner's tests stand on: a group of one rank, and a tiny model on disk."""

from collections.abc import Iterator

import pytest

from tests.learners.ranks import single_rank
from tests.learners.tiny import write_model


@pytest.fixture
def group() -> Iterator[None]:
    with single_rank():
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a checkpoint that no test changes."""
    return write_model(tmp_path_factory.mktemp("model") / "tiny")
