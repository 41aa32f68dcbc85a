"""HTTP/1.1 in bytes, as much as the stand-in needs: one request a connection, one answer that may come in pieces."""

import asyncio
import socket
import struct
from collections.abc import Mapping
from http.client import responses

import msgspec

HEAD_LIMIT = 64 * 1024
"""Bytes of a request's head; also what `asyncio.start_server` is to be given as its `limit`."""
_BODY_LIMIT = 64 * 1024 * 1024
_REQUEST_SECONDS = 30.0

# The size from which Go's HTTP server, and so Ollama, frames an answer in chunks instead of naming its length.
_CHUNKED_FROM = 2049


class BadRequest(ValueError):
    """What came is no HTTP request, or one beyond the limits."""


class Request(msgspec.Struct, frozen=True):
    """One request; the names of `headers` are in lower case, `path` is without its query."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


async def read_request(reader: asyncio.StreamReader) -> Request | None:
    """Read one request; `None` when the client left or dawdled before it was whole.

    Raises `BadRequest`, and `ConnectionError` when the client reset the connection.
    """
    try:
        async with asyncio.timeout(_REQUEST_SECONDS):
            method, path, headers = _parse_head(await reader.readuntil(b"\r\n\r\n"))
            if headers.get("transfer-encoding", "").lower() == "chunked":
                body = await _read_chunked(reader)
            else:
                body = await reader.readexactly(_size(headers.get("content-length", "0"), 10))
    except (asyncio.IncompleteReadError, TimeoutError):
        return None
    except asyncio.LimitOverrunError as error:
        raise BadRequest("request head too large") from error
    return Request(method, path, headers, body)


async def reads_until_gone(reader: asyncio.StreamReader) -> None:
    """Return as soon as the client leaves; whatever else it sends is dropped."""
    try:
        while await reader.read(HEAD_LIMIT):
            pass
    except ConnectionError:
        return


def _parse_head(head: bytes) -> tuple[str, str, dict[str, str]]:
    first, *lines = head.decode("latin-1").split("\r\n")
    try:
        method, target, version = first.split(" ")
    except ValueError:
        raise BadRequest("malformed request line") from None
    if not version.startswith("HTTP/1."):
        raise BadRequest("not HTTP/1")
    headers = {}
    for line in filter(None, lines):
        name, colon, value = line.partition(":")
        if not colon:
            raise BadRequest("malformed header")
        headers[name.lower()] = value.strip()
    return method, target.partition("?")[0], headers


async def _read_chunked(reader: asyncio.StreamReader) -> bytes:
    body = bytearray()
    while size := _size((await reader.readuntil(b"\r\n")).decode("latin-1").partition(";")[0].strip(), 16):
        if len(body) + size > _BODY_LIMIT:
            raise BadRequest("request body too large")
        body += (await reader.readexactly(size + 2))[:-2]
    while await reader.readuntil(b"\r\n") != b"\r\n":  # trailers
        pass
    return bytes(body)


def _size(text: str, base: int) -> int:
    try:
        size = int(text, base)
    except ValueError:
        raise BadRequest("malformed length") from None
    if not 0 <= size <= _BODY_LIMIT:
        raise BadRequest("request body too large")
    return size


class Answer:
    """The answer to one request: either `send`, or `begin`, any number of `chunk` and perhaps `end`.

    Every coroutine here raises `ConnectionError` when the client has gone.
    """

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._head = b""
        self.head_only = False
        """True while a HEAD request is answered: its answer has no body."""

    async def send(
        self,
        status: int,
        content_type: str,
        body: bytes,
        headers: Mapping[str, str] | None = None,
        *,
        chunked: bool = False,
    ) -> None:
        """Answer as a whole, in one chunk if `chunked` or if the body is long, else with its length."""
        if not self.head_only and (chunked or len(body) >= _CHUNKED_FROM):
            self.begin(status, content_type, headers)
            await self.chunk(body)
            await self.end()
        else:
            head = _head(status, content_type, {**(headers or {}), "Content-Length": str(len(body))})
            await self._write(head + (b"" if self.head_only else body))

    def begin(self, status: int, content_type: str, headers: Mapping[str, str] | None = None) -> None:
        """Start an answer of unknown length. Nothing is sent before its first chunk or its end."""
        self._head = _head(status, content_type, {**(headers or {}), "Transfer-Encoding": "chunked"})

    async def chunk(self, data: bytes, *, dribble: bool = False) -> None:
        """Send some of the body as one transfer chunk, or with `dribble` each byte as one."""
        for part in (data[i : i + 1] for i in range(len(data))) if dribble else (data,):
            await self._write(self._taken_head() + b"%x\r\n%s\r\n" % (len(part), part))

    async def end(self) -> None:
        """Send the last, empty chunk: the body is whole."""
        await self._write(self._taken_head() + b"0\r\n\r\n")

    def reset(self) -> None:
        """Break the connection with a TCP reset; what the client has not received yet may be lost."""
        raw: socket.socket = self._writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    def _taken_head(self) -> bytes:
        head, self._head = self._head, b""
        return head

    async def _write(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()
        await asyncio.sleep(0)  # drain alone lets nobody else run while the client keeps up


def _head(status: int, content_type: str, headers: Mapping[str, str]) -> bytes:
    fields = {"Content-Type": content_type, "Connection": "close", **headers}
    lines = [f"HTTP/1.1 {status} {responses.get(status, '')}", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")
