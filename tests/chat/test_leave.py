"""Clients that leave: whether their reply goes on, what is kept of it, and whose turn it is then."""

from collections.abc import Callable, Iterator
from concurrent.futures import as_completed
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from mochi_server.ollama.standin import Behaviour, Gate
from tests.chat.clients import (
    asked,
    ending,
    generating,
    idle,
    last_message,
    leave_with_a_reset,
    noticed_leaving,
    raw_chat,
    read_events,
)
from tests.raw_http import RawClient
from tests.server import LIMIT, Server, told
from tests.standin_thread import StandInThread
from tests.tiny_models import HELLO

ENVIRONMENT = {"MOCHI_DISCONNECT_GRACE": "3600"}
SAID = "".join(HELLO)
PIECES = ("a", "b", "c")


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory, standin: StandInThread) -> Iterator[Server]:
    """A server that waits next to no time for a client to come back."""
    environment = {"MOCHI_DISCONNECT_GRACE": "0.1"}
    with Server(tmp_path_factory.mktemp("hasty"), standin.url, environment=environment) as server:
        yield server


def left(server: Server, standin: StandInThread, gate: Gate, **body: object) -> str:
    """A session whose only listener has left, and the server knows, after two pieces."""
    session = server.new_session()
    standin.script(Behaviour(pieces=PIECES, gate=gate))
    path = f"/chat/{session}/stream"
    with raw_chat(server, path, {"message": "hi", **body}) as client:
        read_events(client, 2)
    noticed_leaving(server, path)
    return session


@pytest.mark.parametrize("leave", [RawClient.leave, leave_with_a_reset])
def test_a_reply_whose_client_stays_away_is_stopped_and_kept_as_far_as_it_came(
    hasty: Server, standin: StandInThread, leave: Callable[[RawClient], None]
) -> None:
    session, abandoned = hasty.new_session(), standin.abandoned
    standin.script(Behaviour(pieces=PIECES, gate=Gate(2)))

    with raw_chat(hasty, f"/chat/{session}/stream", {"message": "hi"}) as client:
        read_events(client, 2)
        leave(client)
        standin.wait_until(lambda s: s.abandoned == abandoned + 1)

    idle(hasty, session)
    assert ending(last_message(hasty, session)) == ("ab", "interrupted", "disconnected")


def test_a_client_that_leaves_before_the_first_token_leaves_only_its_question(
    hasty: Server, standin: StandInThread
) -> None:
    session, abandoned, gate = hasty.new_session(), standin.abandoned, Gate()
    standin.script(Behaviour(gate=gate))

    with raw_chat(hasty, f"/chat/{session}/stream", {"message": "hi"}):
        gate.wait()
    standin.wait_until(lambda s: s.abandoned == abandoned + 1)

    idle(hasty, session)
    assert hasty.contents(session) == [("user", "hi")]


def test_a_client_of_the_whole_form_that_leaves_is_one_that_stops_listening(
    hasty: Server, standin: StandInThread
) -> None:
    session, abandoned = hasty.new_session(), standin.abandoned
    standin.script(Behaviour(pieces=PIECES, gate=Gate(2)))

    with raw_chat(hasty, f"/chat/{session}", {"message": "hi"}):
        generating(hasty, session)
    standin.wait_until(lambda s: s.abandoned == abandoned + 1)

    idle(hasty, session)
    content, *how = ending(last_message(hasty, session))
    assert (content in {"a", "ab"}, how) == (True, ["interrupted", "disconnected"])


def test_a_reply_goes_on_through_the_grace(server: Server, standin: StandInThread) -> None:
    gate = Gate(2)
    session = left(server, standin, gate)

    gate.open()

    idle(server, session)
    assert ending(last_message(server, session)) == ("abc", "complete", "stop")


@pytest.mark.parametrize("form", ["", "/stream"])
def test_a_reply_that_is_to_continue_outlives_its_client(hasty: Server, standin: StandInThread, form: str) -> None:
    gate, session = Gate(2), hasty.new_session()
    standin.script(Behaviour(pieces=PIECES, gate=gate))
    path = f"/chat/{session}{form}"
    with raw_chat(hasty, path, {"message": "hi", "on_disconnect": "continue"}):
        gate.wait(2)
    noticed_leaving(hasty, path)

    # One that left later, and is not to continue, has been stopped: so the first one's grace is over too.
    later = left(hasty, standin, Gate(2))
    idle(hasty, later)
    gate.open()

    idle(hasty, session)
    assert ending(last_message(hasty, session)) == ("abc", "complete", "stop")


def test_the_setting_says_what_becomes_of_a_reply_where_the_request_does_not(
    tmp_path: Path, standin: StandInThread
) -> None:
    environment = {"MOCHI_DISCONNECT_GRACE": "0", "MOCHI_ON_DISCONNECT": "continue"}
    with Server(tmp_path, standin.url, environment=environment) as server:
        gate = Gate(2)
        going_on = left(server, standin, gate)
        ended = left(server, standin, gate, on_disconnect="cancel")
        idle(server, ended)
        gate.open()
        idle(server, going_on)

        assert ending(last_message(server, ended)) == ("ab", "interrupted", "disconnected")
        assert ending(last_message(server, going_on)) == ("abc", "complete", "stop")


CHANGES: dict[str, tuple[str, str, Any]] = {
    "send": ("POST", "/chat/{}", {"message": "next"}),
    "stream": ("POST", "/chat/{}/stream", {"message": "next"}),
    "regenerate": ("POST", "/chat/{}", {"message": None}),
    "edit": ("PUT", "/sessions/{}/messages/0", {"content": "edited"}),
    "truncate": ("DELETE", "/sessions/{}/messages/0", None),
    "system prompt": ("PUT", "/sessions/{}/system-prompt", {"content": "Be kind."}),
}
AFTER = {
    "send": ["hi", "ab", "next", SAID],
    "stream": ["hi", "ab", "next", SAID],
    "regenerate": ["hi", SAID],
    "edit": ["edited"],
    "truncate": [],
    "system prompt": ["Be kind.", "hi", "ab"],
}


@pytest.mark.parametrize("change", CHANGES)
def test_whoever_changes_the_history_of_an_abandoned_session_ends_its_reply(
    server: Server, standin: StandInThread, change: str
) -> None:
    method, path, body = CHANGES[change]
    session, abandoned = left(server, standin, Gate(2)), standin.abandoned

    response = server.call(method, path.format(session), body)

    assert response.status_code == 200
    standin.wait_until(lambda s: s.abandoned == abandoned + 1)
    assert [content for _, content in server.contents(session)] == AFTER[change]
    tree = server.ok("GET", f"/sessions/{session}/tree")["messages"]
    assert [ending(m) for m in tree if m["content"] == "ab"] == [("ab", "interrupted", "superseded")]


def test_the_head_moves_once_an_abandoned_reply_has_ended(server: Server, standin: StandInThread) -> None:
    session = left(server, standin, Gate(2))
    question = server.file(session)["messages"][0]["message_id"]

    shown = server.ok("PUT", f"/sessions/{session}/head", {"message_id": question})

    assert [m["content"] for m in shown["messages"]] == ["hi", "ab"]


@pytest.mark.parametrize("change", CHANGES)
def test_a_reply_that_is_listened_to_is_not_disturbed(server: Server, standin: StandInThread, change: str) -> None:
    method, path, body = CHANGES[change]
    session, gate = server.new_session(), Gate(2)
    standin.script(Behaviour(pieces=PIECES, gate=gate))

    with server.stream(f"/chat/{session}/stream", {"message": "hi"}) as events:
        generation = next(events).id.rpartition("-")[0]
        status, code, details = server.error(method, path.format(session), body)
        assert (status, code, details["generation_id"]) == (409, "session_busy", generation)
        gate.open()
        assert [*events][-1].data["status"] == "complete"

    assert server.contents(session) == [("user", "hi"), ("assistant", "abc")]


def test_a_reply_that_is_to_continue_is_not_ended_by_a_change(server: Server, standin: StandInThread) -> None:
    gate = Gate(2)
    session = left(server, standin, gate, on_disconnect="continue")

    assert server.error("POST", f"/chat/{session}", {"message": "next"})[:2] == (409, "session_busy")

    gate.open()
    idle(server, session)
    assert ending(last_message(server, session)) == ("abc", "complete", "stop")


def test_the_metadata_may_change_meanwhile_and_both_are_kept(server: Server, standin: StandInThread) -> None:
    session, gate = server.new_session(), Gate(2)
    standin.script(Behaviour(pieces=PIECES, gate=gate))

    with server.stream(f"/chat/{session}/stream", {"message": "hi"}) as events:
        next(events)
        server.ok("PATCH", f"/sessions/{session}", {"title": "Ours", "model": "tiny-unicode", "options": {"seed": 1}})
        gate.open()
        assert [*events][-1].data["status"] == "complete"

    file = server.file(session)
    assert (file["metadata"]["title"], file["metadata"]["model"]) == ("Ours", "tiny-unicode")
    assert [m["content"] for m in file["messages"]] == ["hi", "abc"]
    assert file["messages"][-1]["model"] == "tiny"


def test_replies_in_other_sessions_run_at_the_same_time(server: Server, standin: StandInThread) -> None:
    gate, sessions = Gate(1), [server.new_session() for _ in range(4)]
    standin.script(*[Behaviour(gate=gate)] * 4)

    with asked(server, *[(f"/chat/{session}", {"message": session}) for session in sessions]) as replies:
        gate.wait(1, replies=4)
        gate.open()
        assert [reply.result().status_code for reply in replies] == [200] * 4

    for session in sessions:
        assert server.contents(session) == [("user", session), ("assistant", SAID)]


@pytest.mark.parametrize("form", ["", "/stream"] * 4)
def test_of_many_sends_at_once_exactly_one_is_answered(server: Server, standin: StandInThread, form: str) -> None:
    session, gate, chats = server.new_session(), Gate(), len(standin.chats)
    standin.script(Behaviour(gate=gate))
    messages = [f"number {n}" for n in range(6)]

    with asked(server, *[(f"/chat/{session}{form}", {"message": message}) for message in messages]) as replies:
        try:
            gate.wait()
            generation = server.ok("GET", f"/sessions/{session}/status")["generation"]["generation_id"]
            refused = [*islice(as_completed(replies, LIMIT), 5)]  # the sixth waits at the gate
        finally:
            gate.open()
        answered = [reply.result() for reply in replies if reply not in refused]

    assert {(told(r.result())[:2], told(r.result())[2]["generation_id"]) for r in refused} == {
        ((409, "session_busy"), generation)
    }
    assert [response.status_code for response in answered] == [200]
    assert len(standin.chats) == chats + 1
    (winner,) = [message for message, reply in zip(messages, replies, strict=True) if reply not in refused]
    assert server.contents(session) == [("user", winner), ("assistant", SAID)]
    assert len(server.ok("GET", f"/sessions/{session}/tree")["messages"]) == 2
