"""HTTP as the kill test needs it: every byte that came before the server died is read, and an answer may be cut."""

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection, HTTPException, HTTPResponse
from typing import Any, NamedTuple

from tests.server import API, LIMIT


class Cut(Exception):
    """The connection ended before the answer did."""


class Event(NamedTuple):
    """One event of a stream, its data as it came."""

    generation: str
    number: int
    name: str
    data: bytes


class Answer(NamedTuple):
    """An answer. Its head says all but for `body`, which is None where there is none or where it was cut."""

    status: int
    revision: str | None
    body: Any


class Client:
    """Asks the server at a port, on a new connection each time."""

    def __init__(self, port: int) -> None:
        self._port = port

    def ask(self, method: str, path: str, body: object = None) -> Answer:
        """One answer. Raises Cut where not even its head came."""
        with self.asking(method, path, body) as response:
            try:
                told = response.read()
                decoded = json.loads(told) if told else None
            except TimeoutError:
                raise
            except (OSError, HTTPException):
                decoded = None
            return Answer(response.status, _revision(response), decoded)

    @contextmanager
    def asking(self, method: str, path: str, body: object = None) -> Iterator[HTTPResponse]:
        """An answer of which the head has come. Raises Cut."""
        with closing(HTTPConnection("127.0.0.1", self._port, timeout=LIMIT)) as connection:
            data = None if body is None else json.dumps(body)
            try:
                connection.request(method, API + path, data, {"Content-Type": "application/json"} if data else {})
                response = connection.getresponse()
            except TimeoutError:
                raise
            except (OSError, HTTPException):
                raise Cut from None
            with response:
                yield response


def events(response: HTTPResponse) -> Iterator[Event]:
    """The events of a stream, each as soon as it is there. Raises Cut behind the last one that came whole."""
    held = b""
    while True:
        try:
            more = response.read1(65_536)
        except TimeoutError:
            raise
        except (OSError, HTTPException):
            raise Cut from None
        if not more:
            return
        *blocks, held = (held + more).split(b"\n\n")
        yield from map(_event, blocks)


def _event(block: bytes) -> Event:
    fields = dict(line.split(b": ", 1) for line in block.split(b"\n"))
    generation, _, number = fields[b"id"].decode().partition("-")
    return Event(generation, int(number), fields[b"event"].decode(), fields[b"data"])


def _revision(response: HTTPResponse) -> str | None:
    etag = response.getheader("ETag")
    return None if etag is None else etag.strip('"')
