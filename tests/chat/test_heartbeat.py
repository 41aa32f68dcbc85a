"""A silent stream is kept alive by comment lines that no client takes for an event."""

from mochi_server.ollama.standin import Behaviour, Gate
from tests.chat.clients import parsed, raw_chat, read_events
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
