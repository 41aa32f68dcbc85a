"""A silent stream is kept alive by comment lines that no client takes for an event."""

from pathlib import Path

import pytest

from mochi_server.ollama.standin import Behaviour, Gate
from tests.chat.clients import generating, idle, parsed, raw_chat, read_events
from tests.chat.listeners import listening
from tests.server import Server, joined, names
from tests.standin_thread import StandInThread
from tests.tiny_models import HELLO

ENVIRONMENT = {"MOCHI_HEARTBEAT_SECONDS": "0.05"}
SAID = "".join(HELLO)
LINE = b": keep-alive\n"


def test_comment_lines_come_before_the_first_token_and_between_tokens(server: Server, standin: StandInThread) -> None:
    session, gate = server.new_session(), Gate(0, 2)
    standin.script(Behaviour(gate=gate))

    with raw_chat(server, f"/chat/{session}/stream", {"message": "hi"}) as client:
        client.read_head()
        while client.answer.body.count(LINE) < 3:
            assert client.read_chunk()
        assert client.answer.body.startswith(b"retry: 1000\n: keep-alive\n")
        gate.open(0)
        read_events(client, 2)
        before = client.answer.body.count(LINE)
        while client.answer.body.count(LINE) < before + 3:
            assert client.read_chunk()
        gate.open()
        answer = client.read_rest()

    # `parsed` refuses a block that is comments alone.
    assert joined(parsed(answer.body)) == SAID


def test_a_reader_of_events_sees_no_empty_one(server: Server, standin: StandInThread) -> None:
    session = server.new_session()
    standin.script(Behaviour(delay=0.4))

    events = server.events(f"/chat/{session}/stream", {"message": "hi"})

    assert names(events) == ["content_delta", "message_complete", "done"]
    assert [event.id.rpartition("-")[2] for event in events] == [str(n) for n in range(1, len(events) + 1)]


def test_comment_lines_have_no_number_and_shift_none(server: Server, standin: StandInThread) -> None:
    session = server.new_session()
    standin.script(Behaviour(interval=0.06))

    with raw_chat(server, f"/chat/{session}/stream", {"message": "hi"}) as client:
        answer = client.read_rest()

    events = parsed(answer.body)
    assert answer.body.count(LINE) >= 1
    assert [event.id.rpartition("-")[2] for event in events] == [str(n) for n in range(1, len(events) + 1)]


def test_who_joins_a_silent_reply_is_kept_waiting_in_the_same_way(server: Server, standin: StandInThread) -> None:
    session, gate = server.new_session(), Gate(2)
    standin.script(Behaviour(gate=gate))

    with raw_chat(server, f"/chat/{session}/stream", {"message": "hi"}) as first:
        read_events(first, 2)
        with listening(server, session, f"{generating(server, session)}-2") as second:
            while second.answer.body.count(LINE) < 3:
                assert second.read_chunk()
            assert second.answer.body.startswith(b"retry: 1000\n: keep-alive\n")
            gate.open()
            rest = parsed(second.read_rest().body)

    assert joined(rest) == "".join(HELLO[2:])


def two_comments_are_due(server: Server, standin: StandInThread) -> None:
    """Wait until a silent stream that begins now has had them."""
    session, gate = server.new_session(), Gate()
    standin.script(Behaviour(gate=gate))
    with raw_chat(server, f"/chat/{session}/stream", {"message": "hi"}) as client:
        client.read_head()
        while client.answer.body.count(LINE) < 2:
            assert client.read_chunk()
        gate.open()
        client.read_rest()


@pytest.mark.parametrize("first", ["the comment", "the end"])
def test_where_a_comment_and_the_end_both_wait_for_who_reads_nothing_the_end_comes_last_and_whole(
    tmp_path: Path, standin: StandInThread, first: str
) -> None:
    environment = {"MOCHI_HEARTBEAT_SECONDS": "0.3", "MOCHI_MAX_REPLY_CHARS": "100000000"}
    with Server(tmp_path, standin.url, environment=environment) as server:
        session, gate = server.new_session(), Gate(1)
        large = "x" * 12_000_000  # more than the system holds for who does not read it
        standin.script(Behaviour(pieces=(large, "b", "c"), gate=gate))

        with raw_chat(server, f"/chat/{session}/stream", {"message": "hi"}) as deaf:
            deaf.read_head()
            if first == "the comment":
                generating(server, session)
                two_comments_are_due(server, standin)
            gate.open()
            idle(server, session)
            two_comments_are_due(server, standin)
            answer = deaf.read_rest()

        assert answer.whole
        assert joined(parsed(answer.body)) == large + "bc"
        assert [line for line in server.log_lines() if line["level"] != "info"] == []
