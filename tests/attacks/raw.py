"""Connections that do as no client should, and what the server is afterwards."""

import re
import socket
import time
from contextlib import suppress

import httpx
import psutil

from tests.api.wire import connect, read_answer
from tests.server import API, Server

HEADER, BODY, KEEP_ALIVE = 0.3, 0.4, 0.4
"""Seconds."""

HEAD_LIMIT, BODY_LIMIT, CONNECTIONS = 4096, 1024 * 1024, 50
LIMITS = {
    "MOCHI_HEADER_TIMEOUT": str(HEADER),
    "MOCHI_BODY_TIMEOUT": str(BODY),
    "MOCHI_KEEP_ALIVE_TIMEOUT": str(KEEP_ALIVE),
    "MOCHI_MAX_HEADER_BYTES": str(HEAD_LIMIT),
    "MOCHI_MAX_BODY_BYTES": str(BODY_LIMIT),
    "MOCHI_MAX_CONNECTIONS": str(CONNECTIONS),
}
SOON = 5.0
"""Seconds in which what is to come must have come, on a busy machine, too."""

GET = b"GET /api/v1/sessions HTTP/1.1\r\nHost: localhost\r\n"
POST = b"POST /api/v1/sessions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
MEGABYTE = 1_000_000


def rest(connection: socket.socket) -> bytes:
    """All that still comes, until the server ends the connection."""
    connection.settimeout(SOON)
    read = b""
    with suppress(ConnectionResetError):
        while more := connection.recv(65_536):
            read += more
    return read


def asked(server: Server, *sent: bytes) -> bytes:
    """Everything that is answered to these bytes, of a connection that the server must end."""
    with connect(server.port) as connection:
        for part in sent:
            connection.sendall(part)
        return rest(connection)


def statuses(answers: bytes) -> list[int]:
    """Those of several answers."""
    return [int(status) for status in re.findall(rb"(?:\A|[\n}])HTTP/1\.1 (\d{3}) ", answers)]


def refusal(answer: httpx.Response) -> tuple[int, str]:
    """Status and code of an answer that was made before there was a request."""
    error = answer.json()["detail"]["error"]
    assert set(error) == {"code", "message", "details", "correlation_id"}
    assert error["correlation_id"] is None
    assert "x-correlation-id" not in answer.headers
    assert answer.headers["connection"] == "close"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "server" not in answer.headers
    return answer.status_code, error["code"]


def refused(server: Server, *sent: bytes) -> tuple[int, str]:
    """Status and code of what these bytes are refused with, and that the connection ends behind it."""
    with connect(server.port) as connection:
        for part in sent:
            with suppress(BrokenPipeError, ConnectionResetError):
                connection.sendall(part)
        answer = read_answer(connection)
        assert rest(connection) == b""
    return refusal(answer)


def memory(server: Server) -> int:
    """The server's, in bytes."""
    return int(psutil.Process(server.process.pid).memory_info().rss)


def descriptors(server: Server) -> int:
    """How many the server has open."""
    return int(psutil.Process(server.process.pid).num_fds())


def assert_serves(server: Server) -> None:
    """It answers a stranger on a new connection, and soon."""
    began = time.monotonic()
    with connect(server.port) as connection:
        connection.sendall(f"GET {API}/sessions?limit=1 HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert read_answer(connection).status_code == 200
    assert time.monotonic() - began < SOON
