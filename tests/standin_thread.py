"""A stand-in for Ollama on an event loop and thread of its own, for tests that block."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Self

from mochi_server.ollama.standin import Behaviour, Recorded, StandIn
from tests.tiny_models import tiny_models

LIMIT = 5.0
"""Seconds that anything here may take."""


class StandInThread:
    """Runs a `StandIn`, one with the tiny models unless given another, from entering the context to leaving it.

    In between it may `close` (as if Ollama were killed) and `start` again, on the same port. What it counted and
    recorded stays.
    """

    def __init__(self, standin: StandIn | None = None) -> None:
        self.standin = standin or StandIn(tiny_models())
        self._port = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="stand-in", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.close()
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(LIMIT)
            self._loop.close()

    def start(self) -> None:
        """Listen, on the port of before if there was one."""
        self._run(self.standin.start(port=self._port))
        self._port = int(self.url.rpartition(":")[2])

    def close(self) -> None:
        """Break every connection and listen no more."""
        self._run(self.standin.close())

    @property
    def url(self) -> str:
        return self.standin.url

    @property
    def active(self) -> int:
        return self.standin.active

    @property
    def abandoned(self) -> int:
        return self.standin.abandoned

    @property
    def requests(self) -> list[Recorded]:
        """What has reached it so far, oldest first."""
        return self.standin.requests.copy()

    @property
    def chats(self) -> list[Recorded]:
        """The requests to `/api/chat` so far, refused ones included."""
        return [request for request in self.requests if request.path == "/api/chat"]

    def script(self, *behaviours: Behaviour) -> None:
        """Queue how the coming chat replies go, one for each."""
        self.standin.script(*behaviours)

    def wait_until(self, predicate: Callable[[StandIn], bool], limit: float = LIMIT) -> None:
        """Block until the predicate over `requests`, `active` and `abandoned` holds; `TimeoutError` after the limit."""
        self.standin.wait_until(lambda: predicate(self.standin), limit)

    def wait_for_chats(self, count: int, limit: float = LIMIT) -> None:
        """Block until that many requests to `/api/chat` have come in all."""
        self.wait_until(lambda _: len(self.chats) >= count, limit)

    def wait_until_idle(self, limit: float = LIMIT) -> None:
        """Block until no chat reply is running."""
        self.wait_until(lambda standin: standin.active == 0, limit)

    def _run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(LIMIT)
