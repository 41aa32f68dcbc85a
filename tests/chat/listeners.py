"""Clients of `GET /chat/{id}/stream`: who joins a running reply, and who hears an ended one once more."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from tests.chat.clients import RawChat, eventually, parsed
from tests.raw_http import RawClient
from tests.server import API, Event, Server

RETRY = b"retry: 1000\n"
WAYS = ("header", "after")
"""How a client says which event it has last."""

_FRAME = re.compile(rb"id: [0-9a-f]{10}-[0-9]+\nevent: [a-z_]+\ndata: [^\n]*\n\n")


def stream_of(session: str) -> str:
    """The path of the session's last reply."""
    return f"/chat/{session}/stream"


def known(session: str, last: str | None, way: str) -> tuple[str, dict[str, str]]:
    """Path and headers of a request by who has this event last."""
    if last is None:
        return stream_of(session), {}
    if way == "header":
        return stream_of(session), {"Last-Event-ID": last}
    return f"{stream_of(session)}?after={last}", {}


def told_again(server: Server, session: str, last: str | None = None, way: str = "header") -> bytes:
    """The bytes of the session's last reply, all or behind this event; it must end by itself."""
    path, headers = known(session, last, way)
    response = server.call("GET", path, **headers)
    assert response.status_code == 200, response.text
    return response.content


def heard(server: Server, session: str, last: str | None = None) -> list[Event]:
    """The events of the session's last reply, all or behind this one."""
    return parsed(told_again(server, session, last))


def status_behind(server: Server, session: str, last: str, way: str = "header") -> int:
    """The status of an answer without a body to who has this event last."""
    path, headers = known(session, last, way)
    response = server.call("GET", path, **headers)
    assert response.content == b""
    return response.status_code


def frames(raw: bytes) -> list[bytes]:
    """The events of a whole stream, each as it stood on the wire."""
    assert raw.startswith(RETRY)
    found = _FRAME.findall(raw)
    assert RETRY + b"".join(found) == raw.replace(b": keep-alive\n", b"")
    return found


def noticed_leaving(server: Server, path: str, times: int = 1) -> None:
    """Wait until the server has logged the end of so many requests to this path: it knows that the clients are gone."""
    eventually(lambda: server.log.read_text().count(f'"path":"{API}{path}"') >= times or None)


@contextmanager
def listening(server: Server, session: str, last: str | None = None, way: str = "header") -> Iterator[RawClient]:
    """A listener over a socket of its own, to be read as the caller likes; its answer's head has come."""
    path, headers = known(session, last, way)
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    with RawChat(server.url) as client:
        client.socket.sendall(f"GET {API}{path} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n{lines}\r\n".encode())
        client.read_head()
        assert client.answer.status == 200
        yield client
