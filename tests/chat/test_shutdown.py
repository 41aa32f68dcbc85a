"""The server's end in mid-reply: asked for, every client gets its `done`; by force, nothing acknowledged is lost."""

import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import httpx
import pytest

from mochi_server.ollama.standin import Behaviour, Gate
from tests.chat.clients import asked, ending, generating, last_message, listens_no_more, parsed, raw_chat, read_events
from tests.server import LIMIT, Server, joined, names
from tests.standin_thread import StandInThread
from tests.tiny_models import HELLO

SAID = "".join(HELLO)
PIECES = ("a", "b", "c")
SIGNALS = [signal.SIGTERM, signal.SIGINT]


@pytest.fixture
def hurried(tmp_path: Path, standin: StandInThread) -> Iterator[Server]:
    """A server that ends running replies as soon as it is told to stop."""
    with Server(tmp_path, standin.url, environment={"MOCHI_SHUTDOWN_SECONDS": "1"}) as server:
        yield server


@pytest.fixture
def patient(tmp_path: Path, standin: StandInThread) -> Iterator[Server]:
    """A server that gives running replies longer than any test lasts."""
    with Server(tmp_path, standin.url, environment={"MOCHI_SHUTDOWN_SECONDS": "300"}) as server:
        yield server


@pytest.mark.parametrize("sig", SIGNALS)
def test_every_client_gets_its_end_and_what_came_is_kept(hurried: Server, standin: StandInThread, sig: int) -> None:
    streams, whole = [hurried.new_session() for _ in range(3)], hurried.new_session()
    standin.script(*[Behaviour(pieces=PIECES, gate=Gate(1))] * 4)

    with ExitStack() as stack:
        clients = [stack.enter_context(raw_chat(hurried, f"/chat/{s}/stream", {"message": "hi"})) for s in streams]
        for client in clients:
            read_events(client, 1)
        (reply,) = stack.enter_context(asked(hurried, (f"/chat/{whole}", {"message": "hi"})))
        generating(hurried, whole)

        hurried.process.send_signal(sig)
        answers = [client.read_rest() for client in clients]
        response = reply.result()
        assert hurried.process.wait(LIMIT) == 0

    for session, answer in zip(streams, answers, strict=True):
        events = parsed(answer.body)
        assert answer.whole
        assert names(events) == ["content_delta", "message_complete", "done"]
        assert events[-1].data["status"] == "interrupted"
        saved = last_message(hurried, session)
        assert (saved["message_id"], saved["content"]) == (events[-2].data["message_id"], joined(events))
        assert ending(saved) == ("a", "interrupted", "shutdown")
    assert response.status_code == 200
    assert response.json()["message"] == last_message(hurried, whole)
    assert ending(last_message(hurried, whole)) == ("a", "interrupted", "shutdown")
    standin.wait_until_idle()


@pytest.mark.parametrize("sig", SIGNALS)
def test_before_the_first_token_the_question_stays_and_the_stream_still_ends(
    hurried: Server, standin: StandInThread, sig: int
) -> None:
    session, gate = hurried.new_session(), Gate()
    standin.script(Behaviour(gate=gate))

    with raw_chat(hurried, f"/chat/{session}/stream", {"message": "hi"}) as client:
        gate.wait()
        hurried.process.send_signal(sig)
        error, done = parsed(client.read_rest().body)
        assert hurried.process.wait(LIMIT) == 0

    assert (error.name, error.data["code"]) == ("error", "shutting_down")
    assert (done.name, done.data["status"]) == ("done", "error")
    assert [m["content"] for m in hurried.file(session)["messages"]] == ["hi"]


@pytest.mark.parametrize("sig", SIGNALS)
def test_a_reply_that_ends_in_time_is_complete(patient: Server, standin: StandInThread, sig: int) -> None:
    session, gate = patient.new_session(), Gate(1)
    standin.script(Behaviour(pieces=PIECES, gate=gate, interval=0.3))

    with raw_chat(patient, f"/chat/{session}/stream", {"message": "hi"}) as client:
        read_events(client, 1)
        patient.process.send_signal(sig)
        listens_no_more(patient)
        gate.open()
        events = parsed(client.read_rest().body)
        assert patient.process.wait(LIMIT) == 0

    assert events[-1].data["status"] == "complete"
    assert ending(last_message(patient, session)) == ("abc", "complete", "stop")


def test_a_second_signal_does_not_wait_and_keeps_what_was_shown(patient: Server, standin: StandInThread) -> None:
    session = patient.new_session()
    standin.script(Behaviour(pieces=PIECES, gate=Gate(1)))

    with raw_chat(patient, f"/chat/{session}/stream", {"message": "hi"}) as client:
        read_events(client, 1)
        patient.process.send_signal(signal.SIGINT)
        listens_no_more(patient)
        assert patient.stop(signal.SIGINT) == 0

    assert ending(last_message(patient, session)) == (PIECES[0], "interrupted", "shutdown")
    patient.start()
    assert patient.ok("POST", f"/chat/{session}", {"message": None})["message"]["content"] == SAID


@pytest.mark.parametrize("sig", SIGNALS)
def test_a_second_signal_ends_streams_whole_and_leaves_no_stack_in_the_log(
    patient: Server, standin: StandInThread, sig: int
) -> None:
    streamed, whole = patient.new_session(), patient.new_session()
    standin.script(*[Behaviour(pieces=PIECES, gate=Gate(1))] * 2)

    with (
        raw_chat(patient, f"/chat/{streamed}/stream", {"message": "hi"}) as client,
        asked(patient, (f"/chat/{whole}", {"message": "hi"})) as (reply,),
    ):
        read_events(client, 1)
        generating(patient, whole)
        patient.process.send_signal(sig)
        listens_no_more(patient)
        patient.process.send_signal(sig)
        answer = client.read_rest()
        assert reply.result().json()["message"] == last_message(patient, whole)
        assert patient.process.wait(LIMIT) == 0

    assert answer.whole
    assert names(parsed(answer.body)) == ["content_delta", "message_complete", "done"]
    assert [ending(last_message(patient, s)) for s in (streamed, whole)] == [("a", "interrupted", "shutdown")] * 2
    assert [line for line in patient.log_lines() if line["level"] != "info"] == []


def test_a_second_signal_does_not_wait_for_a_reply_that_nobody_listens_to(
    patient: Server, standin: StandInThread
) -> None:
    session = patient.new_session()
    standin.script(Behaviour(pieces=PIECES, gate=Gate(1)))
    with raw_chat(patient, f"/chat/{session}/stream", {"message": "hi", "on_disconnect": "continue"}) as client:
        read_events(client, 1)

    patient.process.send_signal(signal.SIGINT)
    listens_no_more(patient)
    assert patient.stop(signal.SIGINT) == 0

    assert ending(last_message(patient, session)) == ("a", "interrupted", "shutdown")
    assert [line for line in patient.log_lines() if line["level"] != "info"] == []


def test_a_second_signal_does_not_wait_for_a_client_that_reads_nothing(tmp_path: Path, standin: StandInThread) -> None:
    environment = {"MOCHI_SHUTDOWN_SECONDS": "300", "MOCHI_MAX_REPLY_CHARS": "100000000"}
    with Server(tmp_path, standin.url, environment=environment) as server:
        session, gate = server.new_session(), Gate(20)
        standin.script(Behaviour(pieces=("x" * 1_000_000,) * 21, gate=gate))

        with raw_chat(server, f"/chat/{session}/stream", {"message": "hi"}):
            gate.wait(20)
            server.process.send_signal(signal.SIGINT)
            listens_no_more(server)
            assert server.stop(signal.SIGINT) == 0

    saved = last_message(server, session)
    assert (saved["status"], saved["done_reason"]) == ("interrupted", "shutdown")
    assert [line for line in server.log_lines() if line["level"] != "info"] == []


@pytest.mark.parametrize("sig", SIGNALS)
def test_idle_connections_hold_nothing_up(patient: Server, sig: int) -> None:
    address = ("127.0.0.1", patient.port)
    with (
        closing(socket.create_connection(address)) as never_used,
        closing(socket.create_connection(address)) as half_asked,
        httpx.Client(base_url=patient.url, trust_env=False) as kept_alive,
    ):
        half_asked.sendall(b"GET /health HTTP/1.1\r\nHo")
        assert never_used.fileno() >= 0
        assert kept_alive.get("/health").status_code == 200

        assert patient.stop(sig) == 0


def test_a_client_that_reads_nothing_holds_nothing_up_for_long(tmp_path: Path, standin: StandInThread) -> None:
    environment = {"MOCHI_SHUTDOWN_SECONDS": "1", "MOCHI_MAX_REPLY_CHARS": "100000000"}
    with Server(tmp_path, standin.url, environment=environment) as server:
        session, gate = server.new_session(), Gate(20)
        standin.script(Behaviour(pieces=("x" * 1_000_000,) * 21, gate=gate))

        with raw_chat(server, f"/chat/{session}/stream", {"message": "hi"}):
            gate.wait(20)
            assert server.stop() == 0

    saved = last_message(server, session)
    assert (saved["status"], saved["done_reason"]) == ("interrupted", "shutdown")


def test_a_reply_whose_client_has_left_is_kept_too(hurried: Server, standin: StandInThread) -> None:
    session = hurried.new_session()
    standin.script(Behaviour(pieces=PIECES, gate=Gate(1)))
    with raw_chat(hurried, f"/chat/{session}/stream", {"message": "hi", "on_disconnect": "continue"}) as client:
        read_events(client, 1)

    assert hurried.stop() == 0

    assert ending(last_message(hurried, session)) == ("a", "interrupted", "shutdown")


def test_after_a_stop_the_session_goes_on_where_it_was(hurried: Server, standin: StandInThread) -> None:
    session = hurried.new_session()
    standin.script(Behaviour(pieces=PIECES, gate=Gate(1)))
    with raw_chat(hurried, f"/chat/{session}/stream", {"message": "hi"}) as client:
        read_events(client, 1)
        assert hurried.stop() == 0

    hurried.start()
    hurried.ok("POST", f"/chat/{session}", {"message": "and?"})

    assert [content for _, content in hurried.contents(session)] == ["hi", "a", "and?", SAID]


@pytest.mark.parametrize("place", [0, 2])
def test_a_server_killed_in_mid_reply_has_the_question_and_works_again(
    patient: Server, standin: StandInThread, place: int
) -> None:
    session, gate = patient.new_session(), Gate(place)
    patient.ok("POST", f"/chat/{session}", {"message": "one"})
    standin.script(Behaviour(pieces=PIECES, gate=gate))

    with raw_chat(patient, f"/chat/{session}/stream", {"message": "two"}) as client:
        gate.wait(place)
        read_events(client, place)
        patient.kill()
    patient.start()

    assert patient.contents(session)[:3] == [("user", "one"), ("assistant", SAID), ("user", "two")]
    patient.ok("POST", f"/chat/{session}", {"message": None})
    assert [content for _, content in patient.contents(session)] == ["one", SAID, "two", SAID]


def test_a_server_that_was_stopped_leaves_no_warning_in_its_log(hurried: Server, standin: StandInThread) -> None:
    session = hurried.new_session()
    standin.script(Behaviour(pieces=PIECES, gate=Gate(1)))
    with raw_chat(hurried, f"/chat/{session}/stream", {"message": "hi"}) as client:
        read_events(client, 1)
        hurried.process.send_signal(signal.SIGTERM)
        client.read_rest()
        assert hurried.process.wait(LIMIT) == 0

    assert [line for line in hurried.log_lines() if line["level"] not in {"info", "debug"}] == []
