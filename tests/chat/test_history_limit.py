"""A limit that is seen: whole turns are left out, oldest first, where somebody asked for it."""

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from mochi_server.ollama.standin import StandIn
from tests.server import Server
from tests.standin_thread import StandInThread
from tests.tiny_models import HELLO, LOOP, tiny_models

USUAL, LENGTH = 1024, 8192
SAID = "".join(HELLO)


@pytest.fixture(scope="module")
def standin() -> Iterator[StandInThread]:
    models = [msgspec.structs.replace(model, context_length=LENGTH) for model in tiny_models()]
    with StandInThread(StandIn(models, window=USUAL)) as standin:
        yield standin


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, standin: StandInThread) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("limits"), standin.url) as server:
        yield server


def reply_to(server: Server, session: str, message: str | None, **body: object) -> dict[str, Any]:
    message_saved: dict[str, Any] = server.ok("POST", f"/chat/{session}", {"message": message, **body})["message"]
    return message_saved


def last_sent(standin: StandInThread) -> list[str]:
    return [message["content"] for message in standin.chats[-1].json["messages"]]


def test_a_number_of_messages_keeps_the_newest_whole_turns_and_the_system_prompt(
    server: Server, standin: StandInThread
) -> None:
    session = server.new_session(system_prompt="Be kind.", history_limit=3)
    for message in ("one", "two", "three"):
        reply = reply_to(server, session, message)

    assert last_sent(standin) == ["Be kind.", "two", SAID, "three"]
    assert reply["context"] == {"window": USUAL, "messages_sent": 4, "messages_left_out": 2}
    # A request's own stands over the session's; the newest message is never left out.
    reply = reply_to(server, session, "four", history_limit=1)
    assert last_sent(standin) == ["Be kind.", "four"]
    assert reply["context"]["messages_left_out"] == 6
    assert len(server.contents(session)) == 9


@pytest.mark.parametrize("fixed", [None, 512])
def test_to_fit_leaves_out_what_the_window_cannot_hold_and_loads_nothing_anew(
    server: Server, standin: StandInThread, fixed: int | None
) -> None:
    options = {} if fixed is None else {"num_ctx": fixed}
    session = server.new_session(system_prompt="Be kind.", history_limit="fit", options=options)
    reply_to(server, session, "hi")
    loads, left_out = len(standin.standin.loads), []

    for turn in range(12):
        reply = reply_to(server, session, f"{turn} " + "x" * 150)
        sent = last_sent(standin)
        assert (sent[0], sent[-1]) == ("Be kind.", f"{turn} " + "x" * 150)
        assert sent[1] == "hi" or sent[1].endswith("x")  # a turn begins with its question
        assert reply["context"]["messages_sent"] == len(sent)
        assert reply["context"]["messages_sent"] + reply["context"]["messages_left_out"] == 2 * turn + 4
        left_out.append(reply["context"]["messages_left_out"])

    assert left_out == sorted(left_out)
    assert left_out[0] == 0 < left_out[-1]
    assert len(standin.standin.loads) == loads
    window = server.ok("GET", f"/sessions/{session}/status")["context_window"]
    assert window["remaining_tokens"] > 0


def test_to_fit_makes_the_window_larger_only_for_a_message_that_alone_needs_it(
    server: Server, standin: StandInThread
) -> None:
    session, words = server.new_session(model="tiny-json"), "".join(LOOP[10:100])  # a token is four characters here
    for turn in range(9):
        assert reply_to(server, session, f"{turn}{words}", history_limit="fit")["context"]["window"] == USUAL

    reply = reply_to(server, session, words * 11, history_limit="fit")

    assert (reply["context"]["window"], last_sent(standin)[-1]) == (2048, words * 11)
    assert 0 < reply["context"]["messages_left_out"] < 18


def test_to_fit_after_a_refusal_sends_less(server: Server, standin: StandInThread) -> None:
    session = server.new_session(model="tiny-unicode", history_limit="fit", options={"num_ctx": 2048})
    for turn in range(4):
        reply_to(server, session, f"{turn} " + "x" * 300)
    server.ok("PATCH", f"/sessions/{session}", {"options": {"num_ctx": 1024}, "model": "tiny-think"})
    before = len(standin.chats)

    # Nothing was ever counted of this model, whose tokens are four times what is estimated.
    reply = reply_to(server, session, "z" * 300)

    assert len(standin.chats) == before + 2
    assert reply["status"] == "complete"
    assert reply["context"]["messages_left_out"] > 0
    assert last_sent(standin)[-1] == "z" * 300


def test_a_limit_leaves_no_half_of_a_tool_exchange(server: Server, standin: StandInThread) -> None:
    session = server.new_session(model="tiny-tools", history_limit=4)
    file = server.file(session)
    call = {"function": {"name": "get_weather", "arguments": {"city": "Paris"}}}
    said: list[dict[str, Any]] = [
        {"role": "user", "content": "before"},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": "weather?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "sunny", "tool_name": "get_weather"},
        {"role": "assistant", "content": "It is sunny."},
    ]
    file["messages"] = [
        {**message, "message_id": f"{place:010x}", "timestamp": "2026-01-31T09:00:00.000000Z"}
        for place, message in enumerate(said)
    ]
    (server.sessions / f"{session}.json").write_bytes(msgspec.json.encode(file))

    reply = reply_to(server, session, "thanks", history_limit=4)
    assert (last_sent(standin), reply["context"]["messages_left_out"]) == (["thanks"], 6)
    reply = reply_to(server, session, None, history_limit=5)
    assert last_sent(standin) == ["weather?", "", "sunny", "It is sunny.", "thanks"]
    assert reply["context"]["messages_left_out"] == 2
