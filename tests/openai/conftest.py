"""One stand-in, one server and one official client for all tests of a module, whose `ENVIRONMENT` is the server's."""

from collections.abc import Iterator

import pytest
from openai import OpenAI

from tests.chat.conftest import server
from tests.openai.clients import official
from tests.pictures import seeing_standin
from tests.server import Server
from tests.standin_thread import StandInThread

__all__ = ["server"]


@pytest.fixture(scope="module")
def standin() -> Iterator[StandInThread]:
    """The tiny models, and one that sees."""
    with StandInThread(seeing_standin()) as standin:
        yield standin


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[OpenAI]:
    """The official client, which does not try again by itself."""
    with official(server) as client:
        yield client
