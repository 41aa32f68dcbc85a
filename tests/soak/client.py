"""One client's requests, each on a connection of its own, and what comes of them."""

import json
import socket
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from http.client import HTTPConnection, HTTPResponse
from typing import Any, NamedTuple

from tests.crash.client import Event, events
from tests.server import API, LIMIT


class Wrong(Exception):
    """Something was answered, shown or kept that should not have been."""


class Answer(NamedTuple):
    """A whole answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """Its body, decoded."""
        return json.loads(self.body)

    def code(self) -> str:
        """Of the error that it is; empty where it is none."""
        if self.status < 400:
            return ""
        told = self.json()
        return str(told["error"]["code"] if "error" in told else told["detail"]["error"]["code"])


class Heard:
    """What a client was shown of a reply, over as many connections as it took."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def take(self, event: Event) -> None:
        """One event more. Raises Wrong where it is not the next."""
        if self.events and (event.generation, event.number) != (self.last.generation, self.last.number + 1):
            raise Wrong(f"behind event {self.last.generation}-{self.last.number} came {event}")
        self.events.append(event)

    @property
    def last(self) -> Event:
        """The newest event."""
        return self.events[-1]

    @property
    def last_id(self) -> str:
        """By which it is resumed."""
        return f"{self.last.generation}-{self.last.number}"

    def text(self, name: str) -> str:
        """What the deltas of this name said."""
        return "".join(json.loads(event.data)["content"] for event in self.events if event.name == name)

    def told(self, name: str) -> dict[str, Any] | None:
        """The data of the one event of this name; None where it did not come."""
        found = [json.loads(event.data) for event in self.events if event.name == name]
        return found[-1] if found else None

    @property
    def ending(self) -> str:
        """The status that `done` told; empty where it did not come."""
        done = self.told("done")
        return "" if done is None else str(done["status"])

    @property
    def message_id(self) -> str | None:
        """Of the message that was saved, if one was."""
        complete, error = self.told("message_complete"), self.told("error")
        found = complete["message_id"] if complete else (error or {"details": {}})["details"].get("message_id")
        return None if found is None else str(found)


class Client:
    """Asks the server at a port, and counts the answers."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.answers = Counter[int]()

    def ask(
        self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None, *, root: str = API
    ) -> Answer:
        """A whole answer. A body that is bytes is sent as it is."""
        with self.asking(method, path, body, headers, root=root) as response:
            return Answer(response.status, _headers(response), response.read())

    def ok(self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None) -> Any:
        """The JSON of an answer that must be good; None where it has no body. Raises Wrong."""
        answer = self.ask(method, path, body, headers)
        if not 200 <= answer.status < 300:
            raise Wrong(f"{method} {path}: {answer.status} {answer.body[:500]!r}")
        return answer.json() if answer.body else None

    @contextmanager
    def asking(
        self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None, *, root: str = API
    ) -> Iterator[HTTPResponse]:
        """An answer of which the head has come. To leave the context is to leave the server."""
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        sent = {"Connection": "close", **({"Content-Type": "application/json"} if data else {}), **(headers or {})}
        with closing(HTTPConnection("127.0.0.1", self._port, timeout=LIMIT)) as connection:
            connection.request(method, root + path, data, sent)
            with connection.getresponse() as response:
                self.answers[response.status] += 1
                yield response

    @contextmanager
    def streaming(
        self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None
    ) -> Iterator[Iterator[Event]]:
        """The events of a reply. Raises Wrong where the answer is no stream."""
        with self.asking(method, path, body, headers) as response:
            if response.status != 200:
                raise Wrong(f"{method} {path}: {response.status} {response.read()[:500]!r}")
            yield events(response)

    def raw(self, data: bytes) -> bytes:
        """What is answered to these bytes, up to the end of the connection."""
        with socket.create_connection(("127.0.0.1", self._port), LIMIT) as connection:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            answer = b""
            while more := connection.recv(65_536):
                answer += more
            return answer


def _headers(response: HTTPResponse) -> dict[str, str]:
    return {name.lower(): value for name, value in response.getheaders()}
