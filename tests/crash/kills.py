"""Clients at work, and a server that is killed under them, over and over."""

import os
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Self

from mochi_server.ollama.standin import StandIn
from tests.crash import check
from tests.crash.client import Cut
from tests.crash.known import Known, Violation
from tests.crash.operations import Moments, Worker
from tests.crash.talker import Talker
from tests.server import LIMIT, Server
from tests.standin_thread import StandInThread

WORKERS = 8
_LONGEST_START = 0.8
"""Seconds after which a server has surely been killed in its start, or has ended it."""
_PATIENCE = 1.0
"""Seconds that a moment is waited for."""


class Crash:
    """A folder with eight clients' sessions, and the server that is killed.

    `longest` is how many seconds the clients have between a start and a kill, at most. The seed decides what the
    clients do and when they are struck; what the server has come to by then is the machine's.
    """

    def __init__(self, folder: Path, seed: int, longest: float) -> None:
        chance = random.Random(seed)  # noqa: S311 - nobody is to be kept from guessing it
        self.kills_in_starts = 0
        self._longest = longest
        self._chance = chance
        self._talker = Talker(random.Random(chance.random()))  # noqa: S311 - as above
        self._moments = Moments()
        self._workers = [
            Worker(random.Random(chance.random()), self._talker, self._moments)  # noqa: S311 - as above
            for _ in range(WORKERS)
        ]
        self._standin = StandInThread(StandIn([self._talker.model()]))
        self._folder = folder
        self._graves: set[str] = set()
        self._killed = threading.Event()
        self._left = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self._standin)
            self._server = Server(self._folder, self._standin.url, "--log-level", "warning")
            stack.callback(self._server.kill)  # also where its start is broken off
            self._server.start()
            self._left = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.close()

    @property
    def operations(self) -> int:
        """How many were acknowledged so far."""
        return sum(worker.operations for worker in self._workers)

    @property
    def events(self) -> int:
        """How many were shown so far."""
        return sum(worker.events for worker in self._workers)

    def kill(self) -> list[str]:
        """Let the clients work, kill the server at some moment, start it again; what is then wrong."""
        wrong = self._work_and_kill()
        wrong += check.stopped(self._server.sessions, self._known(), self._graves)
        self._standin.standin.requests.clear()
        while self._chance.random() < 0.15:
            self._kill_in_a_start()
            wrong += check.stopped(self._server.sessions, self._known(), self._graves)
        try:
            self._server.start()
            wrong += check.started(self._server, self._known(), self._talker, self._graves)
        except (AssertionError, OSError, Violation) as error:
            wrong.append(f"after the kill: {error}")
        for worker in self._workers:
            worker.sessions = [known for known in worker.sessions if not known.gone]
        return wrong

    def _known(self) -> list[Known]:
        return [known for worker in self._workers for known in worker.sessions]

    def _work_and_kill(self) -> list[str]:
        self._killed.clear()
        with ThreadPoolExecutor(WORKERS, thread_name_prefix="client") as pool:
            working = [pool.submit(self._work, worker) for worker in self._workers]
            try:
                self._wait_for_the_moment()
            finally:
                self._killed.set()
                self._server.kill()
            ends = [one.exception(2 * LIMIT) for one in working]
        wrong = [str(error) for error in ends if isinstance(error, Violation | TimeoutError)]
        for error in ends:
            if error is not None and not isinstance(error, Violation | TimeoutError):
                raise error
        return wrong

    def _work(self, worker: Worker) -> None:
        try:
            worker.work(self._server.port)
        except Cut:
            if not self._killed.is_set():
                raise Violation("a connection was lost though nobody killed the server") from None

    def _wait_for_the_moment(self) -> None:
        """Any moment; or one in the middle of something small, since a save lasts a millisecond."""
        chance = self._chance
        time.sleep(chance.uniform(0, self._longest))
        match chance.choice(("any", "operation", "save", "in a save")):
            case "operation":
                self._moments.wait(_PATIENCE)
                time.sleep(chance.uniform(0, 0.03))
            case "save":
                _wait_for_a_save(self._server.sessions)
            case "in a save":
                _wait_for_a_save(self._server.sessions)
                time.sleep(chance.uniform(0, 0.003))

    def _kill_in_a_start(self) -> None:
        self.kills_in_starts += 1
        # Only then is it known which process that is.
        timer = threading.Timer(self._chance.uniform(0.2, _LONGEST_START), self._kill_process)
        timer.start()
        with suppress(AssertionError):
            self._server.start()
        timer.join(LIMIT)
        self._server.kill()

    def _kill_process(self) -> None:
        self._server.process.kill()


def _wait_for_a_save(folder: Path) -> None:
    """Until a session's file is another one, or one is being written beside them."""
    end = time.monotonic() + _PATIENCE
    before = _state(folder)
    while _state(folder) == before and time.monotonic() < end:
        pass


def _state(folder: Path) -> set[tuple[str, int, int]]:
    state: set[tuple[str, int, int]] = set()
    for place in (folder, folder / ".mochi"):
        with os.scandir(place) as entries:
            for entry in entries:
                if entry.name.endswith((".json", ".tmp")):
                    with suppress(FileNotFoundError):
                        status = entry.stat()
                        state.add((entry.name, status.st_size, status.st_mtime_ns))
    return state
