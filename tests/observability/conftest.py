"""One stand-in for all tests of a module."""

from collections.abc import Iterator

import pytest

from tests.standin_thread import StandInThread


@pytest.fixture(scope="module")
def standin() -> Iterator[StandInThread]:
    """The Ollama of a module's servers. What one test scripts, it must use up."""
    with StandInThread() as standin:
        yield standin
