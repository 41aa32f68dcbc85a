"""Fixtures: a stand-in for Ollama with the tiny models, and a server beside it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server import Server
from tests.standin_thread import StandInThread


@pytest.fixture
def standin() -> Iterator[StandInThread]:
    """An Ollama that does as it is told."""
    with StandInThread() as standin:
        yield standin


@pytest.fixture
def server(tmp_path: Path, standin: StandInThread) -> Iterator[Server]:
    """A server of this test's own, over an empty folder."""
    with Server(tmp_path, standin.url) as server:
        yield server
