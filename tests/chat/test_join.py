"""`GET /chat/{id}/stream` while the reply runs: who comes late or comes back hears all of it, and keeps it alive."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mochi_server.ollama.standin import Behaviour, Gate
from tests.chat.clients import (
    asked,
    ending,
    generating,
    idle,
    last_message,
    parsed,
    raw_chat,
    read_events,
)
from tests.chat.listeners import WAYS, frames, listening, noticed_leaving, status_behind, stream_of, told_again
from tests.raw_http import RawClient
from tests.server import Server, joined
from tests.standin_thread import StandInThread

ENVIRONMENT = {"MOCHI_DISCONNECT_GRACE": "3600"}
PIECES = ("a", "b", "c")


@pytest.fixture
def session(server: Server) -> str:
    return server.new_session()


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory, standin: StandInThread) -> Iterator[Server]:
    """A server that waits next to no time for a client to come back."""
    environment = {"MOCHI_DISCONNECT_GRACE": "0.1", "MOCHI_HEARTBEAT_SECONDS": "600"}
    with Server(tmp_path_factory.mktemp("hasty"), standin.url, environment=environment) as server:
        yield server


@contextmanager
def begun(server: Server, standin: StandInThread, session: str, gate: Gate, **body: object) -> Iterator[RawClient]:
    """A stream of which two pieces have come; the rest waits behind the gate."""
    standin.script(Behaviour(pieces=PIECES, gate=gate))
    with raw_chat(server, stream_of(session), {"message": "hi", **body}) as client:
        read_events(client, 2)
        yield client


def the_grace_is_over(server: Server, standin: StandInThread) -> None:
    """Wait until a reply that was left just now has been stopped: so have all that were left before."""
    session = server.new_session()
    with begun(server, standin, session, Gate(2)):
        pass
    idle(server, session)


def test_who_joins_hears_it_from_its_first_event_on(server: Server, standin: StandInThread, session: str) -> None:
    gate = Gate(2)
    with begun(server, standin, session, gate) as first, listening(server, session) as second:
        read_events(second, 2)
        gate.open()
        answers = [client.read_rest() for client in (first, second)]

    assert [answer.whole for answer in answers] == [True, True]
    assert answers[0].body == answers[1].body
    assert joined(parsed(answers[1].body)) == "abc" == last_message(server, session)["content"]


@pytest.mark.parametrize("way", WAYS)
def test_who_comes_back_hears_what_is_behind_the_last_event_it_has(
    server: Server, standin: StandInThread, session: str, way: str
) -> None:
    gate = Gate(2)
    with begun(server, standin, session, gate) as first:
        generation = generating(server, session)
        with (
            listening(server, session, f"{generation}-1", way) as second,
            listening(server, session, f"{generation}-2", way) as third,
        ):
            read_events(second, 1)
            gate.open()
            answers = [client.read_rest() for client in (first, second, third)]

    whole = frames(answers[0].body)
    assert frames(answers[1].body) == whole[1:]
    assert frames(answers[2].body) == whole[2:]


def test_who_joins_before_the_first_token_hears_it_too(server: Server, standin: StandInThread, session: str) -> None:
    gate = Gate()
    standin.script(Behaviour(pieces=PIECES, gate=gate))

    with raw_chat(server, stream_of(session), {"message": "hi"}) as first:
        gate.wait()
        with listening(server, session) as second:
            gate.open()
            assert second.read_rest().body == first.read_rest().body


def test_who_listens_while_the_question_is_still_being_saved_hears_its_reply(
    server: Server, standin: StandInThread
) -> None:
    for _ in range(5):
        session = server.new_session()
        standin.script(Behaviour(pieces=PIECES, delay=0.02))
        with raw_chat(server, stream_of(session), {"message": "hi"}) as first, listening(server, session) as second:
            assert second.read_rest().body == first.read_rest().body


def test_while_a_reply_is_made_anew_only_that_one_is_heard(
    server: Server, standin: StandInThread, session: str
) -> None:
    old = server.events(stream_of(session), {"message": "hi"})
    gate = Gate(2)

    with begun(server, standin, session, gate, message=None) as first, listening(server, session) as second:
        for event in (old[0], old[-1]):
            refused = server.error("GET", stream_of(session), Last_Event_ID=event.id)
            assert refused[:2] == (404, "no_generation")
        gate.open()
        assert second.read_rest().body == first.read_rest().body

    assert joined(parsed(told_again(server, session))) == "abc"


def test_who_comes_back_within_the_grace_hears_the_rest(server: Server, standin: StandInThread, session: str) -> None:
    gate = Gate(2)
    with begun(server, standin, session, gate):
        generation = generating(server, session)
    noticed_leaving(server, stream_of(session))

    with listening(server, session, f"{generation}-2") as client:
        gate.open()
        rest = parsed(client.read_rest().body)

    assert [event.id for event in rest] == [f"{generation}-{n}" for n in (3, 4, 5)]
    assert (joined(rest), rest[-1].data["status"]) == ("c", "complete")
    assert ending(last_message(server, session)) == ("abc", "complete", "stop")


def test_who_comes_back_ends_the_grace(tmp_path: Path, standin: StandInThread) -> None:
    with Server(tmp_path, standin.url, environment={"MOCHI_DISCONNECT_GRACE": "2"}) as server:
        session, gate = server.new_session(), Gate(2)
        with begun(server, standin, session, gate):
            pass
        noticed_leaving(server, stream_of(session))

        with listening(server, session) as client:
            the_grace_is_over(server, standin)
            gate.open()
            assert joined(parsed(client.read_rest().body)) == "abc"


def test_who_joins_keeps_a_reply_alive_and_leaving_it_starts_the_grace_again(
    hasty: Server, standin: StandInThread
) -> None:
    session, gate = hasty.new_session(), Gate(2)
    with begun(hasty, standin, session, gate) as first, listening(hasty, session) as second:
        first.leave()
        noticed_leaving(hasty, stream_of(session))
        the_grace_is_over(hasty, standin)
        read_events(second, 2)
        assert hasty.ok("GET", f"/sessions/{session}/status")["generation"]["phase"] == "generating"

    idle(hasty, session)
    assert ending(last_message(hasty, session)) == ("ab", "interrupted", "disconnected")
    events = parsed(told_again(hasty, session))
    assert (joined(events), events[-1].data["status"]) == ("ab", "interrupted")


def test_one_of_two_who_leaves_takes_nothing_from_the_other(hasty: Server, standin: StandInThread) -> None:
    session, gate = hasty.new_session(), Gate(2)
    with begun(hasty, standin, session, gate) as first:
        with listening(hasty, session) as second:
            read_events(second, 2)
        the_grace_is_over(hasty, standin)
        gate.open()

        assert joined(parsed(first.read_rest().body)) == "abc"


def test_the_whole_forms_client_may_leave_a_reply_to_who_joined_it(hasty: Server, standin: StandInThread) -> None:
    session, gate = hasty.new_session(), Gate(2)
    standin.script(Behaviour(pieces=PIECES, gate=gate))
    with raw_chat(hasty, f"/chat/{session}", {"message": "hi"}) as whole:
        generating(hasty, session)
        with listening(hasty, session) as client:
            whole.leave()
            noticed_leaving(hasty, f"/chat/{session}")
            the_grace_is_over(hasty, standin)
            gate.open()

            assert joined(parsed(client.read_rest().body)) == "abc"


def test_a_head_request_is_no_listener(hasty: Server, standin: StandInThread) -> None:
    session = hasty.new_session()
    with begun(hasty, standin, session, Gate(2)):
        assert hasty.call("HEAD", stream_of(session)).status_code == 200

    idle(hasty, session)
    assert ending(last_message(hasty, session)) == ("ab", "interrupted", "disconnected")


def test_a_change_waits_for_who_joined_and_supersedes_once_that_one_has_left(
    server: Server, standin: StandInThread, session: str
) -> None:
    with begun(server, standin, session, Gate(2)) as first, listening(server, session) as second:
        first.leave()
        noticed_leaving(server, stream_of(session))
        read_events(second, 2)
        assert server.error("DELETE", f"/sessions/{session}/messages/0")[:2] == (409, "session_busy")
    noticed_leaving(server, stream_of(session), times=2)

    server.ok("DELETE", f"/sessions/{session}/messages/0")

    (reply,) = [m for m in server.file(session)["detached"] if m["role"] == "assistant"]
    assert ending(reply) == ("ab", "interrupted", "superseded")


def test_a_deleted_session_ends_the_stream_of_who_joined_and_is_gone(
    server: Server, standin: StandInThread, session: str
) -> None:
    with begun(server, standin, session, Gate(2)) as first, listening(server, session) as second:
        read_events(second, 2)
        server.ok("DELETE", f"/sessions/{session}")
        answers = [client.read_rest() for client in (first, second)]

    assert answers[0].body == answers[1].body
    assert parsed(answers[1].body)[-1].data["status"] == "interrupted"
    assert server.error("GET", stream_of(session))[:2] == (404, "session_not_found")


def test_who_joins_can_stop_it_and_both_hear_the_same_end(server: Server, standin: StandInThread, session: str) -> None:
    with begun(server, standin, session, Gate(2)) as first, listening(server, session) as second:
        read_events(second, 2)
        stopped = server.ok("POST", f"/chat/{session}/stop")
        answers = [client.read_rest() for client in (first, second)]

    assert answers[0].body == answers[1].body == told_again(server, session)
    done = parsed(answers[1].body)[-1]
    assert (done.data["status"], done.data["generation_id"]) == ("interrupted", stopped["generation_id"])
    assert status_behind(server, session, done.id) == 204


def test_joining_while_a_second_request_is_refused_hears_the_running_reply(
    server: Server, standin: StandInThread, session: str
) -> None:
    gate = Gate(2)
    with begun(server, standin, session, gate) as first:
        with asked(server, (stream_of(session), {"message": "next"})) as (refused,):
            assert refused.result().status_code == 409
        with listening(server, session) as second:
            gate.open()
            assert second.read_rest().body == first.read_rest().body
