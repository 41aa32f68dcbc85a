"""The order of system calls: an answer is sent when what it acknowledges is on the disk, an event when it is kept."""

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mochi_server.ollama.standin import Behaviour
from tests.crash.traced import Call, CannotTrace, Trace, traced
from tests.server import Server, joined
from tests.standin_thread import StandInThread

PIECES = tuple(f"piece-{number} " for number in range(8))


@contextmanager
def watched(server: Server, tmp_path: Path) -> Iterator[Trace]:
    """The server's system calls, or no test where they cannot be seen."""
    try:
        with traced(server, tmp_path / "trace") as trace:
            yield trace
    except CannotTrace as error:
        pytest.skip(str(error))


def test_a_new_session_is_acknowledged_when_file_name_and_folder_are_durable(server: Server, tmp_path: Path) -> None:
    session = secrets.token_hex(5)

    with watched(server, tmp_path) as trace:
        server.new_session(session_id=session)

    put = trace.first(lambda call: call.puts(server.sessions / f"{session}.json"))
    check_that_it_was_durable_before(trace, server, session, put, sending("HTTP/1.1 201"))


def test_an_edit_is_acknowledged_when_file_name_and_folder_are_durable(server: Server, tmp_path: Path) -> None:
    session = server.new_session()
    server.ok("POST", f"/chat/{session}", {"message": "as it was"})

    with watched(server, tmp_path) as trace:
        server.ok("PUT", f"/sessions/{session}/messages/0", {"content": "as it should be"})

    put = trace.first(lambda call: call.puts(server.sessions / f"{session}.json"))
    assert trace.first(writing(".tmp", "as it should be")).ended < put.began
    check_that_it_was_durable_before(trace, server, session, put, sending("HTTP/1.1 200"))


def test_a_deleted_session_is_gone_durably_before_that_is_acknowledged(server: Server, tmp_path: Path) -> None:
    session = server.new_session()

    with watched(server, tmp_path) as trace:
        server.ok("DELETE", f"/sessions/{session}")

    unlinked = trace.first(lambda call: call.name.startswith("unlink") and f"{session}.json" in call.text)
    synced = trace.first(lambda call: call.syncs(str(server.sessions)), after=unlinked)
    trace.first(sending("HTTP/1.1 204"), after=synced)
    assert answers(trace) == 1


def test_of_a_reply_question_events_and_message_are_kept_before_they_go_out(
    server: Server, standin: StandInThread, tmp_path: Path
) -> None:
    session = server.new_session()
    file = server.sessions / f"{session}.json"
    standin.script(Behaviour(pieces=PIECES, interval=0.02))

    with watched(server, tmp_path) as trace:
        events = server.events(f"/chat/{session}/stream", {"message": "what I ask"})

    assert joined(events) == "".join(PIECES)
    question = trace.first(lambda call: call.puts(file))
    asked = trace.first(sending("POST /api/chat"))
    check_that_it_was_durable_before(trace, server, session, question, lambda call: call == asked)
    for piece in PIECES:
        kept, sent = trace.first(writing(f"{session}.running", piece)), trace.first(sending(piece))
        assert kept.ended < sent.began, f"{piece} went out before it was kept"
    saved = trace.first(lambda call: call.puts(file), after=question)
    check_that_it_was_durable_before(trace, server, session, saved, sending("event: message_complete"))


def check_that_it_was_durable_before(
    trace: Trace, server: Server, session: str, put: Call, answer: Callable[[Call], bool]
) -> None:
    """Write, sync, put at its name, sync the folder; and only then the answer."""
    (temporary,) = {part for part in put.text.split('"') if part.endswith(".tmp")}
    name = Path(temporary).name
    writes = [call for call in trace.calls if call.writes(name)]
    assert writes, f"nothing is written to {name}"
    assert any(session in call.text for call in writes)
    synced = trace.first(lambda call: call.syncs(name))
    assert max(call.ended for call in writes) < synced.began, "it was written to after it was synced"
    assert synced.ended < put.began, "it was put at its name before it was synced"
    folder = trace.first(lambda call: call.syncs(str(server.sessions)), after=put)
    answered = trace.first(answer)
    assert folder.ended < answered.began, "the answer went out before the folder was synced"


def writing(file: str, said: str) -> Callable[[Call], bool]:
    """A call that writes this to a file whose path ends so."""
    return lambda call: call.writes(file, said)


def sending(said: str) -> Callable[[Call], bool]:
    """A call that sends this over a connection."""
    return lambda call: call.sends(said)


def answers(trace: Trace) -> int:
    """How many answers went out."""
    return sum(call.sends("HTTP/1.1 ") for call in trace.calls)
