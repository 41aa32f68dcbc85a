"""A reply outlives its server: after a stop, a kill or a failing disk its events go on where the client has them."""

import resource
import sys

import pytest

from mochi_server.ollama.standin import Behaviour, Gate
from tests.chat.clients import ending, last_message, parsed, raw_chat, read_events
from tests.chat.listeners import WAYS, frames, heard, status_behind, stream_of, told_again
from tests.server import Event, Server, joined, names
from tests.standin_thread import StandInThread

ENVIRONMENT = {"MOCHI_SHUTDOWN_SECONDS": "1"}
PIECES = ("a\u2028", "b", "c")
MEANWHILE = "".join(PIECES[:2])


@pytest.fixture
def session(server: Server) -> str:
    return server.new_session()


def killed_behind(server: Server, standin: StandInThread, session: str, count: int) -> bytes:
    """The bytes of a reply whose server is killed once so many of its pieces have come; it is up again."""
    gate = Gate(count)
    standin.script(Behaviour(pieces=PIECES, gate=gate))
    with raw_chat(server, stream_of(session), {"message": "hi"}) as client:
        gate.wait(count)
        if count:
            read_events(client, count)
        server.kill()
    server.start()
    return client.answer.body


def rest_behind(server: Server, session: str, shown: bytes, way: str = "header") -> tuple[bytes, list[Event]]:
    """What was shown with what comes behind it, as bytes and as events; nothing comes behind that."""
    last = parsed(shown)[-1].id
    whole = shown + b"".join(frames(told_again(server, session, last, way)))
    events = parsed(whole)
    assert status_behind(server, session, events[-1].id) == 204
    return whole, events


@pytest.mark.parametrize("way", WAYS)
def test_after_a_kill_the_events_go_on_where_they_were_cut_off_and_come_to_an_end(
    server: Server, standin: StandInThread, session: str, way: str
) -> None:
    shown = killed_behind(server, standin, session, 2)

    whole, events = rest_behind(server, session, shown, way)

    assert told_again(server, session) == whole
    assert names(events) == ["content_delta", "message_complete", "done"]
    assert [int(e.id.partition("-")[2]) for e in events] == [1, 2, 3, 4]
    saved = last_message(server, session)
    assert joined(events) == saved["content"] == MEANWHILE
    assert (events[-2].data["message_id"], events[-2].data["status"]) == (saved["message_id"], "interrupted")
    assert (events[-2].data["done_reason"], events[-1].data["status"]) == ("crashed", "interrupted")
    assert ending(saved) == (MEANWHILE, "interrupted", "crashed")


def test_a_kill_before_the_first_token_leaves_a_reply_that_is_done(
    server: Server, standin: StandInThread, session: str
) -> None:
    killed_behind(server, standin, session, 0)

    (done,) = heard(server, session)

    assert (done.name, done.data["status"]) == ("done", "interrupted")
    assert server.contents(session) == [("user", "hi")]
    assert status_behind(server, session, done.id) == 204


def test_of_a_reply_with_thinking_both_texts_are_what_was_saved_at_the_kill(
    server: Server, standin: StandInThread
) -> None:
    session, gate = server.new_session(model="tiny-think"), Gate(3)
    standin.script(Behaviour(thinking=("hm", "\u2029"), pieces=PIECES, gate=gate))
    with raw_chat(server, stream_of(session), {"message": "hi", "think": True}) as client:
        read_events(client, 3)
        server.kill()
    server.start()

    _, events = rest_behind(server, session, client.answer.body)

    saved = last_message(server, session)
    assert (joined(events, "thinking_delta"), joined(events)) == (saved["thinking"], saved["content"])
    assert (saved["thinking"], saved["content"]) == ("hm\u2029", PIECES[0])


def test_a_second_kill_changes_nothing_of_what_was_told_after_the_first(
    server: Server, standin: StandInThread, session: str
) -> None:
    killed_behind(server, standin, session, 2)
    told = told_again(server, session)

    server.kill()
    server.start()

    assert told_again(server, session) == told


def test_a_reply_that_was_cut_off_by_a_stop_goes_on_with_the_end_that_it_was_given(
    server: Server, standin: StandInThread, session: str
) -> None:
    standin.script(Behaviour(pieces=PIECES, gate=Gate(2)))
    with raw_chat(server, stream_of(session), {"message": "hi"}) as client:
        read_events(client, 2)
        shown = client.answer.body
        client.leave()
        assert server.stop() == 0
    server.start()

    _, events = rest_behind(server, session, shown)

    assert joined(events) == MEANWHILE
    assert (events[-2].data["done_reason"], events[-1].data["status"]) == ("shutdown", "interrupted")
    assert ending(last_message(server, session)) == (MEANWHILE, "interrupted", "shutdown")


@pytest.mark.parametrize("fault", [None, "error_line"])
@pytest.mark.parametrize("how", ["stop", "kill"])
def test_an_ended_reply_is_told_again_byte_for_byte_after_a_restart(
    server: Server, standin: StandInThread, session: str, how: str, fault: str | None
) -> None:
    standin.script(Behaviour(pieces=PIECES, fault="error_line" if fault else None, after=1))
    with raw_chat(server, stream_of(session), {"message": "hi"}) as client:
        first = client.read_rest().body

    getattr(server, how)()
    server.start()

    assert told_again(server, session) == first
    assert status_behind(server, session, parsed(first)[-1].id) == 204


def test_a_reply_that_was_cut_off_is_followed_by_the_next_as_any_is(
    server: Server, standin: StandInThread, session: str
) -> None:
    shown = parsed(killed_behind(server, standin, session, 2))

    new = server.events(stream_of(session), {"message": None})

    assert heard(server, session) == new
    assert server.error("GET", stream_of(session), Last_Event_ID=shown[-1].id)[:2] == (404, "no_generation")


def test_a_reply_that_waits_for_its_damaged_file_is_told_again_to_the_letter_once_that_is_mended(
    server: Server, standin: StandInThread, session: str
) -> None:
    gate, file = Gate(2), server.sessions / f"{session}.json"
    standin.script(Behaviour(pieces=PIECES, gate=gate))
    with raw_chat(server, stream_of(session), {"message": "hi"}) as client:
        read_events(client, 2)
        whole = file.read_bytes()
        file.write_bytes(b"{")
        gate.open()
        shown = client.read_rest().body
    assert names(parsed(shown)) == ["content_delta", "error", "done"]
    assert server.error("GET", stream_of(session))[:2] == (409, "session_damaged")

    file.write_bytes(whole)

    assert told_again(server, session) == shown
    assert status_behind(server, session, parsed(shown)[-1].id) == 204
    assert last_message(server, session)["content"] == joined(parsed(shown))


def no_file_may_grow_beyond(server: Server, size: int) -> None:
    """As if the disk were full for all that is larger than this."""
    if sys.platform == "linux":
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can limit another process")
def test_where_the_disk_fails_the_end_that_was_shown_is_told_again_and_stays_when_it_works_again(
    server: Server, standin: StandInThread, session: str
) -> None:
    gate, piece = Gate(2), "x" * 30_000
    standin.script(Behaviour(pieces=(piece,) * 4, gate=gate))
    with raw_chat(server, stream_of(session), {"message": "hi"}) as client:
        read_events(client, 2)
        no_file_may_grow_beyond(server, 61_000)
        gate.open()
        shown = client.read_rest().body
    events = parsed(shown)
    assert names(events) == ["content_delta", "error", "done"]

    assert told_again(server, session) == shown
    assert status_behind(server, session, events[-1].id) == 204
    no_file_may_grow_beyond(server, resource.RLIM_INFINITY)
    assert told_again(server, session) == shown
    assert status_behind(server, session, events[-1].id) == 204
    assert last_message(server, session)["content"] == joined(events)
    server.kill()
    server.start()
    assert told_again(server, session) == shown
