"""Every system call of a save fails with every error a disk has: told as such, the file whole, and the next try works.

What fails is said in the order in which a save calls it.
"""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.faults.changes import (
    ASKING,
    FIRST,
    MAKING,
    REWRITING,
    Answer,
    ask,
    check_shown,
    leftovers,
    sessions,
    state,
    talk,
)
from tests.faults.injected import (
    LINK,
    MKDIR,
    OPEN,
    RENAME,
    RENAME_OR_LINK,
    STAT,
    UNLINK,
    injected,
)
from tests.server import Server

DONE_BEFORE = {"delete": "session_not_found", "create": "session_exists", "truncate": "invalid_message_index"}

ALL = ("ENOSPC", "EIO", "EROFS", "EMFILE")
DISK = ("ENOSPC", "EIO", "EROFS")
SYNCING = ("ENOSPC", "EIO")


class Failing(NamedTuple):
    """Calls that fail, with each of these errors, in each of these requests.

    `on` names the paths, none of them all; `when` counts the calls in each thread. `told` is whether the request must
    fail (None: it may), `state` what the file is then, `reads` whether everything can be read meanwhile.
    """

    calls: str
    errors: tuple[str, ...]
    requests: tuple[str, ...]
    on: tuple[str, ...] = ()
    when: str = ""
    told: bool | None = True
    state: str = "old"
    reads: bool = True


SAVE = {
    "the temporary file cannot be opened": Failing(OPEN, ALL, (*REWRITING, "create"), reads=False),
    "nor after its journal could": Failing(OPEN, ALL, (*ASKING, *FIRST), when="2"),
    "it cannot be synced": Failing("fsync", SYNCING, (*REWRITING, *MAKING, *ASKING), when="1"),
    "it cannot be closed": Failing("close", ("EIO",), ("rename", "edit"), when="1"),
    "its status cannot be read": Failing(STAT, ("EIO",), ("create",), when="2"),
    "the folder cannot be opened": Failing(
        OPEN, ALL, (*REWRITING, *MAKING, *ASKING, "delete"), on=("folder",), reads=False
    ),
    "the file cannot be replaced": Failing(RENAME, DISK, (*REWRITING, *ASKING)),
    "a link cannot be made, but a name given": Failing(LINK, DISK, MAKING, told=False),
    "neither a link can be made nor a name given": Failing(RENAME_OR_LINK, DISK, MAKING),
    "the temporary file cannot be removed": Failing(UNLINK, DISK, ("create", *REWRITING), when="1", told=False),
    "nor when the save failed": Failing("/^(rename|unlink)", DISK, (*REWRITING, *ASKING)),
    "the folder cannot be synced": Failing("fsync", SYNCING, (*REWRITING, *ASKING), on=("folder",), state="new"),
    "nor for a new file": Failing("fsync", SYNCING, MAKING, on=("folder",)),
    "the folder cannot be closed": Failing("close", ("EIO",), (*REWRITING, "create"), on=("folder",), told=False),
    "the file's status cannot be read": Failing(
        STAT, ("EIO",), (*REWRITING, *ASKING, "regenerate", "delete"), on=("file",), reads=False
    ),
}
DELETION = {
    "the file cannot be removed": Failing(UNLINK, DISK, ("delete",), on=("file",)),
    "its removal cannot be synced": Failing("fsync", SYNCING, ("delete",), on=("folder",), state="new"),
    "its journals cannot be removed": Failing(UNLINK, DISK, ("delete",), on=("journal", "ended"), told=False),
}
INDEX = {
    "the index cannot be written": Failing("pwrite64", ALL, ("delete", "rename"), on=("index",), told=False),
    "nor its journal": Failing(
        "/^(pwrite64|ftruncate|fdatasync)$", DISK, ("delete", "rename"), on=("index", "index journal"), told=False
    ),
    "nor removed": Failing(
        "/^(pwrite64|fdatasync|unlink)", DISK, ("delete", "rename"), on=("index", "index journal"), told=False
    ),
    "nor opened": Failing(OPEN, ALL, ("delete", "rename"), on=("index", "index journal"), told=False),
}
JOURNAL = {
    "the journal cannot be opened": Failing(OPEN, ALL, (*ASKING, "regenerate"), on=("journal",)),
    "nor one of a first message": Failing(OPEN, ALL, FIRST, when="1"),
    "its folder cannot be made": Failing(MKDIR, DISK, ASKING, on=("journals",)),
    "it cannot be written": Failing("write", DISK, (*ASKING, "regenerate"), on=("journal",), when="1"),
    "nor removed then": Failing("/^(write|unlink)", DISK, (*ASKING, "regenerate"), on=("journal",), when="1"),
    "it cannot be closed": Failing("close", ("EIO",), (*ASKING, "regenerate"), on=("journal",), told=False),
    "nor closed when the save failed": Failing("close", ("EIO",), ASKING),
    "it cannot be ended": Failing(RENAME, DISK, (*ASKING, "regenerate"), on=("journal",), told=False),
}
WRITE = {
    "the temporary file cannot be written": Failing("write", DISK, (*REWRITING, "create"), when="1"),
    "nor after its journal could": Failing("write", DISK, ASKING, when="2"),
}


def path(server: Server, session: str, name: str) -> Path:
    inner = server.sessions / ".mochi"
    return {
        "folder": server.sessions,
        "file": server.sessions / f"{session}.json",
        "journal": inner / "journals" / f"{session}.running",
        "ended": inner / "journals" / f"{session}.ended",
        "journals": inner / "journals",
        "index": inner / "index.sqlite",
        "index journal": inner / "index.sqlite-journal",
    }[name]


def words_left(index: Path, session: str) -> int:
    with closing(sqlite3.connect(index)) as database:
        (count,) = database.execute("SELECT count(*) FROM words WHERE session_id = ?", (session,)).fetchone()
    assert isinstance(count, int)
    return count


def check_answer(answer: Answer, error: str, told: bool | None) -> None:
    if told is not None:
        assert answer.served is not told
    if not answer.served:
        expected = (507, "storage_full") if error == "ENOSPC" else (503, "storage_unavailable")
        assert (answer.status, answer.code) == expected


def check_state(before: bytes | None, after: bytes | None, answer: Answer, failing: Failing) -> None:
    new = answer.served or failing.state == "new"
    assert (after != before) is new, f"the file is the {'old' if after == before else 'new'} state"


def check_next_try(server: Server, request: str, session: str, *, done: bool) -> None:
    again = ask(server, request, session)
    if not again.served:
        # What was done already, though that was not told, cannot be done again.
        assert again.code == DONE_BEFORE[request]
        assert done
    check_shown(server, session)
    assert leftovers(server) == []


def fail(server: Server, failing: Failing, request: str, error: str) -> None:
    session = talk(server)
    if request in MAKING:
        server.ok("DELETE", f"/sessions/{session}")
    if request == "delete":
        assert ask(server, "whole", session).served  # it leaves a journal, which is to go, too
    if "journals" in failing.on:
        shutil.rmtree(server.sessions / ".mochi" / "journals")
    server.ok("GET", "/sessions?q=settled")  # so that the index is not written in between, where calls are counted
    before, all_before = state(server, session), sessions(server)
    on = [path(server, session, name) for name in failing.on]

    with injected(server.process.pid, server.folder, failing.calls, error, *on, when=failing.when) as faults:
        answer = ask(server, request, session)
        if failing.reads and request not in MAKING:
            check_shown(server, session)
        hits = faults.hits()

    assert hits, "nothing failed"
    check_answer(answer, error, failing.told)
    if request in FIRST:
        assert sessions(server) - all_before == ({answer.session_id} if answer.served else set())
    else:
        check_state(before, state(server, session), answer, failing)
    check_shown(server, session)
    check_next_try(server, request, session, done=answer.served or failing.state == "new")
    if request == "delete":
        server.new_session()  # what could not be removed goes with the next save
        assert list(server.sessions.glob(f".mochi/*/{session}.*")) == []
        # The search that has just been asked for wrote what was not written, or removed.
        assert words_left(path(server, session, "index"), session) == 0


def check_all(server: Server, failing: Failing) -> None:
    """Each request with one of the errors, and each error with one of the requests."""
    for number in range(max(len(failing.requests), len(failing.errors))):
        request = failing.requests[number % len(failing.requests)]
        error = failing.errors[number % len(failing.errors)]
        try:
            fail(server, failing, request, error)
        except Exception as wrong:
            wrong.add_note(f"in {request}, {error}")
            raise
    assert server.process.poll() is None
    assert "internal error" not in server.log.read_text()
    assert "Traceback" not in server.log.read_text()


def each(table: dict[str, Failing]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("failing", table.values(), ids=table)


@each(SAVE)
def test_a_save_that_fails_is_told_and_leaves_the_file_whole(server: Server, failing: Failing) -> None:
    check_all(server, failing)


@pytest.mark.parametrize("request_", ASKING)
def test_what_may_be_lost_is_not_taken_for_saved_by_the_next_try(server: Server, request_: str) -> None:
    session = talk(server)
    with injected(server.process.pid, server.folder, "fsync", "EIO", server.sessions) as faults:
        # The second finds its message there, and need not save it.
        for tries in (1, 2):
            assert ask(server, request_, session) == Answer(503, "storage_unavailable")
            assert len(faults.hits()) == tries
    assert ask(server, request_, session).served
    messages = server.ok("GET", f"/sessions/{session}/tree")["messages"]
    assert [m["content"] for m in messages].count("And?") == 1


@each(DELETION)
def test_a_deletion_that_fails_is_told_and_can_be_tried_again(server: Server, failing: Failing) -> None:
    check_all(server, failing)


@each(INDEX)
def test_an_index_that_fails_fails_no_request(server: Server, failing: Failing) -> None:
    check_all(server, failing)


@each(JOURNAL)
def test_a_journal_that_fails_leaves_no_session_that_cannot_be_asked(server: Server, failing: Failing) -> None:
    check_all(server, failing)


@each(WRITE)
def test_a_write_that_fails_is_told_and_leaves_the_file_whole(plain: Server, failing: Failing) -> None:
    check_all(plain, failing)
    assert plain.log.read_text() == ""
