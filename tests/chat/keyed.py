"""Requests under an `Idempotency-Key`, and what was heard of their replies, whichever form told it."""

import itertools
import json
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple

import httpx

from tests.chat.clients import parsed
from tests.server import Event, Server, joined, told
from tests.standin_thread import StandInThread

IN_A_SESSION = {"whole": "/chat/{}", "stream": "/chat/{}/stream"}
ONE_CALL = {"whole": "/chat", "stream": "/chat/stream"}
QUESTION = "What is the capital of France?"

_numbers = itertools.count(1)


class Heard(NamedTuple):
    """A reply as a client knows it in the end."""

    session: str
    message_id: str | None
    text: str
    status: str


def new_key() -> str:
    """One that no other test has."""
    return f"key-{next(_numbers)}"


def ask(server: Server, path: str, key: str, **body: object) -> httpx.Response:
    """POST a message, QUESTION unless the body has another, under a key."""
    return server.call("POST", path, {"message": QUESTION, **body}, idempotency_key=key)


def ask_raw(server: Server, path: str, key: str, body: bytes) -> httpx.Response:
    """POST these very bytes under a key."""
    headers = {"Idempotency-Key": key, "Content-Type": "application/json"}
    return server.client.post(f"/api/v1{path}", content=body, headers=headers)


@contextmanager
def asked_at_once(server: Server, *paths: str, key: str) -> Iterator[list[Future[httpx.Response]]]:
    """As `ask` at each of the paths, all at the same time, waited for in threads."""
    with ThreadPoolExecutor(len(paths)) as pool:
        yield [pool.submit(ask, server, path, key) for path in paths]


def events_of(response: httpx.Response) -> list[Event]:
    """The events of a stream that has ended."""
    assert response.status_code == 200, response.text
    return parsed(response.content)


def heard(response: httpx.Response) -> Heard:
    """The reply in an answer of either form."""
    if response.headers["content-type"] == "application/json":
        assert response.status_code == 200, response.text
        answer = response.json()
        message = answer["message"] or {"message_id": None, "content": "", "status": "interrupted"}
        return Heard(answer["session_id"], message["message_id"], message["content"], message["status"])
    events = events_of(response)
    done = events[-1].data
    complete: dict[str, Any] = next((e.data for e in events if e.name == "message_complete"), {"message_id": None})
    assert response.headers["x-session-id"] == done["session_id"]
    return Heard(done["session_id"], complete["message_id"], joined(events), done["status"])


def refused(response: httpx.Response) -> tuple[int, str]:
    """Status and code of an error."""
    return told(response)[:2]


def messages_asked(standin: StandInThread) -> list[str]:
    """The last message of each chat that reached Ollama, in order."""
    return [request.json["messages"][-1]["content"] for request in standin.chats]


def keys_file(server: Server, scope: str) -> list[dict[str, Any]]:
    """What is kept of a scope's keys: a session's, or `server` for the forms without one."""
    kept = json.loads((server.sessions / ".mochi" / "keys" / f"{scope}.json").read_text())
    assert isinstance(kept, list)
    return kept


def write_keys(server: Server, scope: str, kept: list[dict[str, Any]]) -> None:
    """Put this in place of what is kept of a scope's keys."""
    (server.sessions / ".mochi" / "keys" / f"{scope}.json").write_text(json.dumps(kept))
