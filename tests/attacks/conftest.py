"""A server in a hurry, which the attacks on one module share."""

from collections.abc import Iterator

import pytest

from tests.attacks.raw import LIMITS
from tests.server import Server
from tests.standin_thread import StandInThread


@pytest.fixture(scope="module")
def shared_standin() -> Iterator[StandInThread]:
    """The Ollama of `hasty`. What one test scripts, it must use up."""
    with StandInThread() as standin:
        yield standin


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory, shared_standin: StandInThread) -> Iterator[Server]:
    """A server whose limits are met soon."""
    with Server(tmp_path_factory.mktemp("hasty"), shared_standin.url, environment=LIMITS) as server:
        yield server
