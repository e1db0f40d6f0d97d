"""Checkpoints and engines that several tests share: an engine takes seconds to start."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.actors.subject import Subject
from tests.actors.tiny_model import write_checkpoint


@pytest.fixture(scope="session")
def untied_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("untied"), tied=False)


@pytest.fixture(scope="session")
def tied_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("tied"), tied=True)


@pytest.fixture(scope="module", params=["torch-untied", "torch-tied", "vllm-untied", "vllm-tied"])
def subject(request: pytest.FixtureRequest, untied_checkpoint: Path, tied_checkpoint: Path) -> Iterator[Subject]:
    """Each engine, started once for a module, with an untied and with a tied output head."""
    kind, head = request.param.split("-")
    tied = head == "tied"
    running = Subject(kind, tied_checkpoint if tied else untied_checkpoint, tied=tied)
    yield running
    running.close()
