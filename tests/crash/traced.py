"""The system calls of a running server, as strace tells them: what came before what."""

import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.server import LIMIT, Server

_CALLS = "write,writev,pwrite64,sendto,sendmsg,fsync,fdatasync,rename,renameat,renameat2,link,linkat,unlink,unlinkat"
_LINE = re.compile(r"(?P<thread>\d+) +(?:<\.\.\. (?P<resumed>\w+) resumed>)?(?P<text>.*)")
_UNFINISHED = " <unfinished ...>"
_SENDS = frozenset({"write", "writev", "sendto", "sendmsg"})
_RENAMES = frozenset({"rename", "renameat", "renameat2"})
_LINKS = frozenset({"link", "linkat"})


class CannotTrace(Exception):
    """There is no strace, or it may not trace; the text says which."""


class Call(NamedTuple):
    """One system call, and the places in the trace where it began and ended."""

    name: str
    text: str
    began: int
    ended: int
    thread: int
    failed: bool

    def writes(self, file: str, said: str = "") -> bool:
        """Whether it writes this to a file whose path ends so."""
        return self.name in {"write", "writev", "pwrite64"} and f"{file}>, " in self.text and said in self.text

    def syncs(self, path: str) -> bool:
        """Whether it syncs the file or folder whose path ends so."""
        return self.name in {"fsync", "fdatasync"} and f"{path}>)" in self.text

    def puts(self, path: Path) -> bool:
        """Whether it gives a file that was written elsewhere this name."""
        return (
            self.name in _RENAMES | _LINKS
            and '.tmp", ' in self.text
            and self.text.rpartition('"')[0].endswith(f'"{path}')
        )

    def sends(self, said: str) -> bool:
        """Whether it sends this over a connection."""
        return self.name in _SENDS and "<TCP" in self.text and said in self.text


class Trace:
    """What a server did while it was traced; complete once the tracing has ended."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        """Those that succeeded, in the order of their ends."""
        self.all: list[Call] = []
        """Those that failed, too."""

    def first(self, what: Callable[[Call], bool], after: Call | None = None) -> Call:
        """The first call that is so, of those that began when `after` had ended."""
        start = -1 if after is None else after.ended
        found = next((call for call in self.calls if call.began > start and what(call)), None)
        seen = "\n".join(call.text[:300] for call in self.calls if call.began > start)
        assert found is not None, f"there is no such call; there are:\n{seen}"
        return found


@contextmanager
def traced(server: Server, file: Path, calls: str = _CALLS) -> Iterator[Trace]:
    """The system calls of the server until the end of this context: these, or `all`. Raises CannotTrace."""
    strace = shutil.which("strace")
    if strace is None:
        raise CannotTrace("there is no strace")
    trace = Trace()
    asked = ["-f", "-yy", "-s", "100000", "-e", f"trace={calls}", "-o", str(file), "-p", str(server.process.pid)]
    with subprocess.Popen([strace, *asked], stderr=subprocess.PIPE, text=True) as tracer:
        timer = threading.Timer(LIMIT, tracer.kill)
        timer.start()
        try:
            _wait_until_attached(tracer)
            yield trace
        finally:
            timer.cancel()
            # It lets go of the server, and writes what is left.
            tracer.send_signal(signal.SIGINT)
            tracer.communicate(timeout=LIMIT)
    trace.all = list(_calls(file.read_text("utf-8").splitlines()))
    trace.calls = [call for call in trace.all if not call.failed]


def _wait_until_attached(tracer: subprocess.Popen[str]) -> None:
    assert tracer.stderr is not None
    said = tracer.stderr.readline()
    if "attached" not in said:
        raise CannotTrace(f"strace may not trace here: {said.strip()}")


def _calls(lines: list[str]) -> Iterator[Call]:
    """The calls in the order of their ends: one that waited for another thread's stands on two lines."""
    begun: dict[str, tuple[int, str]] = {}
    for number, line in enumerate(lines):
        match = _LINE.fullmatch(line)
        if match is None:
            continue
        text = match["text"]
        if text.endswith(_UNFINISHED):
            begun[match["thread"]] = number, text.removesuffix(_UNFINISHED)
            continue
        start, before = begun.pop(match["thread"], (number, "")) if match["resumed"] else (number, "")
        whole = before + text
        name, parenthesis, _ = whole.partition("(")
        if parenthesis:
            failed = re.search(r"\) += -1 E[A-Z]+ ", whole) is not None
            yield Call(name, whole, start, number, int(match["thread"]), failed)
