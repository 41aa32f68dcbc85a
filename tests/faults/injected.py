"""System calls of a running server that fail as they are told to, from outside, with strace."""

import functools
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LIMIT = 10.0
"""Seconds that attaching and detaching may take."""

# Which of these a libc calls differs by machine.
OPEN, RENAME, LINK, UNLINK, MKDIR = "/^open(at)?$", "/^rename(at2?)?$", "/^link(at)?$", "/^unlink(at)?$", "/^mkdir"
STAT, READ_FOLDER, SYNC = "/^(stat|lstat|newfstatat|fstatat64|statx)$", "/^getdents", "/^f(data)?sync$"
RENAME_OR_LINK = "/^(rename|link)(at2?)?$"


class Injected:
    """What strace has made fail so far."""

    def __init__(self, report: Path) -> None:
        self._report = report

    def hits(self) -> list[str]:
        """The calls that failed, as strace writes them."""
        return [line for line in self._report.read_text(errors="replace").splitlines() if "(INJECTED)" in line]

    def wait(self) -> None:
        """Until one has failed."""
        end = time.monotonic() + LIMIT
        while not self.hits():
            assert time.monotonic() < end, "nothing failed"
            threading.Event().wait(0.005)


def command(report: Path, calls: str, error: str, paths: tuple[Path, ...] = (), when: str = "") -> list[str]:
    """The strace that makes these calls fail: on all paths unless some are given, `when` counts in each thread."""
    inject = f"inject={calls}:error={error}" + (f":when={when}" if when else "")
    filters = [option for path in paths for option in ("-P", str(path))]
    return ["strace", "-f", "-y", "-o", str(report), "-e", f"trace={calls}", "-e", inject, *filters]


@contextmanager
def injected(pid: int, folder: Path, calls: str, error: str, *paths: Path, when: str = "") -> Iterator[Injected]:
    """These calls of the process fail inside. `folder` is for strace's report."""
    report = folder / "strace.txt"
    tracer = subprocess.Popen(
        [*command(report, calls, error, paths, when), "-p", str(pid)], stderr=subprocess.PIPE, text=True
    )
    timer = threading.Timer(LIMIT, tracer.kill)
    timer.start()
    try:
        with tracer:
            assert tracer.stderr is not None
            said = ""
            while "attached" not in said:
                line = tracer.stderr.readline()
                assert line, f"strace did not attach: {said}"
                said += line
            timer.cancel()
            try:
                yield Injected(report)
            finally:
                tracer.terminate()
    finally:
        timer.cancel()


def detach(pid: int) -> None:
    """End the tracer of a process that was started under it, and wait until it runs without."""
    end = time.monotonic() + LIMIT
    while tracer := _tracer(pid):
        os.kill(tracer, signal.SIGTERM)
        assert time.monotonic() < end, "strace does not let go"
        threading.Event().wait(0.02)


def _tracer(pid: int) -> int:
    found = re.search(r"^TracerPid:\s*(\d+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found
    return int(found[1])


@functools.cache
def why_not() -> str | None:
    """Why nothing can be injected here; None where it can."""
    if sys.platform != "linux" or shutil.which("strace") is None:
        return "needs strace, which is not installed here"
    with subprocess.Popen(["sleep", "5"]) as sleeper:
        try:
            tried = subprocess.run(
                ["timeout", "0.2", "strace", "-qq", "-e", "inject=fsync:error=EIO", "-p", str(sleeper.pid)],
                capture_output=True,
                text=True,
                timeout=LIMIT,
                check=False,
            )
        finally:
            sleeper.kill()
    # Ended by `timeout`, it was attached until then.
    return None if tried.returncode == 124 else f"strace may not attach here: {tried.stderr.strip()}"
