"""The disk fails in the middle of a reply: it ends with an error and `done`, and what was shown of it is kept."""

import resource
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from mochi_server.ollama.standin import Behaviour, Gate
from tests.chat.clients import asked, eventually, generating
from tests.faults.changes import STATUSES, Answer, answer, ask, check_shown, leftovers, state, talk
from tests.faults.injected import OPEN, RENAME, Injected, injected
from tests.server import Event, Server, joined, names
from tests.standin_thread import StandInThread

PIECES = ("one", " two", " three")
SAID = "".join(PIECES)
SETTLED_WITHIN = 12.0
"""Seconds after which a reply is in its file though nobody asked for it; they are tried every five."""


class Begun(NamedTuple):
    """A streamed reply that was shown the first of its pieces, held until the gate opens."""

    session: str
    first: Event
    events: Iterator[Event]
    gate: Gate

    def rest(self) -> list[Event]:
        self.gate.open()
        return [*self.events]


@contextmanager
def begun(
    server: Server,
    standin: StandInThread,
    message: str | None = "And?",
    pieces: tuple[str, ...] = PIECES,
    holds: int = 1,
) -> Iterator[Begun]:
    session, gate = talk(server), Gate(*range(1, holds + 1))
    standin.script(Behaviour(pieces=pieces, gate=gate))
    try:
        with server.stream(f"/chat/{session}/stream", {"message": message}) as events:
            yield Begun(session, next(events), events, gate)
    finally:
        gate.open()


def journal(server: Server, session: str) -> Path:
    return server.sessions / ".mochi" / "journals" / f"{session}.running"


def fails(server: Server, calls: str, error: str, *paths: Path) -> AbstractContextManager[Injected]:
    return injected(server.process.pid, server.folder, calls, error, *paths)


def code(error: str) -> str:
    return "storage_full" if error == "ENOSPC" else "storage_unavailable"


def check_error(events: list[Event], error: str) -> dict[str, Any]:
    """The details of the error that the stream ends with."""
    assert names(events)[-2:] == ["error", "done"]
    assert "message_complete" not in names(events)
    assert (events[-2].data["code"], events[-1].data["status"]) == (code(error), "error")
    details = events[-2].data["details"]
    assert isinstance(details, dict)
    return details


def reply(server: Server, session: str) -> dict[str, Any]:
    """The session's last message, as GET shows it."""
    message = server.ok("GET", f"/sessions/{session}")["messages"][-1]
    assert isinstance(message, dict)
    return message


def check_asked_again(server: Server, session: str) -> None:
    assert ask(server, "stream", session).served
    check_shown(server, session)
    assert leftovers(server) == []
    assert server.process.poll() is None
    assert "Traceback" not in server.log.read_text()


@pytest.mark.parametrize("message", ["And?", None], ids=["a new message", "regenerated"])
@pytest.mark.parametrize("error", ["ENOSPC", "EIO", "EROFS"])
def test_nothing_is_shown_that_the_journal_did_not_take(
    server: Server, standin: StandInThread, error: str, message: str | None
) -> None:
    with (
        begun(server, standin, message) as stream,
        fails(server, "write", error, journal(server, stream.session)) as faults,
    ):
        rest = stream.rest()
        assert faults.hits()

    details = check_error(rest, error)
    assert joined([stream.first, *rest]) == "one"
    kept = reply(server, stream.session)
    assert (kept["content"], kept["status"], kept["done_reason"]) == ("one", "interrupted", "error")
    assert details["message_id"] == kept["message_id"]
    check_asked_again(server, stream.session)


FINAL_SAVE = {
    "the temporary file cannot be opened": (OPEN, "EMFILE", False),
    "it cannot be opened on a full disk": (OPEN, "ENOSPC", False),
    "it cannot be synced": ("fsync", "EIO", False),
    "the file cannot be replaced": (RENAME, "EROFS", True),
    "the file cannot be replaced on a full disk": (RENAME, "ENOSPC", True),
}


@pytest.mark.parametrize("message", ["And?", None], ids=["a new message", "regenerated"])
@pytest.mark.parametrize(("calls", "error", "readable"), FINAL_SAVE.values(), ids=FINAL_SAVE)
def test_a_reply_that_cannot_be_saved_is_there_once_it_can(
    server: Server, standin: StandInThread, calls: str, error: str, readable: bool, message: str | None
) -> None:
    with begun(server, standin, message) as stream:
        session, before = stream.session, state(server, stream.session)
        with fails(server, calls, error):
            rest = stream.rest()
            refused = [ask(server, request, session) for request in ("stream", "edit", "rename")]
            if readable:
                check_shown(server, session)
            assert state(server, session) == before

    check_error(rest, error)
    assert joined([stream.first, *rest]) == SAID
    assert refused == [Answer(STATUSES[code(error)], code(error))] * 3
    kept = reply(server, session)
    assert (kept["content"], kept["status"], kept["done_reason"]) == (SAID, "complete", "stop")
    check_shown(server, session)
    assert leftovers(server) == []
    check_asked_again(server, session)


@pytest.mark.parametrize("error", ["ENOSPC", "EIO"])
def test_a_reply_that_neither_file_takes_is_there_as_far_as_it_was_shown(
    server: Server, standin: StandInThread, error: str
) -> None:
    # A save opens the folder before the new file takes the old one's place.
    with (
        begun(server, standin) as stream,
        fails(server, "/^(write|open|openat)$", error, journal(server, stream.session), server.sessions),
    ):
        rest = stream.rest()

    check_error(rest, error)
    assert joined([stream.first, *rest]) == "one"
    kept = reply(server, stream.session)
    assert (kept["content"], kept["status"]) == ("one", "interrupted")
    check_asked_again(server, stream.session)


@pytest.mark.parametrize("error", ["ENOSPC", "EIO"])
def test_a_reply_whose_save_is_not_known_to_be_safe_is_told_as_failed_and_is_there_once(
    server: Server, standin: StandInThread, error: str
) -> None:
    with begun(server, standin) as stream, fails(server, "fsync", error, server.sessions):
        rest = stream.rest()
        check_shown(server, stream.session)

    check_error(rest, error)
    contents = [m["content"] for m in server.ok("GET", f"/sessions/{stream.session}/tree")["messages"]]
    assert contents.count(SAID) == 1
    assert reply(server, stream.session)["status"] == "complete"
    check_asked_again(server, stream.session)


@pytest.mark.parametrize("error", ["ENOSPC", "EIO"])
def test_the_whole_form_tells_the_same_and_its_reply_is_there_once_it_can_be(
    server: Server, standin: StandInThread, error: str
) -> None:
    session, gate = talk(server), Gate(1)
    standin.script(Behaviour(pieces=PIECES, gate=gate))
    with asked(server, (f"/chat/{session}", {"message": "And?"})) as (whole,):
        generating(server, session)
        with fails(server, RENAME, error):
            gate.open()
            told = answer(whole.result())

    assert told == Answer(STATUSES[code(error)], code(error), session)
    assert reply(server, session)["content"] == SAID
    check_asked_again(server, session)


def test_a_reply_that_could_not_be_saved_is_saved_without_being_asked_for(
    server: Server, standin: StandInThread
) -> None:
    with begun(server, standin) as stream, fails(server, RENAME, "ENOSPC"):
        check_error(stream.rest(), "ENOSPC")

    def listed() -> bool | None:
        found = server.ok("GET", "/sessions?q=one two three")["sessions"]
        return stream.session in [s["session_id"] for s in found] or None

    eventually(listed, SETTLED_WITHIN)
    assert leftovers(server) == []
    assert reply(server, stream.session)["content"] == SAID


def test_a_session_whose_reply_is_not_saved_yet_can_be_deleted_on_a_full_disk(
    server: Server, standin: StandInThread
) -> None:
    with begun(server, standin) as stream, fails(server, RENAME, "ENOSPC"):
        check_error(stream.rest(), "ENOSPC")
        deleted = ask(server, "delete", stream.session)
        check_shown(server, stream.session)

    assert deleted.status == 204
    assert state(server, stream.session) is None
    assert leftovers(server) == []


@pytest.mark.parametrize(("calls", "error"), [("close", "EIO"), (RENAME, "ENOSPC"), (RENAME, "EROFS")])
def test_a_journal_that_cannot_be_ended_fails_no_reply_and_no_next_one(
    server: Server, standin: StandInThread, calls: str, error: str
) -> None:
    with begun(server, standin) as stream, fails(server, calls, error, journal(server, stream.session)) as faults:
        rest = stream.rest()
        assert faults.hits()

    assert (names(rest)[-2:], rest[-1].data["status"]) == (["message_complete", "done"], "complete")
    assert reply(server, stream.session)["content"] == SAID
    check_asked_again(server, stream.session)


def test_a_journal_that_cannot_be_synced_fails_no_reply(server: Server, standin: StandInThread) -> None:
    many = 400
    with (
        begun(server, standin, pieces=("x",) * many, holds=many) as stream,
        fails(server, "fsync", "EIO", journal(server, stream.session)) as faults,
    ):
        for place in range(1, many):
            # What is synced is not synced again: there is to be more of it until one has failed.
            stream.gate.open(place)
            if faults.hits():
                break
            threading.Event().wait(0.05)
        assert faults.hits()
        rest = stream.rest()

    assert (names(rest)[-2:], rest[-1].data["status"]) == (["message_complete", "done"], "complete")
    check_asked_again(server, stream.session)


@contextmanager
def files_of_at_most(server: Server, size: int) -> Iterator[None]:
    """No file of the server's grows beyond this many bytes inside: a write up to there is a short one."""
    pid = server.process.pid
    _, most = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, most))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (most, most))


@pytest.mark.parametrize("torn", [False, True], ids=["taken back", "left torn"])
def test_a_line_that_a_journal_took_in_part_is_not_shown_and_breaks_nothing_before_it(
    plain: Server, standin: StandInThread, torn: bool
) -> None:
    """On a server without a log, which would meet the limit, too."""
    with begun(plain, standin, pieces=("one", " two" * 200)) as stream:
        path = journal(plain, stream.session)
        size = path.stat().st_size
        with files_of_at_most(plain, size + 100):
            if torn:
                with fails(plain, "ftruncate", "EIO", path) as faults:
                    rest = stream.rest()
                    assert faults.hits()
            else:
                rest = stream.rest()
            assert path.read_bytes().endswith(b"\n") is not torn

    check_error(rest, "ENOSPC")
    assert joined([stream.first, *rest]) == "one"
    kept = reply(plain, stream.session)
    assert (kept["content"], kept["status"]) == ("one", "interrupted")
    check_asked_again(plain, stream.session)
    assert plain.log.read_text() == ""


def test_a_log_that_cannot_be_written_stops_nothing(strace: None, tmp_path: Path, standin: StandInThread) -> None:  # noqa: ARG001 - skips
    with Server(tmp_path, standin.url) as server:
        with fails(server, "write", "ENOSPC", server.log) as faults:
            session = talk(server)
            assert ask(server, "stream", session).served
            assert ask(server, "rename", session).served
            assert faults.hits()
        assert ask(server, "whole", session).served
        check_shown(server, session)
