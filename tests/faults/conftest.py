"""A server whose system calls can be made to fail, shared by all tests here: each works in its own session."""

import os
from collections.abc import Iterator

import pytest

from tests.faults.injected import why_not
from tests.server import Server
from tests.standin_thread import StandInThread


@pytest.fixture(scope="package")
def strace() -> None:
    """Skips what needs strace where there is none."""
    if (reason := why_not()) is not None:
        pytest.skip(reason)


@pytest.fixture(scope="package")
def standin() -> Iterator[StandInThread]:
    with StandInThread() as standin:
        yield standin


@pytest.fixture(scope="package")
def server(
    strace: None,  # noqa: ARG001 - the server is of no use without
    tmp_path_factory: pytest.TempPathFactory,
    standin: StandInThread,
) -> Iterator[Server]:
    # Without heartbeats a stream that wrongly never ends runs into the client's limit, rather than on and on.
    environment = {"MOCHI_HEARTBEAT_SECONDS": "600"}
    with Server(tmp_path_factory.mktemp("server"), standin.url, environment=environment) as server:
        yield server


@pytest.fixture(scope="package")
def plain(
    strace: None,  # noqa: ARG001 - as above
    tmp_path_factory: pytest.TempPathFactory,
    standin: StandInThread,
) -> Iterator[Server]:
    """A server that calls `write` for nothing but files: without uvloop, which wakes its loop so, and without a log."""
    folder = tmp_path_factory.mktemp("plain")
    (folder / "uvloop.py").write_text("raise ImportError\n")
    path = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
    with Server(folder, standin.url, "--log-level", "error", environment={"PYTHONPATH": path}) as server:
        yield server
