from collections.abc import Iterator

import pytest

from tests.rewards.judging.scripted_server import ScriptedServer, serving


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with serving() as running:
        yield running
