"""A server and its stand-in that the tests of one module share: each works in sessions of its own."""

from collections.abc import Iterator

import pytest

from tests.server import Server
from tests.standin_thread import StandInThread

BODY_LIMIT = 65_536
MESSAGE_LIMIT = 1_000


@pytest.fixture(scope="module")
def shared_standin() -> Iterator[StandInThread]:
    """The Ollama of `shared`. What one test scripts, it must use up."""
    with StandInThread() as standin:
        yield standin


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, shared_standin: StandInThread) -> Iterator[Server]:
    """A server with small limits, so that going over them costs little."""
    limits = {
        "MOCHI_MAX_BODY_BYTES": str(BODY_LIMIT),
        "MOCHI_MAX_MESSAGE_CHARS": str(MESSAGE_LIMIT),
        "MOCHI_MAX_REPLY_CHARS": "500",
    }
    with Server(tmp_path_factory.mktemp("shared"), shared_standin.url, environment=limits) as server:
        yield server
