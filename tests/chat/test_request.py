"""What Ollama is asked: the history as it stands, and what the client and the session want of the reply."""

from typing import Any

import pytest

from mochi_server.ollama.standin import Behaviour
from tests.server import Server
from tests.standin_thread import StandInThread
from tests.tiny_models import ANSWER, HELLO

SAID = "".join(HELLO)


def last_request(standin: StandInThread) -> dict[str, Any]:
    request: dict[str, Any] = standin.chats[-1].json
    return request


def send(server: Server, session: str, **body: object) -> None:
    server.ok("POST", f"/chat/{session}", {"message": "hi", **body})


def test_a_plain_message_asks_for_a_stream_that_nothing_is_cut_from(server: Server, standin: StandInThread) -> None:
    send(server, server.new_session())

    request = last_request(standin)
    assert request.pop("stream", True) is True
    assert request == {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "truncate": False}


def test_the_whole_history_is_sent_the_system_prompt_first(server: Server, standin: StandInThread) -> None:
    session = server.new_session(system_prompt="Be kind.")

    for message in ("one", "two", "three"):
        server.ok("POST", f"/chat/{session}", {"message": message})

    assert last_request(standin)["messages"] == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": SAID},
        {"role": "user", "content": "two"},
        {"role": "assistant", "content": SAID},
        {"role": "user", "content": "three"},
    ]


def test_thinking_is_not_sent_back_in_later_turns(server: Server, standin: StandInThread) -> None:
    session = server.new_session(model="tiny-think")
    send(server, session, think=True)

    send(server, session, message="and?", think=True)

    assert last_request(standin)["messages"] == [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "".join(ANSWER)},
        {"role": "user", "content": "and?"},
    ]


def test_an_interrupted_reply_is_sent_back_as_it_stands(server: Server, standin: StandInThread) -> None:
    session = server.new_session()
    standin.script(Behaviour(pieces=("a", "b"), fault="error_line", after=2))
    server.error("POST", f"/chat/{session}", {"message": "hi"})

    send(server, session, message="and?")

    assert [m["content"] for m in last_request(standin)["messages"]] == ["hi", "ab", "and?"]


def test_a_requests_options_stand_over_the_sessions_for_that_turn(server: Server, standin: StandInThread) -> None:
    session = server.new_session(options={"temperature": 0.5, "seed": 1})

    send(server, session, options={"seed": 2, "top_k": 3})
    assert last_request(standin)["options"] == {"temperature": 0.5, "seed": 2, "top_k": 3}

    send(server, session)
    assert last_request(standin)["options"] == {"temperature": 0.5, "seed": 1}


def test_a_window_is_asked_for_only_where_one_was_fixed(server: Server, standin: StandInThread) -> None:
    session = server.new_session()
    server.ok("PATCH", f"/sessions/{session}", {"context_window_config": {"current_window": 2048}})
    send(server, session)
    assert "options" not in last_request(standin)

    server.ok("PATCH", f"/sessions/{session}", {"context_window_config": {"manual_override": True}})
    send(server, session)
    assert last_request(standin)["options"] == {"num_ctx": 2048}

    send(server, session, options={"num_ctx": 1024})
    assert last_request(standin)["options"] == {"num_ctx": 1024}


SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}


@pytest.mark.parametrize(
    ("model", "field", "value"),
    [
        ("tiny", "format", "json"),
        ("tiny", "format", SCHEMA),
        ("tiny", "keep_alive", "10m"),
        ("tiny", "keep_alive", -1),
        ("tiny", "keep_alive", 0),
        ("tiny", "keep_alive", 1.5),
        ("tiny", "think", False),
        *(("tiny-think", "think", value) for value in (True, False, "low", "medium", "high", "max")),
    ],
)
def test_what_is_asked_of_one_reply_reaches_ollama_as_it_is(
    server: Server, standin: StandInThread, model: str, field: str, value: object
) -> None:
    session = server.new_session(model=model)

    send(server, session, **{field: value})
    assert last_request(standin)[field] == value

    send(server, session)
    assert field not in last_request(standin)


def test_null_is_the_same_as_left_out(server: Server, standin: StandInThread) -> None:
    names = ("think", "options", "format", "images", "keep_alive", "on_disconnect", "history_limit")

    send(server, server.new_session(), **dict.fromkeys(names))

    assert set(last_request(standin)) - {"stream"} == {"model", "messages", "truncate"}


def test_a_limit_leaves_out_the_oldest_turns_and_says_so(server: Server, standin: StandInThread) -> None:
    session = server.new_session(system_prompt="Be kind.")
    for message in ("one", "two"):
        send(server, session, message=message)

    send(server, session, message="three", history_limit=3)

    assert [m["content"] for m in last_request(standin)["messages"]] == ["Be kind.", "two", SAID, "three"]
    context = server.file(session)["messages"][-1]["context"]
    assert (context["messages_sent"], context["messages_left_out"]) == (4, 2)


def test_a_new_model_holds_from_the_next_turn_on(server: Server, standin: StandInThread) -> None:
    session = server.new_session()
    send(server, session)

    server.ok("PATCH", f"/sessions/{session}", {"model": "tiny-unicode"})
    send(server, session, message="and?")

    assert last_request(standin)["model"] == "tiny-unicode"
    assert [m.get("model") for m in server.file(session)["messages"]] == [None, "tiny", None, "tiny-unicode"]


def test_an_edited_file_is_what_is_sent(server: Server, standin: StandInThread) -> None:
    session = server.new_session()
    send(server, session)
    file = server.sessions / f"{session}.json"
    file.write_text(file.read_text("utf-8").replace(SAID, "By hand."), "utf-8")

    send(server, session, message="and?")

    assert [m["content"] for m in last_request(standin)["messages"]] == ["hi", "By hand.", "and?"]
