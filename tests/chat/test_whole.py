"""The whole reply in one answer: the same turn as a stream's, told at its end."""

import pytest

from mochi_server.ollama.standin import Behaviour
from tests.server import Server, joined
from tests.standin_thread import StandInThread
from tests.tiny_models import ANSWER, HELLO, THINKING

SAID = "".join(HELLO)
KEYS = {"session_id", "message", "tool_calls_executed", "context_window"}
MOMENTARY = {"message_id", "parent_id", "timestamp", "stats"}


def test_the_whole_reply_is_the_saved_message(server: Server) -> None:
    session = server.new_session()

    answer = server.ok("POST", f"/chat/{session}", {"message": "hi"})

    assert set(answer) == KEYS
    assert answer["session_id"] == session
    assert answer["tool_calls_executed"] == []
    assert answer["message"] == server.file(session)["messages"][-1]
    assert answer["message"] == server.ok("GET", f"/sessions/{session}/messages")["messages"][-1]


def test_both_forms_make_the_same_message(server: Server) -> None:
    streamed, whole = (server.new_session(model="tiny-think") for _ in range(2))
    body = {"message": "hi", "think": True, "options": {"seed": 1}}

    events = server.events(f"/chat/{streamed}/stream", body)
    answer = server.ok("POST", f"/chat/{whole}", body)

    saved = server.file(streamed)["messages"][-1]
    assert {**saved, **dict.fromkeys(MOMENTARY)} == {**answer["message"], **dict.fromkeys(MOMENTARY)}
    assert (answer["message"]["content"], answer["message"]["thinking"]) == ("".join(ANSWER), "".join(THINKING))
    assert answer["context_window"] == events[-2].data["context_window"]
    assert set(saved["stats"]) == set(answer["message"]["stats"])


def test_the_reply_says_what_it_was_made_from(server: Server) -> None:
    session = server.new_session(options={"temperature": 0.5}, system_prompt="Be kind.")

    message = server.ok("POST", f"/chat/{session}", {"message": "hi", "options": {"num_ctx": 2048}})["message"]

    assert message["options"] == {"temperature": 0.5, "num_ctx": 2048}
    assert message["context"] == {"window": 2048, "messages_sent": 2, "messages_left_out": 0}
    assert message["parent_id"] == server.file(session)["messages"][1]["message_id"]
    assert len(message["model_digest"]) == 64


def test_one_call_makes_a_session_and_answers_in_it(server: Server) -> None:
    response = server.call("POST", "/chat", {"message": "hi", "model": "tiny", "system_prompt": "Be kind."})

    answer = response.json()
    session = answer["session_id"]
    assert response.headers["x-session-id"] == session
    assert set(answer) == KEYS
    assert server.contents(session) == [("system", "Be kind."), ("user", "hi"), ("assistant", SAID)]
    assert server.ok("GET", f"/sessions/{session}")["model"] == "tiny"


def test_one_call_without_a_model_takes_the_newest(server: Server) -> None:
    answer = server.ok("POST", "/chat", {"message": "hi"})

    assert answer["message"]["model"] == "tiny-tools:latest"


def test_a_session_made_in_one_call_goes_on_like_any_other(server: Server, standin: StandInThread) -> None:
    session = server.ok("POST", "/chat", {"message": "one", "model": "tiny"})["session_id"]

    server.ok("POST", f"/chat/{session}", {"message": "two"})

    assert [m["content"] for m in standin.chats[-1].json["messages"]] == ["one", SAID, "two"]


@pytest.mark.parametrize("form", ["", "/stream"])
def test_a_failed_reply_in_one_call_still_names_its_session(server: Server, standin: StandInThread, form: str) -> None:
    standin.script(Behaviour(fault="status"))

    response = server.call("POST", f"/chat{form}", {"message": "hi", "model": "tiny"})

    session = response.headers["x-session-id"]
    assert server.contents(session) == [("user", "hi")]


REFUSED = {
    "nothing to answer in a misspelt field": ({"mesage": "hi"}, 422, "validation_error", "$.mesage"),
    "an empty message": ({"message": ""}, 422, "validation_error", "$.message"),
    "a message that is no text": ({"message": 7}, 422, "validation_error", "$.message"),
    "an unknown option": ({"message": "hi", "options": {"heat": 1}}, 422, "validation_error", "$.options.heat"),
    "an option of another type": (
        {"message": "hi", "options": {"seed": "x"}},
        422,
        "validation_error",
        "$.options.seed",
    ),
    "an unknown level of thinking": ({"message": "hi", "think": "lots"}, 422, "validation_error", "$.think"),
    "a format that is none": ({"message": "hi", "format": "xml"}, 422, "validation_error", "$.format"),
    "an unknown way to leave": ({"message": "hi", "on_disconnect": "?"}, 422, "validation_error", "$.on_disconnect"),
    "a history of none": ({"message": "hi", "history_limit": 0}, 422, "validation_error", "$.history_limit"),
}


@pytest.mark.parametrize("form", ["", "/stream"])
@pytest.mark.parametrize(("body", "status", "code", "path"), REFUSED.values(), ids=REFUSED)
def test_a_wrong_request_is_refused_and_leaves_no_trace(
    server: Server, standin: StandInThread, body: object, status: int, code: str, path: str, form: str
) -> None:
    session, sessions, chats = server.new_session(), len([*server.sessions.glob("*.json")]), len(standin.chats)

    assert server.error("POST", f"/chat/{session}{form}", body) == (status, code, {"path": path})
    assert server.error("POST", f"/chat{form}", body) == (status, code, {"path": path})

    assert server.contents(session) == []
    assert len([*server.sessions.glob("*.json")]) == sessions
    assert len(standin.chats) == chats


@pytest.mark.parametrize("form", ["", "/stream"])
def test_a_session_that_is_not_there_is_not_found(server: Server, form: str) -> None:
    for session in ("0123456789", "..%5c..%5cetc", "ABCDEF0123", "0123456789a"):
        assert server.error("POST", f"/chat/{session}{form}", {"message": "hi"})[:2] == (404, "session_not_found")


@pytest.mark.parametrize("form", ["", "/stream"])
@pytest.mark.parametrize("body", [b"", b"{", b'{"message": "\xff"}', b"[" * 100_000])
def test_a_body_that_is_no_json_is_refused(server: Server, form: str, body: bytes) -> None:
    session = server.new_session()

    response = server.client.post(
        f"/api/v1/chat/{session}{form}", content=body, headers={"content-type": "application/json"}
    )

    assert (response.status_code, response.json()["detail"]["error"]["code"]) == (400, "invalid_json")
    assert server.contents(session) == []


@pytest.mark.parametrize("form", ["", "/stream"])
def test_thinking_is_refused_where_the_model_cannot(server: Server, standin: StandInThread, form: str) -> None:
    session, chats = server.new_session(), len(standin.chats)

    status, code, details = server.error("POST", f"/chat/{session}{form}", {"message": "hi", "think": True})

    assert (status, code, details["capability"]) == (400, "capability_missing", "thinking")
    assert server.contents(session) == []
    assert len(standin.chats) == chats


@pytest.mark.parametrize("form", ["", "/stream"])
def test_a_model_that_ollama_does_not_have_makes_no_session(server: Server, form: str) -> None:
    before = [*server.sessions.glob("*.json")]

    status, code, details = server.error("POST", f"/chat{form}", {"message": "hi", "model": "nope"})

    assert (status, code) == (400, "model_not_found")
    assert "tiny:latest" in details["available"]
    assert [*server.sessions.glob("*.json")] == before


def test_the_text_of_a_whole_reply_is_that_of_the_stream(server: Server) -> None:
    session = server.new_session(model="tiny-unicode")

    streamed = joined(server.events(f"/chat/{session}/stream", {"message": "hi"}))

    assert server.ok("POST", f"/chat/{session}", {"message": None})["message"]["content"] == streamed
