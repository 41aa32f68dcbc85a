"""`Idempotency-Key`: whoever sends a request again joins the reply of the first one, in whatever form and state."""

import json
from collections.abc import Callable
from contextlib import ExitStack
from itertools import product

import pytest

from mochi_server.ollama.standin import Behaviour, Gate
from tests.chat.clients import ending, idle, last_message, noticed_leaving
from tests.chat.keyed import (
    IN_A_SESSION,
    ONE_CALL,
    QUESTION,
    ask,
    ask_raw,
    asked_at_once,
    events_of,
    heard,
    messages_asked,
    new_key,
    refused,
)
from tests.server import Server, joined, names, told
from tests.standin_thread import StandInThread
from tests.tiny_models import HELLO

SAID = "".join(HELLO)
PIECES = ("a", "b", "c")
PAIRS = [*product(IN_A_SESSION, IN_A_SESSION)]
ENVIRONMENT = {"MOCHI_DISCONNECT_GRACE": "3600", "MOCHI_MAX_CONCURRENT": "30"}


def pieces(text: str) -> Behaviour:
    return Behaviour(pieces=tuple(text))


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_a_repeat_in_either_form_is_the_same_reply(
    server: Server, standin: StandInThread, first: str, second: str
) -> None:
    session, key, chats = server.new_session(), new_key(), len(standin.chats)

    one = heard(ask(server, IN_A_SESSION[first].format(session), key))
    two = heard(ask(server, IN_A_SESSION[second].format(session), key))

    assert one == two
    assert one.message_id == last_message(server, session)["message_id"]
    assert len(standin.chats) == chats + 1
    assert server.contents(session) == [("user", QUESTION), ("assistant", SAID)]


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_a_repeat_without_a_session_makes_no_second_one(
    server: Server, standin: StandInThread, first: str, second: str
) -> None:
    key, chats, sessions = new_key(), len(standin.chats), server.ok("GET", "/sessions")["total"]

    one = heard(ask(server, ONE_CALL[first], key, model="tiny"))
    two = heard(ask(server, ONE_CALL[second], key, model="tiny"))

    assert one == two
    assert len(standin.chats) == chats + 1
    assert server.ok("GET", "/sessions")["total"] == sessions + 1


@pytest.mark.parametrize("forms", [IN_A_SESSION, ONE_CALL], ids=["in a session", "in one call"])
def test_twenty_at_the_same_time_are_one_reply(server: Server, standin: StandInThread, forms: dict[str, str]) -> None:
    session, chats, gate = server.new_session(), len(standin.chats), Gate(1)
    sessions = server.ok("GET", "/sessions")["total"]
    standin.script(Behaviour(gate=gate))
    paths = [form.format(session) for form in forms.values()] * 10

    with asked_at_once(server, *paths, key=new_key()) as replies:
        gate.wait(1)
        gate.open()
        answers = {heard(reply.result()) for reply in replies}

    assert len(standin.chats) == chats + 1
    ((where, message_id, text, status),) = answers
    assert (text, status) == (SAID, "complete")
    assert message_id == last_message(server, where)["message_id"]
    assert server.contents(where) == [("user", QUESTION), ("assistant", SAID)]
    assert server.ok("GET", "/sessions")["total"] == sessions + (forms is ONE_CALL)


def test_many_keys_at_the_same_time_are_all_kept(server: Server, standin: StandInThread) -> None:
    keys = [new_key() for _ in range(30)]
    with ExitStack() as stack:
        replies = [stack.enter_context(asked_at_once(server, "/chat", key=key))[0] for key in keys]
        first = [heard(reply.result()) for reply in replies]
    chats = len(standin.chats)

    again = [heard(ask(server, "/chat", key)) for key in keys]

    assert again == first
    assert len({one.session for one in first}) == len(keys)
    assert len(standin.chats) == chats


def test_a_running_reply_is_joined_from_its_first_event_on(server: Server, standin: StandInThread) -> None:
    session, key, gate = server.new_session(), new_key(), Gate(2)
    standin.script(Behaviour(pieces=PIECES, gate=gate))
    path = IN_A_SESSION["stream"].format(session)

    with (
        server.stream(path, {"message": QUESTION}, idempotency_key=key) as first,
        server.stream(path, {"message": QUESTION}, idempotency_key=key) as second,
    ):
        so_far = [[next(events), next(events)] for events in (first, second)]
        assert so_far[0] == so_far[1]
        gate.open()
        one, two = [*so_far[0], *first], [*so_far[1], *second]

    assert one == two
    assert joined(one) == "abc"


def test_who_has_left_finds_the_running_reply_again(server: Server, standin: StandInThread) -> None:
    session, key, gate, abandoned = server.new_session(), new_key(), Gate(2), standin.abandoned
    standin.script(Behaviour(pieces=PIECES, gate=gate))
    path = IN_A_SESSION["stream"].format(session)
    with server.stream(path, {"message": QUESTION}, idempotency_key=key) as events:
        next(events)
    noticed_leaving(server, path)

    with server.stream(path, {"message": QUESTION}, idempotency_key=key) as events:
        next(events)
        gate.open()
        assert [*events][-1].data["status"] == "complete"

    assert standin.abandoned == abandoned
    assert ending(last_message(server, session)) == ("abc", "complete", "stop")


@pytest.mark.parametrize("forms", [IN_A_SESSION, ONE_CALL], ids=["in a session", "in one call"])
def test_an_ended_reply_is_told_once_more_event_by_event(server: Server, forms: dict[str, str]) -> None:
    path, key = forms["stream"].format(server.new_session()), new_key()

    first, second = (events_of(ask(server, path, key)) for _ in range(2))

    assert first == second
    assert len(first) == len(HELLO) + 2


def test_an_ended_reply_that_is_not_the_last_is_told_from_its_message(server: Server, standin: StandInThread) -> None:
    session, key, chats = server.new_session(model="tiny-think"), new_key(), len(standin.chats)
    path = IN_A_SESSION["stream"].format(session)
    first = events_of(ask(server, path, key, think=True))
    server.ok("POST", f"/chat/{session}", {"message": "and?"})

    second = events_of(ask(server, path, key, think=True))

    assert names(second) == ["thinking_delta", "content_delta", "message_complete", "done"]
    assert len(second) == 4
    assert second[-2:] == [e._replace(id=f"{e.id.partition('-')[0]}-{n}") for n, e in enumerate(first[-2:], 3)]
    assert [joined(second, kind) for kind in ("thinking_delta", "content_delta")] == [
        joined(first, kind) for kind in ("thinking_delta", "content_delta")
    ]
    assert heard(ask(server, IN_A_SESSION["whole"].format(session), key, think=True)).text == joined(first)
    assert len(standin.chats) == chats + 2


def test_a_reply_that_is_off_the_active_path_is_still_the_one(server: Server, standin: StandInThread) -> None:
    session, key = server.new_session(), new_key()
    first = heard(ask(server, f"/chat/{session}", key))
    server.ok("PUT", f"/sessions/{session}/messages/0", {"content": "Something else"})
    server.ok("POST", f"/chat/{session}", {"message": None})
    chats = len(standin.chats)

    assert heard(ask(server, f"/chat/{session}", key)) == first
    assert len(standin.chats) == chats
    assert server.contents(session) == [("user", "Something else"), ("assistant", SAID)]


@pytest.mark.parametrize(
    ("behaviour", "status", "code", "kept"),
    [
        (Behaviour(fault="status", status=500, error="llama runner has terminated"), 502, "ollama_error", 1),
        (Behaviour(fault="status", status=400, error="no such thing"), 400, "ollama_rejected", 1),
        (Behaviour(pieces=("one", "two"), fault="no_done", after=1), 502, "ollama_error", 2),
    ],
    ids=["before its first token", "refused by Ollama", "in mid-reply"],
)
def test_a_reply_that_failed_has_failed_for_its_repeats_too(
    server: Server, standin: StandInThread, behaviour: Behaviour, status: int, code: str, kept: int
) -> None:
    session, key, chats = server.new_session(), new_key(), len(standin.chats)
    standin.script(behaviour)

    whole = [told(ask(server, f"/chat/{session}", key)) for _ in range(2)]
    streamed = events_of(ask(server, f"/chat/{session}/stream", key))

    assert whole[0] == whole[1]
    assert whole[0][:2] == (status, code)
    assert names(streamed)[-2:] == ["error", "done"]
    assert (streamed[-2].data["code"], streamed[-2].data["details"]) == (code, whole[0][2])
    assert len(standin.chats) == chats + 1
    assert len(server.contents(session)) == kept


@pytest.mark.parametrize("place", [0, 2])
def test_a_reply_that_was_stopped_is_told_as_far_as_it_came(server: Server, standin: StandInThread, place: int) -> None:
    session, key, gate = server.new_session(), new_key(), Gate(place)
    standin.script(Behaviour(pieces=PIECES, gate=gate))
    paths = [form.format(session) for form in IN_A_SESSION.values()]
    with server.stream(paths[1], {"message": QUESTION}, idempotency_key=key) as events:
        gate.wait(place)
        for _ in range(place):
            next(events)
        message_id = server.ok("POST", f"/chat/{session}/stop")["message_id"]
    chats = len(standin.chats)

    for path in paths:
        assert heard(ask(server, path, key)) == (session, message_id, "abc"[:place], "interrupted")
    assert len(standin.chats) == chats


def test_a_reply_that_is_gone_has_expired(server: Server, standin: StandInThread) -> None:
    session, key = server.new_session(), new_key()
    standin.script(Behaviour(fault="status"))
    assert refused(ask(server, f"/chat/{session}", key)) == (502, "ollama_error")
    server.ok("POST", f"/chat/{session}", {"message": "another"})
    chats = len(standin.chats)

    for path in IN_A_SESSION.values():
        assert refused(ask(server, path.format(session), key)) == (409, "idempotency_expired")
    assert len(standin.chats) == chats


def test_the_reply_of_a_deleted_session_is_gone(server: Server, standin: StandInThread) -> None:
    session, key = server.new_session(), new_key()
    ask(server, f"/chat/{session}", key)
    made = heard(ask(server, "/chat", key)).session
    chats = len(standin.chats)
    for one in (session, made):
        server.ok("DELETE", f"/sessions/{one}")

    assert refused(ask(server, f"/chat/{session}", key)) == (404, "session_not_found")
    for path in ONE_CALL.values():
        assert refused(ask(server, path, key)) == (409, "idempotency_expired")
    assert len(standin.chats) == chats
    assert not (server.sessions / ".mochi" / "keys" / f"{session}.json").exists()


def test_a_key_of_a_deleted_session_is_unknown_in_a_new_one_of_its_id(server: Server) -> None:
    session, key = server.new_session(), new_key()
    ask(server, f"/chat/{session}", key)
    server.ok("DELETE", f"/sessions/{session}")
    server.new_session(session_id=session)

    assert heard(ask(server, f"/chat/{session}", key, message="other words")).text == SAID


@pytest.mark.parametrize(
    "body",
    [{"message": "Other words"}, {"message": None}, {"think": False}, {"options": {"seed": 1}}, {"keep_alive": "1m"}],
    ids=str,
)
def test_another_body_is_a_mismatch(server: Server, standin: StandInThread, body: dict[str, object]) -> None:
    session, key, gate, chats = server.new_session(), new_key(), Gate(1), len(standin.chats)
    standin.script(Behaviour(gate=gate))

    with asked_at_once(server, f"/chat/{session}", key=key) as (reply,):
        gate.wait(1)
        assert refused(ask(server, f"/chat/{session}/stream", key, **body)) == (422, "idempotency_mismatch")
        gate.open()
        first = heard(reply.result())
    assert refused(ask(server, f"/chat/{session}", key, **body)) == (422, "idempotency_mismatch")

    assert heard(ask(server, f"/chat/{session}", key)) == first
    assert len(standin.chats) == chats + 1


FORMAT = {"type": "object", "properties": {"b": {"type": "string"}, "a": {"type": "number"}}}
BODY = {"message": "Grüße\u2028", "format": FORMAT, "options": {"seed": 1, "temperature": 1}, "think": False}
SAME: dict[str, Callable[[dict[str, object]], str]] = {
    "other order": lambda body: json.dumps(body, sort_keys=True),
    "white space": lambda body: json.dumps(body, indent=4),
    "no escapes": lambda body: json.dumps(body, ensure_ascii=False, separators=(",", ":")),
    "null for absent": lambda body: json.dumps({**body, "keep_alive": None, "images": None, "history_limit": None}),
    "1.0 for 1": lambda body: json.dumps(body).replace('"temperature": 1', '"temperature": 1.0'),
}


@pytest.mark.parametrize("write", SAME.values(), ids=SAME)
def test_the_same_said_in_other_json_is_the_same_body(
    server: Server, standin: StandInThread, write: Callable[[dict[str, object]], str]
) -> None:
    path, key, chats = f"/chat/{server.new_session()}", new_key(), len(standin.chats)
    first = heard(ask_raw(server, path, key, json.dumps(BODY).encode()))

    assert heard(ask_raw(server, path, key, write(BODY).encode())) == first
    assert len(standin.chats) == chats + 1


def test_a_key_counts_in_its_own_session_only(server: Server, standin: StandInThread) -> None:
    key, chats = new_key(), len(standin.chats)
    paths = [f"/chat/{server.new_session()}", f"/chat/{server.new_session()}", "/chat"]

    replies = [heard(ask(server, path, key, message=path)) for path in paths]

    assert messages_asked(standin)[chats:] == paths
    assert len({reply.session for reply in replies}) == 3


def test_another_key_is_another_request(server: Server) -> None:
    session = server.new_session()

    for _ in range(2):
        ask(server, f"/chat/{session}", new_key())

    assert server.contents(session) == [("user", QUESTION), ("assistant", SAID)] * 2


def test_a_repeated_revision_is_the_one_of_before_and_still_joins(server: Server, standin: StandInThread) -> None:
    session, key, chats = server.new_session(), new_key(), len(standin.chats)
    sent = {"if_match": server.call("GET", f"/sessions/{session}").headers["etag"], "idempotency_key": key}

    replies = [heard(server.call("POST", f"/chat/{session}", {"message": "hi"}, **sent)) for _ in range(2)]

    assert replies[0] == replies[1]
    assert len(standin.chats) == chats + 1


@pytest.mark.parametrize("path", [*IN_A_SESSION.values(), *ONE_CALL.values()])
def test_a_repeat_needs_no_ollama(server: Server, standin: StandInThread, path: str) -> None:
    path, key = path.format(server.new_session()), new_key()
    first = heard(ask(server, path, key))

    standin.close()
    try:
        assert heard(ask(server, path, key)) == first
    finally:
        standin.start()


@pytest.mark.parametrize("form", IN_A_SESSION.values())
def test_without_a_key_an_unanswered_message_is_answered_and_not_added_twice(
    server: Server, standin: StandInThread, form: str
) -> None:
    session = server.new_session()
    standin.script(Behaviour(fault="status"))
    assert refused(server.call("POST", f"/chat/{session}", {"message": "hi"})) == (502, "ollama_error")

    assert heard(server.call("POST", form.format(session), {"message": "hi"})).text == SAID

    assert server.contents(session) == [("user", "hi"), ("assistant", SAID)]
    idle(server, session)
    server.ok("POST", f"/chat/{session}", {"message": "hi"})
    assert server.contents(session) == [("user", "hi"), ("assistant", SAID)] * 2
