"""Answering anew: what is answered, what stands in its place meanwhile, and that nothing is lost."""

import json
from typing import Any

import pytest

from mochi_server.ollama.standin import Behaviour, Fault, Gate
from tests.chat.clients import asked, ending, generating, last_message
from tests.server import Server, joined, names
from tests.standin_thread import StandInThread
from tests.tiny_models import HELLO

SAID = "".join(HELLO)
FORMS = ("", "/stream")


@pytest.fixture
def session(server: Server, standin: StandInThread) -> str:
    """A session in which "hi" was answered with "old"."""
    session = server.new_session()
    standin.script(Behaviour(pieces=("old",)))
    server.ok("POST", f"/chat/{session}", {"message": "hi"})
    return session


def tree(server: Server, session: str) -> list[tuple[str, str]]:
    messages = server.ok("GET", f"/sessions/{session}/tree")["messages"]
    return sorted((m["role"], m["content"]) for m in messages)


def sent(standin: StandInThread) -> list[str]:
    return [m["content"] for m in standin.chats[-1].json["messages"]]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("body", [{"message": None}, {}])
def test_no_message_answers_the_last_one_anew(
    server: Server, standin: StandInThread, session: str, body: dict[str, Any], form: str
) -> None:
    server.call("POST", f"/chat/{session}{form}", body)

    assert sent(standin) == ["hi"]
    assert server.contents(session) == [("user", "hi"), ("assistant", SAID)]
    assert tree(server, session) == sorted([("user", "hi"), ("assistant", "old"), ("assistant", SAID)])
    question, reply = server.file(session)["messages"]
    assert reply["parent_id"] == question["message_id"]
    (old,) = server.file(session)["detached"]
    assert (old["content"], old["parent_id"]) == ("old", question["message_id"])


def test_the_old_reply_stands_until_the_new_ones_first_token(
    server: Server, standin: StandInThread, session: str
) -> None:
    gate = Gate(0, 1)
    standin.script(Behaviour(pieces=("new", "er"), gate=gate))

    with server.stream(f"/chat/{session}/stream", {"message": None}) as events:
        gate.wait(0)
        assert server.contents(session) == [("user", "hi"), ("assistant", "old")]
        gate.open(0)
        next(events)
        assert server.contents(session) == [("user", "hi")]
        shown = server.ok("GET", f"/sessions/{session}")
        assert [m["content"] for m in shown["messages"]] == ["hi"]
        assert shown["message_count"] == 1
        assert ("assistant", "old") in tree(server, session)
        assert [m["content"] for m in server.file(session)["messages"]] == ["hi", "old"]
        gate.open()
        assert [*events][-1].data["status"] == "complete"

    assert server.contents(session) == [("user", "hi"), ("assistant", "newer")]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("fault", ["status", "reset", "no_done"])
def test_a_new_reply_that_fails_before_its_first_token_leaves_the_old_one(
    server: Server, standin: StandInThread, session: str, fault: Fault, form: str
) -> None:
    before = server.file(session)
    standin.script(Behaviour(fault=fault))

    server.call("POST", f"/chat/{session}{form}", {"message": None})

    assert server.file(session) == before
    assert server.contents(session) == [("user", "hi"), ("assistant", "old")]


def test_a_new_reply_stopped_before_its_first_token_leaves_the_old_one(
    server: Server, standin: StandInThread, session: str
) -> None:
    gate, before = Gate(), server.file(session)
    standin.script(Behaviour(gate=gate))

    with server.stream(f"/chat/{session}/stream", {"message": None}) as events:
        gate.wait()
        assert server.ok("POST", f"/chat/{session}/stop")["message_id"] is None
        assert names([*events]) == ["done"]

    assert server.file(session) == before


def test_a_new_reply_broken_off_later_takes_the_old_ones_place(
    server: Server, standin: StandInThread, session: str
) -> None:
    standin.script(Behaviour(pieces=("n", "e"), fault="no_done", after=2))

    server.events(f"/chat/{session}/stream", {"message": None})

    assert ending(last_message(server, session)) == ("ne", "interrupted", "error")
    assert tree(server, session) == [("assistant", "ne"), ("assistant", "old"), ("user", "hi")]


def test_any_number_of_replies_stay_in_the_tree_and_each_can_be_gone_back_to(
    server: Server, standin: StandInThread, session: str
) -> None:
    for text in ("second", "third"):
        standin.script(Behaviour(pieces=(text,)))
        server.ok("POST", f"/chat/{session}", {"message": None})
    old = next(m for m in server.file(session)["detached"] if m["content"] == "old")

    server.ok("PUT", f"/sessions/{session}/head", {"message_id": old["message_id"]})
    server.ok("POST", f"/chat/{session}", {"message": "and?"})

    assert sent(standin) == ["hi", "old", "and?"]
    assert [content for _, content in server.contents(session)] == ["hi", "old", "and?", SAID]
    assert {content for _, content in tree(server, session)} == {"hi", "old", "second", "third", "and?", SAID}


def test_only_the_last_of_many_turns_is_answered_anew(server: Server, standin: StandInThread, session: str) -> None:
    server.ok("POST", f"/chat/{session}", {"message": "and?"})
    standin.script(Behaviour(pieces=("new",)))

    server.ok("POST", f"/chat/{session}", {"message": None})

    assert sent(standin) == ["hi", "old", "and?"]
    assert [content for _, content in server.contents(session)] == ["hi", "old", "and?", "new"]


@pytest.mark.parametrize("form", FORMS)
def test_the_same_message_while_unanswered_is_a_second_try(
    server: Server, standin: StandInThread, session: str, form: str
) -> None:
    standin.script(Behaviour(fault="status"), Behaviour(fault="status"))
    for _ in range(2):
        server.call("POST", f"/chat/{session}{form}", {"message": "and?"})
    asked_once = server.file(session)["messages"]

    server.call("POST", f"/chat/{session}{form}", {"message": "and?"})

    assert sent(standin) == ["hi", "old", "and?"]
    assert [m["content"] for m in server.file(session)["messages"]] == ["hi", "old", "and?", SAID]
    assert server.file(session)["messages"][:3] == asked_once
    assert server.file(session)["detached"] == []


def test_another_message_after_an_unanswered_one_is_added(server: Server, standin: StandInThread, session: str) -> None:
    standin.script(Behaviour(fault="status"))
    server.call("POST", f"/chat/{session}", {"message": "and?"})

    server.ok("POST", f"/chat/{session}", {"message": "and? "})

    assert sent(standin) == ["hi", "old", "and?", "and? "]


@pytest.mark.parametrize("fault", [None, "no_done"])
def test_the_same_message_once_answered_is_a_new_one(
    server: Server, standin: StandInThread, session: str, fault: Fault | None
) -> None:
    standin.script(Behaviour(pieces=("it is", " so"), fault=fault, after=1))
    server.call("POST", f"/chat/{session}", {"message": "and?"})
    reply = last_message(server, session)["content"]

    server.ok("POST", f"/chat/{session}", {"message": "and?"})

    assert sent(standin) == ["hi", "old", "and?", reply, "and?"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("prompt", [None, "Be kind."])
def test_where_nobody_has_asked_nothing_is_answered(
    server: Server, standin: StandInThread, prompt: str | None, form: str
) -> None:
    session, chats = server.new_session(system_prompt=prompt), len(standin.chats)

    assert server.error("POST", f"/chat/{session}{form}", {"message": None})[:2] == (400, "empty_history")
    assert len(standin.chats) == chats


@pytest.mark.parametrize("form", FORMS)
def test_one_call_without_a_message_makes_no_session(server: Server, form: str) -> None:
    before = [*server.sessions.glob("*.json")]

    assert server.error("POST", f"/chat{form}", {"model": "tiny"})[:2] == (400, "empty_history")

    assert [*server.sessions.glob("*.json")] == before


@pytest.mark.parametrize("form", FORMS)
def test_an_empty_message_does_not_regenerate(server: Server, session: str, form: str) -> None:
    before = server.file(session)

    assert server.error("POST", f"/chat/{session}{form}", {"message": ""})[:2] == (422, "validation_error")
    assert server.file(session) == before


def test_an_edited_message_is_answered_on_null(server: Server, standin: StandInThread, session: str) -> None:
    server.ok("POST", f"/chat/{session}", {"message": "and?"})

    server.ok("PUT", f"/sessions/{session}/messages/0", {"content": "hello"})
    assert server.contents(session) == [("user", "hello")]
    events = server.events(f"/chat/{session}/stream", {"message": None})

    assert sent(standin) == ["hello"]
    assert server.contents(session) == [("user", "hello"), ("assistant", joined(events))]
    assert {content for _, content in tree(server, session)} == {"hi", "old", "and?", "hello", SAID}


def test_an_edited_message_sent_once_more_is_a_second_try(server: Server, session: str) -> None:
    server.ok("PUT", f"/sessions/{session}/messages/0", {"content": "hello"})

    server.ok("POST", f"/chat/{session}", {"message": "hello"})

    assert server.contents(session) == [("user", "hello"), ("assistant", SAID)]


def test_after_a_truncate_the_reply_is_made_anew(server: Server, standin: StandInThread, session: str) -> None:
    server.ok("POST", f"/chat/{session}", {"message": "and?"})

    assert server.ok("DELETE", f"/sessions/{session}/messages/2") == {"session_id": session, "message_count": 2}
    server.ok("POST", f"/chat/{session}", {"message": None})

    assert sent(standin) == ["hi"]
    assert server.contents(session) == [("user", "hi"), ("assistant", SAID)]
    assert ("user", "and?") in tree(server, session)


def test_a_reply_to_a_question_taken_away_by_hand_is_kept_in_the_tree(
    server: Server, standin: StandInThread, session: str
) -> None:
    gate = Gate(1)
    standin.script(Behaviour(pieces=("and", " so"), gate=gate))

    with asked(server, (f"/chat/{session}", {"message": "and?"})) as (reply,):
        generating(server, session)
        file = server.sessions / f"{session}.json"
        by_hand = server.file(session)
        by_hand["detached"].append(by_hand["messages"].pop())
        by_hand["messages"][1]["content"] = "by hand"
        file.write_text(json.dumps(by_hand), "utf-8")
        gate.open()
        assert reply.result().status_code == 200

    assert [content for _, content in server.contents(session)] == ["hi", "by hand"]
    assert {"and?", "and so"} <= {content for _, content in tree(server, session)}
