"""The server starts over a disk that fails: what can be read is there, and the rest, without a restart, once it can."""

import os
import subprocess
import sys
from pathlib import Path

from mochi_server.ollama.standin import Behaviour, Gate
from tests.chat.clients import eventually
from tests.faults.changes import ask, check_shown, leftovers, talk
from tests.faults.injected import LIMIT, MKDIR, OPEN, READ_FOLDER, STAT, UNLINK, command, detach
from tests.server import Server
from tests.standin_thread import StandInThread

FAILING = f"/{'|'.join(calls.removeprefix('/') for calls in (OPEN, STAT, UNLINK, READ_FOLDER))}"


def under(folder: Path, calls: str, error: str, *paths: Path) -> list[str]:
    """The command that starts another under these faults, to be detached from."""
    return [*command(folder / "strace.txt", calls, error, paths), "-qq", "-D", "-I", "2"]


def listed(server: Server) -> tuple[set[str], set[str]]:
    """The sessions and the damaged files in the list."""
    page = server.ok("GET", "/sessions")
    return tuple({one["session_id"] for one in page[kind]} for kind in ("sessions", "damaged"))  # type: ignore[return-value]


def counts(server: Server) -> dict[str, int]:
    return {one["session_id"]: one["message_count"] for one in server.ok("GET", "/sessions")["sessions"]}


def test_what_fails_at_the_start_is_left_out_and_there_once_it_can_be_read(
    strace: None,  # noqa: ARG001 - skips
    tmp_path: Path,
    standin: StandInThread,
) -> None:
    gate = Gate(1)
    standin.script(Behaviour(pieces=("Shown", "not"), gate=gate))
    with Server(tmp_path, standin.url) as before:
        lost, other, whole, crashed = (talk(before) for _ in range(4))
        with before.stream(f"/chat/{crashed}/stream", {"message": "And?"}) as events:
            next(events)
            before.kill()
    gate.open()
    (before.sessions / ".mochi" / "0123456789abcdef.tmp").write_bytes(b"half")

    names = [f"{lost}.json", ".mochi/index.sqlite", ".mochi/journals", ".mochi/0123456789abcdef.tmp"]
    through = under(tmp_path, FAILING, "EIO", *(before.sessions / name for name in names))
    with Server(tmp_path, standin.url, through=through) as server:
        assert listed(server) == ({other, whole, crashed}, {lost})
        assert server.error("GET", f"/sessions/{lost}")[:2] == (503, "storage_unavailable")
        for session in (other, whole):
            check_shown(server, session)
        assert ask(server, "rename", whole).served

        detach(server.process.pid)
        eventually(lambda: listed(server)[1] == set() or None)
        check_shown(server, lost)
        eventually(lambda: counts(server)[crashed] == 5 or None)
        kept = server.ok("GET", f"/sessions/{crashed}")["messages"][-1]
        assert (kept["content"], kept["status"], kept["done_reason"]) == ("Shown", "interrupted", "crashed")
        for session in (lost, other, whole, crashed):
            assert ask(server, "stream", session).served
            check_shown(server, session)
        assert leftovers(server) == []
        assert "Traceback" not in server.log.read_text()


def test_a_file_that_cannot_be_opened_at_the_start_is_damaged_until_it_can(
    strace: None,  # noqa: ARG001 - skips
    tmp_path: Path,
    standin: StandInThread,
) -> None:
    with Server(tmp_path, standin.url) as before:
        lost = talk(before)
    with Server(
        tmp_path, standin.url, through=under(tmp_path, OPEN, "EIO", before.sessions / f"{lost}.json")
    ) as server:
        assert listed(server) == (set(), {lost})
        detach(server.process.pid)
        eventually(lambda: listed(server) == ({lost}, set()) or None)
        check_shown(server, lost)


def test_a_folder_that_cannot_be_made_or_read_is_told_in_one_line(strace: None, tmp_path: Path) -> None:  # noqa: ARG001 - skips
    sessions = tmp_path / "sessions"
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MOCHI_", "OLLAMA_"))}
    faults = [
        (MKDIR, "ENOSPC", sessions, "No space left on device"),
        (MKDIR, "EROFS", sessions / ".mochi", "Read-only file system"),
        (OPEN, "EIO", sessions / ".mochi" / "lock", "Input/output error"),
        (OPEN, "EMFILE", sessions, "Too many open files"),
        (READ_FOLDER, "EIO", sessions, "Input/output error"),
    ]
    for calls, error, path, words in faults:
        # Under seccomp it is quicker, but nothing that was detached from could go on.
        ended = subprocess.run(
            [
                *under(tmp_path, calls, error, path),
                "--seccomp-bpf",
                sys.executable,
                "-m",
                "mochi_server",
                "--port",
                "0",
                "--data-dir",
                str(tmp_path),
            ],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=2 * LIMIT,
            check=False,
        )
        assert (ended.returncode, ended.stdout) == (2, "")
        (line,) = ended.stderr.splitlines()
        assert line.startswith("mochi-server: the sessions folder")
        assert words in line
