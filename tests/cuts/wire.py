"""An answer read byte by byte off the wire, which may be cut anywhere: in its head, in a chunk, in an event."""

import re
import socket
import struct
from contextlib import suppress
from typing import NamedTuple, Self

from tests.chat.clients import parsed
from tests.server import API, LIMIT, Event

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
_STATUS = re.compile(rb"HTTP/1\.1 ([0-9]{3}) ")


class Answer(NamedTuple):
    """An answer as far as it came: status 0 while its head is not whole; `ended` once its end has come."""

    status: int
    body: bytes
    ended: bool

    @property
    def events(self) -> list[Event]:
        """The whole ones. An event is one at its blank line, as every reader of such streams has it."""
        return parsed(self.body[: self.body.rfind(b"\n\n") + 2]) if b"\n\n" in self.body else []

    @property
    def is_cut_in_an_event(self) -> bool:
        """Whether some bytes of an event came, and not all of them."""
        begun = self.body[self.body.rfind(b"\n\n") + 2 if b"\n\n" in self.body else 0 :]
        return begun.removeprefix(b"retry: 1000\n") != b""


class Connection:
    """One request on a connection of its own."""

    def __init__(self, port: int, method: str, path: str, body: bytes = b"", **headers: str) -> None:
        lines = [f"{method} {API}{path} HTTP/1.1", f"Host: 127.0.0.1:{port}", "Connection: close"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        if body:
            lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
        self.wire = b""
        self._socket = socket.create_connection(("127.0.0.1", port), LIMIT)
        self._socket.sendall("\r\n".join([*lines, "", ""]).encode() + body)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def read(self, most: int) -> Answer:
        """Read so many bytes more, or to the end."""
        while most and (more := self._socket.recv(min(most, 65_536))):
            self.wire += more
            most -= len(more)
        return decoded(self.wire)

    def read_rest(self) -> Answer:
        """Read to the end, be it the answer's or that of the server."""
        with suppress(ConnectionResetError):
            while more := self._socket.recv(65_536):
                self.wire += more
        return decoded(self.wire)

    def cut(self, *, rudely: bool) -> None:
        """Close it, with a reset if rudely."""
        if rudely:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self._socket.close()


def decoded(wire: bytes) -> Answer:
    """What these bytes say, to where they were cut."""
    head, whole, rest = wire.partition(b"\r\n\r\n")
    match = _STATUS.match(head)
    if not whole or match is None:
        return Answer(0, b"", ended=False)
    if b"transfer-encoding: chunked" not in head.lower():
        return Answer(int(match[1]), rest, ended=True)
    body = b""
    while True:
        line, whole, rest = rest.partition(b"\r\n")
        if not whole:
            return Answer(int(match[1]), body, ended=False)
        size = int(line, 16)
        if size == 0:
            return Answer(int(match[1]), body, ended=True)
        body += rest[:size]
        rest = rest[size + 2 :]
