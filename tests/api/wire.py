"""Requests byte for byte, for those that no client library would send."""

import http.client
import socket
from collections.abc import Iterable

import httpx

LIMIT = 10.0
"""Seconds that one read or write may take."""


def connect(port: int) -> socket.socket:
    """A connection to the server."""
    return socket.create_connection(("127.0.0.1", port), timeout=LIMIT)


def read_answer(connection: socket.socket, method: str = "GET") -> httpx.Response:
    """The answer to what was sent, whole."""
    answer = http.client.HTTPResponse(connection, method=method)
    answer.begin()
    return httpx.Response(answer.status, headers=answer.getheaders(), content=answer.read())


def exchange(
    port: int,
    method: str,
    target: str,
    headers: Iterable[tuple[str, str]] = (("Host", "localhost"),),
    body: bytes = b"",
) -> httpx.Response:
    """One request with exactly these headers, and a length if there is a body."""
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers)]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    with connect(port) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
        return read_answer(connection, method)
