"""The processes that are measured: how they are started and ended, and what they have taken so far."""

import contextlib
import platform
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from os import environ
from types import FrameType
from typing import NoReturn

import psutil

END_SECONDS = 15
"""What a process is given to end in order."""

MOST_FILES = 65_536


class Process:
    """A Python process that prints one line once it can be reached: the line ends with its port or its URL."""

    def __init__(self, *command: str, environment: Mapping[str, str] | None = None) -> None:
        self.began = time.perf_counter()
        # In a process group of its own, so that Ctrl-C comes here alone, and this ends it in order.
        self._process = subprocess.Popen(
            [sys.executable, *command],
            stdout=subprocess.PIPE,
            text=True,
            process_group=0,
            env={**environ, **(environment or {})},
        )
        self.pid = self._process.pid
        self._seen = psutil.Process(self.pid)

    def wait_for_port(self) -> int:
        """Its port, once it listens. Raises RuntimeError where it has ended instead."""
        if self._process.stdout is None:
            raise RuntimeError("its output was not asked for")
        line = self._process.stdout.readline().strip()
        if not line:
            raise RuntimeError(f"{' '.join(map(str, self._process.args[1:3]))} did not start")  # type: ignore[index]
        return int(line.rpartition(":")[2])

    @property
    def cpu_seconds(self) -> float:
        """User and system time of all its threads so far."""
        if platform.system() == "Linux":
            # The process's own clock, in nanoseconds; what /proc tells is counted in ticks of 10 ms. The number of
            # the clock is what clock_getcpuclockid(3) gives.
            return time.clock_gettime(~self.pid << 3 | 2)
        times = self._seen.cpu_times()
        return float(times.user + times.system)

    @property
    def memory(self) -> int:
        """Bytes of resident memory."""
        return int(self._seen.memory_info().rss)

    def end(self) -> None:
        """End it, in order if it takes the chance."""
        self._process.terminate()
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


@contextlib.contextmanager
def started(*command: str, environment: Mapping[str, str] | None = None) -> Iterator[tuple[Process, int]]:
    """A Python process of this command and the port that it listens on; ended on leaving."""
    process = Process(*command, environment=environment)
    try:
        yield process, process.wait_for_port()
    finally:
        process.end()


def allow_many_files() -> None:
    """Let this process and those it starts have a connection for each of many streams."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def end_on_signals() -> None:
    """Have SIGTERM and SIGHUP end this process as Ctrl-C does, so that those it started are ended, too."""

    def leave(number: int, _: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, leave)
