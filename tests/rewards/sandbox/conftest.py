"""Each sandbox that is safe on this machine, one after the other; the others are skipped with the reason."""

from collections.abc import Iterator

import pytest

from rewards.sandbox.choice import BACKENDS, check
from rewards.sandbox.job import Sandbox, SandboxError


@pytest.fixture(scope="session", params=list(BACKENDS))
def box(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    try:
        made = BACKENDS[request.param]()
    except SandboxError as error:
        pytest.skip(str(error))
    try:
        check(made)
    except SandboxError as error:
        if request.param == "nsjail":
            pytest.skip(f"never run before: {error}")
        if "could" not in str(error):
            pytest.skip(f"{request.param} cannot be set up here: {error}")
        raise
    yield made
    made.close()
