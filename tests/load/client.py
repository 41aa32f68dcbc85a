"""A client of which a thousand fit into one event loop: one request, one connection, read as far as one likes."""

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from tests.server import API

PATIENCE = 60.0
"""Seconds that anything here may take: a load test is no stop watch, but it must end."""


class Answer(NamedTuple):
    """What came in answer to a request, and how many seconds after it was sent."""

    status: int
    headers: dict[str, str]
    body: bytes
    seconds: float

    @property
    def events(self) -> list[tuple[str, Any]]:
        """Name and data of each event of a stream."""
        blocks = [block.split("\n") for block in self.body.decode().split("\n\n") if "event: " in block]
        return [(lines[-2].removeprefix("event: "), json.loads(lines[-1].removeprefix("data: "))) for lines in blocks]

    @property
    def ending(self) -> str:
        """The status in a stream's `done`; empty where there is none."""
        name, data = self.events[-1] if self.events else ("", {})
        return str(data["status"]) if name == "done" else ""


class Client:
    """One request on a connection of its own."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._began = time.monotonic()
        self._raw = b""

    @classmethod
    async def ask(cls, port: int, path: str, body: object) -> "Client":
        """POST this below `/api/v1`."""
        client = cls(*await asyncio.open_connection("127.0.0.1", port))
        data = json.dumps(body).encode()
        head = (
            f"POST {API}{path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(data)}\r\nConnection: close\r\n\r\n"
        )
        client._writer.write(head.encode() + data)
        return client

    async def read_until(self, text: bytes, times: int = 1) -> None:
        """Read on until this has come so often."""
        async with asyncio.timeout(PATIENCE):
            while self._raw.count(text) < times:
                data = await self._reader.read(65536)
                assert data, f"the answer ended: {self._raw[-500:]!r}"
                self._raw += data

    async def rest(self) -> Answer:
        """Read to the end."""
        async with asyncio.timeout(PATIENCE):
            while data := await self._reader.read(65536):
                self._raw += data
        seconds = time.monotonic() - self._began
        self.leave()
        head, _, body = self._raw.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        if headers.get("transfer-encoding") == "chunked":
            body = _joined(body)
        return Answer(int(first.split()[1]), headers, body, seconds)

    def leave(self, *, rudely: bool = False) -> None:
        """Close the connection, rudely with a reset where something is still to be read."""
        if rudely:
            self._writer.transport.abort()
        else:
            self._writer.close()


def _joined(chunked: bytes) -> bytes:
    parts = []
    while chunked:
        size, _, rest = chunked.partition(b"\r\n")
        length = int(size, 16)
        parts.append(rest[:length])
        chunked = rest[length + 2 :] if length else b""
    return b"".join(parts)


async def eventually(look: Callable[[], bool], what: str) -> None:
    """Wait until `look` is true, looking every now and then."""
    end = time.monotonic() + PATIENCE
    while not look():
        assert time.monotonic() < end, f"not so within {PATIENCE:g} s: {what}"
        await asyncio.sleep(0.02)
