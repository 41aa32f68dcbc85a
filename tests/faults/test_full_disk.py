"""A disk that is full, or read-only, in truth: what is there is read and deleted, what is new is refused, and taken
once there is room.
"""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mochi_server.ollama.standin import Behaviour, Gate
from tests.faults.changes import REQUESTS, Answer, ask, check_shown, leftovers, talk
from tests.faults.disks import Disk, mounted
from tests.server import Server, joined, names
from tests.standin_thread import StandInThread

FULL = Answer(507, "storage_full")
READ_ONLY = Answer(503, "storage_unavailable")
WRITES = [name for name in REQUESTS if name not in {"create", "delete"}]
PIECES = tuple(letter * 5_000 for letter in "abc")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with mounted(tmp_path / "disk") as disk:
        yield disk


@pytest.fixture
def server(tmp_path: Path, disk: Disk, standin: StandInThread) -> Iterator[Server]:
    """A server whose sessions are on the disk, and nothing else of it."""
    server = Server(tmp_path, standin.url, "--sessions-dir", str(disk.place / "sessions"))
    server.sessions = disk.place / "sessions"
    with server:
        yield server


def restarted(server: Server, disk: Disk, change: str) -> None:
    """Change the disk while no server runs over it."""
    assert server.stop() == 0
    getattr(disk, change)()
    server.start()


def test_over_a_full_disk_a_server_starts_reads_and_deletes_and_goes_on_once_there_is_room(
    server: Server, disk: Disk
) -> None:
    sessions = [talk(server) for _ in range(3)]
    assert ask(server, "stream", sessions[0]).served
    restarted(server, disk, "fill")

    for session in sessions:
        check_shown(server, session)
    for request in WRITES:
        assert ask(server, request, sessions[0]) == FULL, request
    assert ask(server, "create", f"{0xABC:010x}") == FULL
    for session in sessions:
        check_shown(server, session)
    for session in sessions[1:]:
        disk.fill()
        assert ask(server, "delete", session).status == 204
        check_shown(server, session)

    disk.make_room()
    for request in WRITES:
        assert ask(server, request, sessions[0]).served or request == "head", request
    check_shown(server, sessions[0])
    assert leftovers(server) == []
    assert "Traceback" not in server.log.read_text()


def test_a_disk_that_fills_up_in_the_middle_of_a_reply_ends_it_and_keeps_what_was_shown(
    server: Server, disk: Disk, standin: StandInThread
) -> None:
    session, gate = talk(server), Gate(1)
    standin.script(Behaviour(pieces=PIECES, gate=gate))
    with server.stream(f"/chat/{session}/stream", {"message": "And?"}) as stream:
        first = next(stream)
        disk.fill()
        gate.open()
        events = [first, *stream]
    shown = joined(events)

    assert names(events) == ["content_delta", "error", "done"]
    assert (events[-2].data["code"], events[-1].data["status"]) == ("storage_full", "error")
    assert "".join(PIECES).startswith(shown)
    assert ask(server, "stream", session) == FULL
    disk.make_room()
    kept = server.ok("GET", f"/sessions/{session}")["messages"][-1]
    assert (kept["content"], kept["status"]) == (shown, "interrupted")
    assert ask(server, "edit", session).served
    assert ask(server, "stream", session).served
    check_shown(server, session)
    assert leftovers(server) == []


def test_over_a_read_only_disk_a_server_starts_and_reads_and_refuses_to_write(server: Server, disk: Disk) -> None:
    sessions = [talk(server) for _ in range(2)]
    assert ask(server, "stream", sessions[0]).served
    restarted(server, disk, "make_read_only")

    for request in (*WRITES, "delete"):
        assert ask(server, request, sessions[0]) == READ_ONLY, request
    assert ask(server, "create", f"{0xABC:010x}") == READ_ONLY
    for session in sessions:
        check_shown(server, session)
    assert server.stop() == 0
    assert "Traceback" not in server.log.read_text()


def refusal(folder: Path, sessions: Path) -> str:
    """The one line that a server gives up with."""
    command = [sys.executable, "-m", "mochi_server", "--port", "0", "--sessions-dir", str(sessions)]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=20, check=False)
    assert (ended.returncode, ended.stdout) == (2, "")
    (line,) = ended.stderr.splitlines()
    return line


def test_a_first_start_where_nothing_can_be_made_says_so_in_one_line(tmp_path: Path) -> None:
    with mounted(tmp_path / "full", "size=256k,nr_inodes=2") as disk:
        assert "No space left on device" in refusal(tmp_path, disk.place / "sessions")
    with mounted(tmp_path / "read-only") as disk:
        (disk.place / "sessions" / ".mochi").mkdir(parents=True)
        disk.make_read_only()
        assert "Read-only file system" in refusal(tmp_path, disk.place / "sessions")
        assert "Read-only file system" in refusal(tmp_path, disk.place / "other")
