"""`mochi-server migrate`: over a real folder, by a process of its own."""

import errno
import io
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace

from mochi_server.domain.session_file import decode, encode
from mochi_server.migrate_command import Progress
from mochi_server.store import files, session_files
from mochi_server.store.migrate import Report, Untouched, migrate
from mochi_server.store.migrations import upgraded
from mochi_server.store.session_files import Stored
from tests.command.test_command import LIMIT, NOWHERE, run
from tests.domain.talk import conversation
from tests.server import Server
from tests.store.opened import everything_in

FORMATS = Path(__file__).parents[1] / "formats"
SAMPLES = sorted(path.name for path in FORMATS.glob("*.json"))
MANY = 600
UNDER_WAY = rb"\] [1-9]"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sessions folder with a file of each older format."""
    return Path(shutil.copytree(FORMATS, tmp_path / "sessions"))


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A sessions folder that takes a while."""
    made = tmp_path / "sessions"
    made.mkdir()
    sample = (FORMATS / "a000000014.json").read_text()
    for number in range(MANY):
        (made / f"{number:010x}.json").write_text(sample.replace("a000000014", f"{number:010x}"))
    return made


def versions(folder: Path) -> dict[str, str]:
    """The format of each session file; each must be readable."""
    return {path.name: version(path) for path in sorted(folder.glob("*.json"))}


def version(path: Path) -> str:
    decode(path.read_bytes(), upgraded)
    return str(json.loads(path.read_bytes())["metadata"]["format_version"])


def told(ended: subprocess.CompletedProcess[str], code: int = 0) -> list[str]:
    """The lines that a run ended with, which must be of this code."""
    assert (ended.returncode, ended.stderr) == (code, "")
    return ended.stdout.splitlines()


def refusal(ended: subprocess.CompletedProcess[str]) -> str:
    """The one line that it gave up with."""
    assert (ended.returncode, ended.stdout) == (2, "")
    (line,) = ended.stderr.splitlines()
    assert line.startswith("mochi-server migrate: ")
    return line


@contextmanager
def on_a_terminal(tmp_path: Path) -> Iterator[tuple["subprocess.Popen[bytes]", int]]:
    """A run whose standard error is a terminal, and the other end of that."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "mochi_server", "migrate"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=theirs
    )
    os.close(theirs)
    timer = threading.Timer(LIMIT, process.kill)
    timer.start()
    try:
        with process:
            yield process, ours
    finally:
        timer.cancel()
        process.kill()
        os.close(ours)


def read_until(terminal: int, pattern: bytes) -> bytes:
    """What the terminal shows, up to this pattern or the end."""
    shown = b""
    while not re.search(pattern, shown):
        try:
            shown += os.read(terminal, 1024)
        except OSError:  # what a terminal says once nobody holds the other end
            break
    return shown


@pytest.mark.usefixtures("folder")
def test_a_dry_run_changes_no_byte(tmp_path: Path) -> None:
    before = everything_in(tmp_path)
    assert told(run(tmp_path, "migrate", "--dry-run")) == ["6 files: 6 would be migrated"]
    assert everything_in(tmp_path) == before


def test_each_older_file_is_written_in_format_2_0_as_its_next_save_would(tmp_path: Path, folder: Path) -> None:
    wanted = {name: encode(decode((FORMATS / name).read_bytes(), upgraded)) for name in SAMPLES}
    assert told(run(tmp_path, "migrate")) == ["6 files: 6 migrated"]
    assert {name: (folder / name).read_bytes() for name in SAMPLES} == wanted
    for name in SAMPLES:
        old = json.loads((FORMATS / name).read_bytes())["metadata"]["updated_at"]
        assert json.loads((folder / name).read_bytes())["metadata"]["updated_at"] == old
        assert (folder / name).stat().st_mode & 0o777 == 0o600


def test_a_second_run_finds_nothing_to_do(tmp_path: Path, folder: Path) -> None:
    (folder / "0123456789.json").write_bytes(encode(conversation("q", "a")))
    assert told(run(tmp_path, "migrate")) == ["7 files: 6 migrated, 1 already in format 2.0"]
    before = {path: files.stamp(path.stat()) for path in folder.glob("*.json")}
    assert told(run(tmp_path, "migrate")) == ["7 files: 0 migrated, 7 already in format 2.0"]
    assert {path: files.stamp(path.stat()) for path in folder.glob("*.json")} == before


def test_what_cannot_be_read_is_left_untouched_and_named(tmp_path: Path, folder: Path) -> None:
    future = (folder / "a000000014.json").read_text().replace("1.4", "3.0").replace("a000000014", "00000000f1")
    odd = {
        "00000000f0.json": b"{",
        "00000000f1.json": future.encode(),
        "00000000f2.json": b'{"a": "program\'s own"}',
        "00000000f3.json": (folder / "a000000010.json").read_bytes(),
        "notes.json": b"mine",
        "notes.txt": b"mine, too",
    }
    for name, content in odd.items():
        (folder / name).write_bytes(content)
    (folder / "00000000f4.json").symlink_to(folder / "a000000010.json")
    lines = told(run(tmp_path, "migrate"), code=1)
    assert lines[0] == "11 files: 6 migrated, 5 damaged and left untouched"
    reasons = ["cut short", "newer mochi-server", "format_version", "not its name", "not a plain file"]
    for number, (line, reason) in enumerate(zip(lines[1:6], reasons, strict=True)):
        assert line.startswith(f"00000000f{number}.json: ")
        assert reason in line
    assert "'notes.json'" in lines[6]
    assert len(lines) == 7
    assert {name: (folder / name).read_bytes() for name in odd} == odd
    assert (folder / "00000000f4.json").is_symlink()


def test_a_file_that_the_system_keeps_from_us_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def kept(path: Path) -> Stored:
        if path.name == SAMPLES[2]:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return session_files.read(path)

    monkeypatch.setattr("mochi_server.store.migrate.session_files", SimpleNamespace(read=kept))
    report = migrate(folder, dry_run=False, tell=lambda *_: None)
    assert report == Report(migrated=5, failed=[Untouched(SAMPLES[2][:10], "Permission denied")])


def test_it_is_refused_while_a_server_holds_the_folder_but_a_dry_run_is_not(tmp_path: Path, folder: Path) -> None:
    before = {name: (folder / name).read_bytes() for name in SAMPLES}
    with Server(tmp_path, NOWHERE) as server:
        line = refusal(run(tmp_path, "migrate"))
        assert f"in use by process {server.process.pid}" in line
        assert told(run(tmp_path, "migrate", "--dry-run")) == ["6 files: 6 would be migrated"]
        assert {s["session_id"] + ".json" for s in server.ok("GET", "/sessions")["sessions"]} == set(SAMPLES)
    assert {name: (folder / name).read_bytes() for name in SAMPLES} == before


@pytest.mark.usefixtures("folder")
def test_a_server_lists_migrated_sessions_in_the_order_they_had(tmp_path: Path) -> None:
    with Server(tmp_path, NOWHERE) as server:
        before = server.ok("GET", "/sessions")["sessions"]
    assert told(run(tmp_path, "migrate")) == ["6 files: 6 migrated"]
    with Server(tmp_path, NOWHERE) as server:
        assert server.ok("GET", "/sessions")["sessions"] == before


def test_a_folder_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    assert "No such file" in refusal(run(tmp_path, "migrate"))
    (tmp_path / "file").touch()
    assert "Not a directory" in refusal(run(tmp_path, "migrate", "--sessions-dir", "file"))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_an_earlier_servers_folder_is_pointed_at(tmp_path: Path, folder: Path) -> None:
    folder.rename(tmp_path / "chat_sessions")
    hint = f"--sessions-dir '{tmp_path}/chat_sessions'"
    assert hint in refusal(run(tmp_path, "migrate"))
    folder.mkdir()
    first, second = told(run(tmp_path, "migrate"))
    assert first == "0 files: 0 migrated"
    assert hint in second
    assert told(run(tmp_path, "migrate", "--sessions-dir", "chat_sessions")) == ["6 files: 6 migrated"]


def test_the_folder_is_told_as_to_the_server(tmp_path: Path, folder: Path) -> None:
    folder.rename(tmp_path / "old")
    (tmp_path / ".env").write_text("MOCHI_SESSIONS_DIR=old\nMOCHI_PORT=abc\n")
    assert told(run(tmp_path, "migrate", "--dry-run")) == ["6 files: 6 would be migrated"]
    environment = {"MOCHI_DATA_DIR": str(tmp_path), "MOCHI_SESSIONS_DIR": "none"}
    assert "none" in refusal(run(tmp_path, "migrate", environment=environment))
    ended = run(tmp_path, "migrate", "--sessions-dir", "old", environment=environment)
    assert told(ended) == ["6 files: 6 migrated"]


@pytest.mark.parametrize("argument", ["--nonsense", "folder", "--port=1", "--dry"])
def test_a_flag_that_it_has_not_is_refused(tmp_path: Path, argument: str) -> None:
    line = refusal(run(tmp_path, "migrate", argument))
    assert argument.partition("=")[0] in line
    assert "mochi-server migrate --help" in line


def test_help_is_shown_here_and_mentioned_by_the_servers_own(tmp_path: Path) -> None:
    ended = run(tmp_path, "migrate", "--help", environment={"MOCHI_SESSIONS_DIR": "x"})
    assert "--dry-run" in "\n".join(told(ended))
    assert "--ollama-host" not in ended.stdout
    assert "mochi-server migrate --help" in "\n".join(told(run(tmp_path, "--help")))


# Broken off


def test_a_kill_at_any_moment_leaves_each_file_old_or_new(tmp_path: Path, large: Path) -> None:
    mixed = 0
    for _ in range(3):
        with on_a_terminal(tmp_path) as (process, terminal):
            read_until(terminal, UNDER_WAY)
            process.kill()
            process.wait(LIMIT)
        found = set(versions(large).values())
        assert found <= {"1.4", "2.0"}
        mixed += len(found) == 2
    assert mixed, "no run was caught in the middle"
    ended = run(tmp_path, "migrate")  # which tells how far it is, on a machine that is slow
    assert (ended.returncode, ended.stdout.startswith(f"{MANY} files: ")) == (0, True)
    assert set(versions(large).values()) == {"2.0"}
    assert [path.name for path in (large / ".mochi").iterdir()] == ["lock"]


def test_ctrl_c_ends_it_with_a_sentence_and_each_file_whole(tmp_path: Path, large: Path) -> None:
    with on_a_terminal(tmp_path) as (process, terminal):
        shown = read_until(terminal, UNDER_WAY)
        process.send_signal(signal.SIGINT)
        shown += read_until(terminal, b"goes on from here")
        assert process.wait(LIMIT) == 130
        assert process.stdout is not None
        assert process.stdout.read() == b""
    assert b"stopped after " in shown
    assert b"Traceback" not in shown
    assert set(versions(large).values()) == {"1.4", "2.0"}


def test_a_full_disk_ends_it_and_says_what_was_done(tmp_path: Path, folder: Path) -> None:
    long = json.loads((folder / "a000000013.json").read_bytes())
    long["messages"][0]["content"] = "x" * 100_000
    (folder / "a000000013.json").write_text(json.dumps(long))
    limited = (
        "import resource, sys; from mochi_server.migrate_command import main;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000)); sys.exit(main([]))"
    )
    before = everything_in(folder)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    ended = subprocess.run(
        [sys.executable, "-c", limited],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (1, "6 files: 3 migrated, 3 not reached\n")
    (line,) = ended.stderr.splitlines()
    assert "File too large" in line
    assert "run this again" in line
    assert list(versions(folder).values()) == ["2.0"] * 3 + ["1.3", "1.4", "1.4"]
    for name in SAMPLES[3:]:
        assert (folder / name).read_bytes() == before[name]
    assert told(run(tmp_path, "migrate")) == ["6 files: 3 migrated, 3 already in format 2.0"]


def test_a_file_that_is_changed_meanwhile_is_read_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "a000000010.json"
    put = files.replace
    changes = iter(["changed by hand"])

    def late(path: Path, data: bytes, scratch: Path, expected: bytes) -> os.stat_result:
        for change in changes:
            raw = json.loads((folder / "a000000010.json").read_bytes())
            raw["metadata"]["title"] = change
            (folder / "a000000010.json").write_text(json.dumps(raw))
        return put(path, data, scratch, expected)

    monkeypatch.setattr(files, "replace", late)
    report = migrate(folder, dry_run=False, tell=lambda *_: None)
    assert (report.migrated, report.total) == (6, 6)
    assert json.loads(path.read_bytes())["metadata"]["title"] == "changed by hand"


def test_a_session_that_would_not_be_read_back_as_it_is_stays_as_it_was(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unlike_its_file(path: Path) -> Stored:
        found = session_files.read(path)
        return replace(found, session=replace(found.session, unknown={"x": float("nan")}))

    before = everything_in(folder)
    monkeypatch.setattr("mochi_server.store.migrate.session_files", SimpleNamespace(read=unlike_its_file))
    report = migrate(folder, dry_run=False, tell=lambda *_: None)
    assert [damaged.session_id + ".json" for damaged in report.damaged] == SAMPLES
    assert everything_in(folder) == {**before, ".mochi": None, ".mochi/lock": str(os.getpid()).encode()}


# Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(stream: io.StringIO, seconds_a_file: float, total: int) -> str:
    """What is shown of files that take this long each."""
    now = 0.0
    progress = Progress(stream, lambda: now)
    for done in range(total + 1):
        progress(done, total)
        now += seconds_a_file
    progress.end()
    return stream.getvalue()


def test_a_terminal_shows_a_bar_on_one_line() -> None:
    bar = shown(Terminal(), 0.06, 4).split("\r")
    assert bar[1] == "[------------------------] 0 of 4 files"
    assert bar[-1] == "[########################] 4 of 4 files\n"
    assert len(bar) == 4, "not more than ten times a second"


def test_elsewhere_a_line_a_second_is_shown() -> None:
    assert shown(io.StringIO(), 0.6, 6).splitlines() == ["2 of 6 files", "4 of 6 files", "6 of 6 files"]


@pytest.mark.parametrize(("stream", "total"), [(io.StringIO(), 3), (io.StringIO(), 0), (Terminal(), 0)])
def test_what_is_over_at_once_shows_nothing(stream: io.StringIO, total: int) -> None:
    assert shown(stream, 0.0, total) == ""


def test_progress_is_told_before_the_first_file_and_after_each(folder: Path) -> None:
    calls: list[Any] = []
    migrate(folder, dry_run=True, tell=lambda *counts: calls.append(counts))
    assert calls == [(done, 6) for done in range(7)]


def test_a_server_over_an_empty_folder_points_at_an_earlier_servers(tmp_path: Path) -> None:
    (tmp_path / "chat_sessions").mkdir()
    with Server(tmp_path, NOWHERE) as server:
        server.ok("POST", "/sessions", {"model": "tiny"})
        server.process.send_signal(signal.SIGTERM)
        assert f"--sessions-dir '{tmp_path / 'chat_sessions'}'" in server.process.communicate(timeout=LIMIT)[0].decode()
    with Server(tmp_path, NOWHERE) as server:
        server.process.send_signal(signal.SIGTERM)
        assert server.process.communicate(timeout=LIMIT)[0] == b""
