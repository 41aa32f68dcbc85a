"""`GET /chat/{id}/stream` for a reply that has ended: the same events once more, from wherever the client is."""

import pytest

from mochi_server.ollama.standin import Behaviour, Gate
from tests.chat.clients import asked, generating, last_message, parsed, raw_chat, read_events
from tests.chat.listeners import WAYS, frames, heard, listening, status_behind, stream_of, told_again
from tests.server import Server, joined, names
from tests.standin_thread import StandInThread
from tests.tiny_models import ANSWER, HELLO, THINKING

SAID = "".join(HELLO)
ODD = ("a\u2028b", "\u2029", "\x85", "data: x\n\n", "\r\n", "\x00", "\N{ROCKET}", "\ufeff", '"\\', "id: 1\n")
NOT_IDS = (
    *("", "x", "1970cc586e", "1970cc586e-", "1970cc586e-0", "1970cc586e-01", "1970cc586e--1", "1970CC586E-1"),
    *("1970cc586e-1x", "1970cc586e-1.0", "1970cc586e-99999999999", "%00", "0970cc586e1-1", "x" * 4000),
)


@pytest.fixture
def session(server: Server) -> str:
    return server.new_session()


def sent(server: Server, session: str, **body: object) -> bytes:
    """The bytes of a reply as who asked for it got them."""
    with raw_chat(server, stream_of(session), {"message": "hi", **body}) as client:
        return client.read_rest().body


def test_a_reply_is_told_again_byte_for_byte(server: Server, session: str) -> None:
    first = sent(server, session)

    assert told_again(server, session) == first
    assert told_again(server, session) == first


@pytest.mark.parametrize("way", WAYS)
def test_behind_each_event_exactly_the_rest_is_told(server: Server, way: str) -> None:
    session = server.new_session(model="tiny-think")
    first = sent(server, session, think=True)
    events, all_frames = parsed(first), frames(first)

    for number, event in enumerate(events[:-1], 1):
        assert frames(told_again(server, session, event.id, way)) == all_frames[number:]


@pytest.mark.parametrize("way", WAYS)
def test_behind_done_there_is_nothing_more_to_come(server: Server, session: str, way: str) -> None:
    done = parsed(sent(server, session))[-1]

    assert status_behind(server, session, done.id, way) == 204


def test_the_header_wins_over_the_parameter(server: Server, session: str) -> None:
    events = parsed(sent(server, session))
    path = f"{stream_of(session)}?after={events[0].id}"

    response = server.call("GET", path, Last_Event_ID=events[4].id)
    assert parsed(response.content) == events[5:]
    assert server.call("GET", path, Last_Event_ID=events[-1].id).status_code == 204
    assert server.error("GET", path, Last_Event_ID="x")[:2] == (422, "validation_error")


def test_the_headers_are_those_of_any_stream_and_name_the_session_and_its_revision(
    server: Server, session: str
) -> None:
    sent(server, session)

    response = server.call("GET", stream_of(session), x_correlation_id="mine.1")

    assert response.headers["content-type"] == "text/event-stream"
    assert response.headers.get_list("cache-control") == ["no-store"]
    assert response.headers.get_list("x-accel-buffering") == ["no"]
    assert response.headers["x-correlation-id"] == "mine.1"
    assert response.headers["x-session-id"] == session
    assert response.headers["etag"] == f'"{server.file(session)["metadata"]["revision"]}"'


def test_head_has_the_same_headers_and_no_body(server: Server, session: str) -> None:
    done = parsed(sent(server, session))[-1]
    ours = {"x-correlation-id": "mine.1"}

    get, head = (server.call(method, stream_of(session), **ours) for method in ("GET", "HEAD"))

    assert (head.status_code, head.content) == (200, b"")
    told = [{**answer.headers, "date": ""} for answer in (get, head)]
    assert told[0].pop("transfer-encoding") == "chunked"
    assert told[1] == told[0]
    assert server.call("HEAD", stream_of(session), Last_Event_ID=done.id).status_code == 204


def test_an_event_of_an_earlier_reply_is_of_no_use_any_more(server: Server, session: str) -> None:
    first = parsed(sent(server, session))
    second = sent(server, session)

    for event in first:
        status, code, details = server.error("GET", stream_of(session), Last_Event_ID=event.id)
        assert (status, code, details["session_id"]) == (404, "no_generation", session)
    assert told_again(server, session) == second


def test_an_event_of_another_sessions_reply_is_none_of_this_one(server: Server, session: str) -> None:
    sent(server, session)
    other = parsed(sent(server, server.new_session()))

    for event in (other[0], other[-1]):
        path = f"{stream_of(session)}?after={event.id}"
        assert server.error("GET", path)[:2] == (404, "no_generation")


def test_without_any_reply_there_is_nothing_to_hear(server: Server, session: str) -> None:
    assert server.error("GET", stream_of(session))[:2] == (404, "no_generation")
    assert server.error("GET", stream_of(session), Last_Event_ID="1970cc586e-1")[:2] == (404, "no_generation")


@pytest.mark.parametrize("session_id", ["0123456789", "x", "..", "ABCDEF0123"])
def test_without_the_session_there_is_nothing_to_hear(server: Server, session_id: str) -> None:
    assert server.error("GET", stream_of(session_id))[0] == 404


def test_a_deleted_session_takes_its_reply_along_even_when_its_id_is_used_again(server: Server, session: str) -> None:
    event = parsed(sent(server, session))[0]
    server.ok("DELETE", f"/sessions/{session}")

    assert server.error("GET", stream_of(session))[:2] == (404, "session_not_found")
    server.new_session(session_id=session)
    assert server.error("GET", stream_of(session))[:2] == (404, "no_generation")
    assert server.error("GET", stream_of(session), Last_Event_ID=event.id)[:2] == (404, "no_generation")


@pytest.mark.parametrize("text", NOT_IDS)
def test_what_is_no_events_id_is_refused_naming_where_it_stood(server: Server, session: str, text: str) -> None:
    sent(server, session)

    header = server.error("GET", stream_of(session), Last_Event_ID=text)
    parameter = server.error("GET", f"{stream_of(session)}?after={text}")

    assert header == (422, "validation_error", {"path": "Last-Event-ID"})
    assert parameter == (422, "validation_error", {"path": "after"})


@pytest.mark.parametrize("beyond", [1, 2, 1_000_000])
def test_an_event_that_there_never_was_is_refused_naming_where_it_stood(
    server: Server, session: str, beyond: int
) -> None:
    generation, _, number = parsed(sent(server, session))[-1].id.partition("-")
    text = f"{generation}-{int(number) + beyond}"

    header = server.error("GET", stream_of(session), Last_Event_ID=text)
    parameter = server.error("GET", f"{stream_of(session)}?after={text}")

    assert header == (422, "validation_error", {"path": "Last-Event-ID"})
    assert parameter == (422, "validation_error", {"path": "after"})


def test_an_event_that_is_still_to_come_is_refused(server: Server, standin: StandInThread, session: str) -> None:
    gate = Gate(2)
    standin.script(Behaviour(gate=gate))
    with raw_chat(server, stream_of(session), {"message": "hi"}) as client:
        read_events(client, 2)
        generation = generating(server, session)

        refused = server.error("GET", stream_of(session), Last_Event_ID=f"{generation}-3")

        assert refused == (422, "validation_error", {"path": "Last-Event-ID"})
        gate.open()
        client.read_rest()


def test_a_reply_that_failed_fails_again_in_the_same_words(
    server: Server, standin: StandInThread, session: str
) -> None:
    standin.script(Behaviour(pieces=("a", "b"), fault="error_line", after=1))
    first = sent(server, session)

    assert names(parsed(first)) == ["content_delta", "error", "done"]
    assert told_again(server, session) == first
    assert status_behind(server, session, parsed(first)[-1].id) == 204


def test_a_reply_that_was_stopped_before_its_first_token_is_told_as_one(
    server: Server, standin: StandInThread, session: str
) -> None:
    gate = Gate()
    standin.script(Behaviour(gate=gate))
    with raw_chat(server, stream_of(session), {"message": "hi"}) as client:
        gate.wait()
        server.ok("POST", f"/chat/{session}/stop")
        first = client.read_rest().body

    (done,) = parsed(first)
    assert (done.name, done.data["status"]) == ("done", "interrupted")
    assert told_again(server, session) == first
    assert status_behind(server, session, done.id) == 204


def test_thinking_is_told_again_apart(server: Server) -> None:
    session = server.new_session(model="tiny-think")
    sent(server, session, think=True)

    events = heard(server, session)

    assert (joined(events, "thinking_delta"), joined(events)) == ("".join(THINKING), "".join(ANSWER))


def test_odd_text_is_told_again_to_the_letter_from_any_event_on(
    server: Server, standin: StandInThread, session: str
) -> None:
    standin.script(Behaviour(pieces=ODD))
    first = sent(server, session)

    assert joined(parsed(first)) == "".join(ODD) == last_message(server, session)["content"]
    for number, event in enumerate(parsed(first)[:-1], 1):
        assert frames(told_again(server, session, event.id)) == frames(first)[number:]


@pytest.mark.parametrize("fault", [None, "status"])
def test_a_reply_made_anew_takes_the_old_ones_place_however_it_ends(
    server: Server, standin: StandInThread, session: str, fault: str | None
) -> None:
    old = parsed(sent(server, session))
    standin.script(Behaviour(fault="status") if fault else Behaviour(pieces=("new",)))

    new = sent(server, session, message=None)

    assert told_again(server, session) == new
    assert server.error("GET", stream_of(session), Last_Event_ID=old[0].id)[:2] == (404, "no_generation")


def test_a_request_that_was_refused_leaves_the_last_reply_to_be_heard(server: Server, session: str) -> None:
    first = sent(server, session)

    assert server.error("POST", stream_of(session), {"message": ""})[0] == 422
    assert server.error("POST", stream_of(session), {"message": "hi", "think": True})[:2] == (400, "capability_missing")

    assert told_again(server, session) == first


def test_an_edit_takes_the_reply_off_the_path_and_it_can_still_be_heard(server: Server, session: str) -> None:
    first = sent(server, session)
    server.ok("PUT", f"/sessions/{session}/messages/0", {"content": "edited"})

    response = server.call("GET", stream_of(session))

    assert response.content == first
    assert response.headers["etag"] == f'"{server.file(session)["metadata"]["revision"]}"'


def test_a_reply_that_was_asked_for_whole_can_be_heard_as_a_stream(server: Server, session: str) -> None:
    message = server.ok("POST", f"/chat/{session}", {"message": "hi"})["message"]

    events = heard(server, session)

    assert names(events) == ["content_delta", "message_complete", "done"]
    assert (joined(events), events[-2].data["message_id"]) == (message["content"], message["message_id"])


def test_a_whole_reply_can_be_joined_by_a_stream_while_it_runs(
    server: Server, standin: StandInThread, session: str
) -> None:
    gate = Gate(2)
    standin.script(Behaviour(gate=gate))

    with asked(server, (f"/chat/{session}", {"message": "hi"})) as (whole,):
        generating(server, session)
        with listening(server, session) as client:
            read_events(client, 2)
            gate.open()
            events = parsed(client.read_rest().body)
        message = whole.result().json()["message"]

    assert (joined(events), events[-2].data["message_id"]) == (SAID, message["message_id"])
    assert message == last_message(server, session)
