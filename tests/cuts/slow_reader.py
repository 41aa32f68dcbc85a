"""A reader that reads nothing while a long reply flows: what it costs, and what the others notice of it."""

import hashlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple, Self

import psutil

from mochi_server.ollama.standin import Behaviour, Gate, Model, Reply, StandIn
from tests.chat.clients import RawChat, parsed, raw_chat, read_events
from tests.raw_http import RawClient
from tests.server import API, LIMIT, Server, joined
from tests.standin_thread import StandInThread

OTHERS = 3
WINDOW = 100_000
"""Tokens. A model that is not held up goes on for ten of them."""

WHEN = ("before", "at most", "when only the slow one was left", "in the end")
_MEGABYTE = 1_000_000
_EVERY = 0.05
"""Seconds between two looks at the server's memory."""


class Read(NamedTuple):
    """One reader's whole stream: its digest without comments, its events, its bytes, and when its end came."""

    digest: str
    events: int
    size: int
    ended: float


class Figures(NamedTuple):
    """What came of it. Memory is the server's, in bytes."""

    events: list[int]
    """Of each reader, the slow one last."""

    same_bytes: bool
    joined_is_saved: bool
    others_ended_first: bool
    seconds: float
    """From the first token to the last reader's end, but for the slow one."""

    slow_seconds: float
    """That the slow one takes once it reads."""

    size: int
    before: int
    most: int
    silent: int
    """When all others have ended, and the slow one has read nothing."""

    after: int


class SlowReader:
    """A server with one reply of `tokens` tokens, which several read as it comes and one does not."""

    def __init__(self, folder: Path, tokens: int) -> None:
        model = Model(name="tiny:latest", reply=lambda _call: Reply(), digest="0" * 64, context_length=WINDOW)
        self._standin = StandInThread(StandIn([model]))
        self._folder = folder
        self._tokens = tokens
        self._left = ExitStack()
        self._most = 0

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self._standin)
            self._server = stack.enter_context(Server(self._folder, self._standin.url, "--log-level", "warning"))
            self._left = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.close()

    def measure(self, silence: float, *, slow: bool = True) -> Figures:
        """Let the reply flow; the slow reader, if there is one, begins to read `silence` seconds after its start."""
        session, gate = self._server.new_session(), Gate(1)
        self._standin.script(Behaviour(pieces=tuple(f"w{n} " for n in range(self._tokens)), gate=gate))
        self._most = before = self._memory()
        asked = {"message": "hi", "options": {"num_ctx": WINDOW}}
        over = threading.Event()
        with ThreadPoolExecutor(OTHERS + 2) as pool, ExitStack() as stack:
            first = stack.enter_context(raw_chat(self._server, f"/chat/{session}/stream", asked))
            read_events(first, 1)
            others = [first, *(stack.enter_context(self._listener(session)) for _ in range(OTHERS - 1))]
            deaf = stack.enter_context(self._listener(session)) if slow else None
            began = time.monotonic()
            gate.open()
            watching = pool.submit(self._watch, over)
            reads = [pool.submit(read_whole, client) for client in others]
            ended = [read.result() for read in reads]
            silent, told = self._memory(), time.monotonic()
            if deaf is not None:
                over.wait(max(0.0, began + silence - told))
                woke = time.monotonic()
                ended.append(read_whole(deaf))
            else:
                woke = ended[-1].ended
            over.set()
            watching.result()
            text = joined(parsed(first.answer.body))
        return Figures(
            events=[read.events for read in ended],
            same_bytes=len({read.digest for read in ended}) == 1,
            joined_is_saved=text == self._server.file(session)["messages"][-1]["content"],
            others_ended_first=max(read.ended for read in ended[:OTHERS]) <= woke,
            seconds=max(read.ended for read in ended[:OTHERS]) - began,
            slow_seconds=ended[-1].ended - woke,
            size=ended[0].size,
            before=before,
            most=self._most,
            silent=silent,
            after=self._memory(),
        )

    def _listener(self, session: str) -> RawClient:
        client = RawChat(self._server.url)
        client.socket.settimeout(LIMIT)
        request = f"GET {API}/chat/{session}/stream HTTP/1.1\r\nHost: 127.0.0.1:{self._server.port}\r\n\r\n"
        client.socket.sendall(request.encode())
        return client

    def _memory(self) -> int:
        return int(psutil.Process(self._server.process.pid).memory_info().rss)

    def _watch(self, over: threading.Event) -> None:
        while not over.wait(_EVERY):
            self._most = max(self._most, self._memory())


def read_whole(client: RawClient) -> Read:
    """Read a stream to its end."""
    answer = client.read_rest()
    assert answer.whole, "a stream broke off"
    digest = hashlib.sha256(answer.body.replace(b": keep-alive\n", b"")).hexdigest()
    return Read(digest, answer.body.count(b"\nevent: "), len(answer.body), time.monotonic())


def lines(title: str, figures: Figures) -> list[str]:
    """The figures for people."""
    megabytes = {name: round(number / _MEGABYTE, 1) for name, number in zip(WHEN, figures[-4:], strict=True)}
    told = ", ".join(f"{number} {when}" for when, number in megabytes.items())
    return [
        f"{title}:",
        f"  {figures.events[0]:,} events, {figures.size / _MEGABYTE:.1f} MB for each of {len(figures.events)} readers",
        f"  all but the slow one had it {figures.seconds:.1f} s after its first token",
        f"  the slow one took {figures.slow_seconds:.1f} s once it read",
        f"  same bytes for all: {figures.same_bytes}; joined they are the saved message: {figures.joined_is_saved}",
        f"  memory of the server in MB: {told}",
    ]
