"""Requests that change a session, their answers in one form, and what must hold after one, however it went."""

import itertools
import json
from collections.abc import Callable
from typing import Any, NamedTuple

import httpx

from tests.chat.clients import parsed
from tests.server import Event, Server, told

STATUSES = {"storage_full": 507, "storage_unavailable": 503}
"""What the error table says."""

_numbers = itertools.count()


class Answer(NamedTuple):
    """How a request was answered: an error in a stream is one with the table's status."""

    status: int
    code: str = ""
    session_id: str = ""

    @property
    def served(self) -> bool:
        return self.code == ""


def answer(response: httpx.Response) -> Answer:
    """The answer, checked for the form of errors and of streams."""
    session_id = response.headers.get("x-session-id", "")
    if not response.is_success:
        status, code, _ = told(response)
        return Answer(status, code, session_id)
    if response.headers.get("content-type", "").startswith("text/event-stream"):
        return _streamed(parsed(response.content), session_id)
    return Answer(response.status_code, "", session_id)


def _streamed(events: list[Event], session_id: str) -> Answer:
    names = [event.name for event in events]
    assert names[-1] == "done"
    assert names.count("done") == names.count("error") + names.count("message_complete") == 1
    if "error" not in names:
        return Answer(200, "", session_id)
    code = events[-2].data["code"]
    assert events[-1].data["status"] == "error"
    return Answer(STATUSES[code], code, session_id)


def talk(server: Server) -> str:
    """A new session of two branches, read by the server already; its title and messages name it."""
    session = f"{next(_numbers):010x}"
    user, edited, reply = (
        {"message_id": f"{number:010x}", "parent_id": parent, "timestamp": f"2026-01-01T00:00:0{number}.000000Z"}
        for number, parent in ((1, None), (2, None), (3, f"{2:010x}"))
    )
    content = {
        "metadata": {
            "session_id": session,
            "model": "tiny",
            "title": f"Title of {session}",
            "created_at": "2026-01-01T00:00:00.000000Z",
            "updated_at": "2026-01-01T00:00:03.000000Z",
            "format_version": "2.0",
        },
        "messages": [
            {"role": "system", "content": "Be kind.", "message_id": f"{4:010x}", "timestamp": "2026-01-01T00:00:00Z"},
            {"role": "user", "content": f"About {session}", **edited},
            {"role": "assistant", "content": "Yes.", **reply},
        ],
        "detached": [{"role": "user", "content": "Another thing", **user}],
    }
    server.sessions.joinpath(f"{session}.json").write_text(json.dumps(content, indent=2), "utf-8")
    server.ok("GET", f"/sessions/{session}")
    return session


def _create(server: Server, session: str) -> httpx.Response:
    return server.call("POST", "/sessions", {"model": "tiny", "session_id": session, "title": f"Title of {session}"})


def _edit(server: Server, session: str) -> httpx.Response:
    return server.call("PUT", f"/sessions/{session}/messages/1", {"content": f"Not about {session}"})


def _truncate(server: Server, session: str) -> httpx.Response:
    return server.call("DELETE", f"/sessions/{session}/messages/1")


def _rename(server: Server, session: str) -> httpx.Response:
    return server.call("PATCH", f"/sessions/{session}", {"title": f"New title of {session}"})


def _prompt(server: Server, session: str) -> httpx.Response:
    return server.call("PUT", f"/sessions/{session}/system-prompt", {"content": "Be brief."})


def _head(server: Server, session: str) -> httpx.Response:
    return server.call("PUT", f"/sessions/{session}/head", {"message_id": f"{1:010x}"})


def _delete(server: Server, session: str) -> httpx.Response:
    return server.call("DELETE", f"/sessions/{session}")


def _stream(server: Server, session: str) -> httpx.Response:
    return server.call("POST", f"/chat/{session}/stream", {"message": "And?"})


def _whole(server: Server, session: str) -> httpx.Response:
    return server.call("POST", f"/chat/{session}", {"message": "And?"})


def _regenerate(server: Server, session: str) -> httpx.Response:
    return server.call("POST", f"/chat/{session}/stream", {"message": None})


def _first(server: Server, _: str) -> httpx.Response:
    return server.call("POST", "/chat", {"message": "Hi", "model": "tiny"})


def _first_stream(server: Server, _: str) -> httpx.Response:
    return server.call("POST", "/chat/stream", {"message": "Hi", "model": "tiny"})


REQUESTS: dict[str, Callable[[Server, str], httpx.Response]] = {
    request.__name__[1:]: request
    for request in (
        *(_create, _edit, _truncate, _rename, _prompt, _head, _delete),
        *(_stream, _whole, _regenerate, _first, _first_stream),
    )
}
REWRITING = ("edit", "truncate", "rename", "prompt", "head")
ASKING = ("stream", "whole")
FIRST = ("first", "first_stream")
MAKING = ("create", *FIRST)


def ask(server: Server, request: str, session: str) -> Answer:
    """The answer to the request."""
    return answer(REQUESTS[request](server, session))


def state(server: Server, session: str) -> bytes | None:
    """The session's file, which is whole; None where there is none."""
    path = server.sessions / f"{session}.json"
    if not path.exists():
        return None
    data = path.read_bytes()
    content = json.loads(data)
    assert content["metadata"]["session_id"] == session
    assert content["metadata"].get("message_count") in {None, len(content["messages"])}
    return data


def sessions(server: Server) -> set[str]:
    """The ids of all session files."""
    return {path.stem for path in server.sessions.glob("*.json")}


def check_shown(server: Server, session: str) -> None:
    """The session is read, listed and found as its file has it."""
    data = state(server, session)
    listed = {s["session_id"]: s for s in server.ok("GET", "/sessions")["sessions"]}
    found = [s["session_id"] for s in server.ok("GET", f"/sessions?q=itle of {session}")["sessions"]]
    if data is None:
        assert server.error("GET", f"/sessions/{session}")[:2] == (404, "session_not_found")
        assert session not in listed
        assert found == []
        return
    content: dict[str, Any] = json.loads(data)
    shown = server.ok("GET", f"/sessions/{session}")
    assert [m["content"] for m in shown["messages"]] == [m["content"] for m in content["messages"]]
    assert shown["title"] == content["metadata"]["title"] == listed[session]["title"]
    assert shown["message_count"] == listed[session]["message_count"] == len(content["messages"])
    assert found == [session]


def leftovers(server: Server) -> list[str]:
    """Half-written files, and journals that are not ended."""
    inner = server.sessions / ".mochi"
    return sorted(path.name for pattern in ("*.tmp", "journals/*.running") for path in inner.glob(pattern))
