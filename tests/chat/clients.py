"""Clients that do what httpx would not: read raw bytes, leave rudely, wait for a whole reply in the background."""

import json
import re
import socket
import struct
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import httpx

from tests.raw_http import RawClient
from tests.server import API, LIMIT, Event, Server

T = TypeVar("T")

_BLOCK = re.compile(r"(?:retry: 1000\n|: keep-alive\n)*id: ([0-9a-f]{10}-[0-9]+)\nevent: ([a-z_]+)\ndata: (.*)")
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


def parsed(raw: bytes) -> list[Event]:
    """The events in a whole stream's bytes, each block checked to the letter."""
    blocks = raw.decode().split("\n\n")
    assert blocks.pop() == "", "the stream does not end with the blank line of its last event"
    return [_event(block) for block in blocks]


def _event(block: str) -> Event:
    match = _BLOCK.fullmatch(block)
    assert match, f"no block of one event: {block[:200]!r}"
    # Who splits lines as Python does, at more than line feeds, must find the same lines.
    assert block.splitlines() == block.split("\n")
    return Event(match[1], match[2], json.loads(match[3]))


class RawChat(RawClient):
    """A client of a server that writes its headers' names as it likes."""

    def read_head(self) -> None:
        super().read_head()
        self.answer.headers = {name.title(): value for name, value in self.answer.headers.items()}


@contextmanager
def raw_chat(server: Server, path: str, body: object) -> Iterator[RawClient]:
    """A chat request sent over a socket of its own, its answer to be read as the caller likes."""
    data = json.dumps(body).encode()
    with RawChat(server.url) as client:
        head = (
            f"POST {API}{path} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(data)}\r\nConnection: close\r\n\r\n"
        )
        client.socket.sendall(head.encode() + data)
        yield client


def read_events(client: RawClient, count: int) -> None:
    """Read on until this many events have come in all."""
    if not client.answer.status:
        client.read_head()
    while client.answer.body.count(b"\ndata: ") < count:
        assert client.read_chunk(), "the stream ended"


def leave_with_a_reset(client: RawClient) -> None:
    """Close as a client does that was killed."""
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    client.leave()


@contextmanager
def asked(server: Server, *requests: tuple[str, object]) -> Iterator[list[Future[httpx.Response]]]:
    """POST requests, path and body, all sent at once and waited for in threads."""
    with ThreadPoolExecutor(len(requests)) as pool:
        yield [pool.submit(server.call, "POST", path, body) for path, body in requests]


def eventually(look: Callable[[], T | None], limit: float = LIMIT) -> T:
    """What `look` gives, once it gives anything but None. Each look should take a moment, such as a request's."""
    end = time.monotonic() + limit
    while (seen := look()) is None:
        assert time.monotonic() < end, f"not so within {limit} s"
    return seen


def generating(server: Server, session: str) -> str:
    """Wait until the first piece of the session's reply has reached the server; the generation's id."""

    def look() -> str | None:
        generation = server.ok("GET", f"/sessions/{session}/status")["generation"]
        return generation["generation_id"] if generation and generation["phase"] == "generating" else None

    return eventually(look)


def idle(server: Server, session: str) -> None:
    """Wait until no reply is running in the session."""
    eventually(lambda: server.ok("GET", f"/sessions/{session}/status")["generation"] is None or None)


def noticed_leaving(server: Server, path: str) -> None:
    """Wait until the server has logged the end of the request to this path: it knows that the client is gone."""
    eventually(lambda: f'"path":"{API}{path}"' in server.log.read_text() or None)


def listens_no_more(server: Server) -> None:
    """Wait until the server has begun to stop."""

    def look() -> bool | None:
        try:
            socket.create_connection(("127.0.0.1", server.port), LIMIT).close()
        except OSError:
            return True
        return None

    eventually(look)


def last_message(server: Server, session: str) -> dict[str, Any]:
    """The last message in the session's file."""
    message: dict[str, Any] = server.file(session)["messages"][-1]
    return message


def ending(message: dict[str, Any]) -> tuple[str, str, str]:
    """Content, status and done_reason of a reply."""
    return message["content"], message["status"], message["done_reason"]
