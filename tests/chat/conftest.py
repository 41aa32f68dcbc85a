"""One stand-in and one server for all tests of a module; a module's `ENVIRONMENT` is the server's."""

from collections.abc import Iterator

import pytest

from tests.server import Server
from tests.standin_thread import StandInThread


@pytest.fixture(scope="module")
def standin() -> Iterator[StandInThread]:
    with StandInThread() as standin:
        yield standin


@pytest.fixture(scope="module")
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, standin: StandInThread
) -> Iterator[Server]:
    # Without heartbeats a stream that wrongly never ends runs into the client's limit, rather than on and on.
    environment = {"MOCHI_HEARTBEAT_SECONDS": "600", **getattr(request.module, "ENVIRONMENT", {})}
    with Server(tmp_path_factory.mktemp("server"), standin.url, environment=environment) as server:
        yield server
