"""The soak itself: clients that work in turns with quiet moments, beside an Ollama that fails now and then."""

import subprocess
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Self

import httpx
import psutil

from tests.inside import Instrument
from tests.server import LIMIT, Server
from tests.soak.client import Wrong
from tests.soak.operations import Worker
from tests.soak.quiet import Sample, Watched
from tests.soak.speech import SILENCE, standin
from tests.standin_thread import StandInThread

ENVIRONMENT = {"MOCHI_DISCONNECT_GRACE": "0.5", "MOCHI_TOKEN_TIMEOUT": f"{SILENCE:g}"}

_ALLOWED = frozenset({"info", "debug"})


class Soak:
    """A server and so many clients. `turn` lets them work for a while; whatever is wrong is told in `wrong`."""

    def __init__(self, folder: Path, seed: int, clients: int) -> None:
        self._instrument = Instrument(folder)
        self._ollama = StandInThread(standin())
        self._folder = folder
        self._seed = seed
        self._count = clients
        self._until = 0.0
        self.wrong: list[str] = []

    def __enter__(self) -> Self:
        self._ollama.__enter__()
        arguments = ("--log-format", "json")
        self._server = Server(
            self._folder, self._ollama.url, *arguments, environment=ENVIRONMENT, through=self._instrument.through
        )
        try:
            self._server.start()
        except BaseException:
            self._ollama.__exit__()
            raise
        self.watched = Watched(self._server, self._instrument)
        self._workers = [Worker(self._server.port, self._seed + number) for number in range(self._count)]
        return self

    def __exit__(self, *_: object) -> None:
        self._server.kill()
        self._ollama.__exit__()

    def turn(self, seconds: float) -> Sample | None:
        """Have the clients work for so long and leave nothing behind; then, what the server holds, if it still answers.

        After a KeyboardInterrupt they end what they are at first.
        """
        self._until = time.monotonic() + seconds
        threads = [threading.Thread(target=self._work, args=(worker,), daemon=True) for worker in self._workers]
        for thread in threads:
            thread.start()
        try:
            self._join(threads, seconds + 3 * LIMIT)
        except KeyboardInterrupt:
            self._until = 0
            self._join(threads, LIMIT)
            raise
        try:
            return self.watched.sample()
        except (OSError, ValueError, httpx.HTTPError, psutil.Error) as error:
            self.wrong.append(f"the server does not tell what it holds: {error!r}")
            return None

    def stop(self) -> None:
        """End the server in order, and look at what it logged and answered."""
        try:
            code = self._server.stop()
        except subprocess.TimeoutExpired:
            self.wrong.append("the server does not end")
            return
        if code != 0:
            self.wrong.append(f"the server's exit code is {code}")
        levels = Counter((line["level"], line["event"]) for line in self._server.log_lines())
        self.wrong += [f"{n} times logged: {what}" for (level, what), n in levels.items() if level not in _ALLOWED]
        failed = Counter({status: n for status, n in self.answers.items() if status >= 500})
        provoked = sum((worker.provoked for worker in self._workers), Counter[int]())
        if failed != provoked:
            self.wrong.append(f"answers from 500 on were {dict(failed)}, provoked were {dict(provoked)}")

    @property
    def operations(self) -> Counter[str]:
        """What was done so far, by kind."""
        return sum((worker.done for worker in self._workers), Counter[str]())

    @property
    def compared(self) -> int:
        """How many replies were held to what was kept of them."""
        return sum(worker.compared for worker in self._workers)

    @property
    def answers(self) -> Counter[int]:
        """How many answers there were of each status."""
        return sum((worker.client.answers for worker in self._workers), Counter[int]())

    def _join(self, threads: list[threading.Thread], seconds: float) -> None:
        end = time.monotonic() + seconds
        for thread in threads:
            thread.join(max(0, end - time.monotonic()))
        if any(thread.is_alive() for thread in threads):
            self.wrong.append("a client waits for an answer for good")

    def _work(self, worker: Worker) -> None:
        try:
            while time.monotonic() < self._until:
                worker.work()
            worker.tidy()
        except Wrong as error:
            self.wrong.append(str(error))
        except Exception as error:  # noqa: BLE001 - whatever ends a client is to be told
            self.wrong.append(f"a client ended with {error!r}")
