"""HTTP read as raw bytes over a socket: transfer chunks as they were framed, and whether the body ended properly."""

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import urlsplit

LIMIT = 5.0
"""Seconds that one read may take."""


@dataclass
class RawAnswer:
    """An answer as it came: `chunks` as framed, or the body as one; `reset` if a TCP reset ended it."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    chunks: list[bytes] = field(default_factory=list)
    whole: bool = False
    reset: bool = False

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.body.split(b"\n") if line]


class RawClient:
    """One request and its answer on a connection, read step by step."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host = f"{parts.hostname}:{parts.port}"
        self.socket = socket.create_connection((parts.hostname or "", parts.port or 0), timeout=LIMIT)
        self._stream = self.socket.makefile("rb")
        self.answer = RawAnswer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()

    def send(self, method: str, path: str, body: bytes | None = None) -> None:
        length = "" if body is None else f"Content-Length: {len(body)}\r\n"
        head = f"{method} {path} HTTP/1.1\r\nHost: {self._host}\r\n{length}Connection: close\r\n\r\n"
        self.socket.sendall(head.encode() + (body or b""))

    def read_head(self) -> None:
        """Read status and headers; the status stays 0 if the connection ended before."""
        first = self._stream.readline()
        if not first:
            return
        self.answer.status = int(first.split()[1])
        while (line := self._stream.readline().strip()) != b"":
            name, _, value = line.decode("latin-1").partition(": ")
            self.answer.headers[name] = value

    def read_chunk(self) -> bytes:
        """Read one transfer chunk; empty at the end, be it proper or not."""
        size = self._stream.readline()
        if not size:
            return b""
        data = self._stream.read(int(size, 16) + 2)[:-2]
        if data:
            self.answer.chunks.append(data)
        else:
            self.answer.whole = True
        return data

    def read_rest(self) -> RawAnswer:
        """Read to the end, however it comes."""
        try:
            if not self.answer.status:
                self.read_head()
            if "Content-Length" in self.answer.headers:
                length = int(self.answer.headers["Content-Length"])
                self.answer.chunks.append(self._stream.read(length))
                self.answer.whole = len(self.answer.body) == length
            else:
                while self.read_chunk():
                    pass
        except ConnectionResetError:
            self.answer.reset = True
        return self.answer

    def leave(self) -> None:
        self._stream.close()
        self.socket.close()


@contextmanager
def chatting(url: str, **body: Any) -> Iterator[RawClient]:
    """Ask for a chat reply, of `tiny` to "hi" unless told otherwise, and read it as the caller likes."""
    asked = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], **body}
    with RawClient(url) as client:
        client.send("POST", "/api/chat", json.dumps(asked).encode())
        yield client


def exchange(url: str, method: str, path: str, body: bytes | None = None) -> RawAnswer:
    """Send one request and read its whole answer."""
    with RawClient(url) as client:
        client.send(method, path, body)
        return client.read_rest()


def chat(url: str, **body: Any) -> RawAnswer:
    """Ask for a chat reply as `chatting` does, and read it to its end."""
    with chatting(url, **body) as client:
        return client.read_rest()
