"""Events to bytes on the wire: one write for all events that are ready."""

import contextlib
from collections.abc import Mapping
from typing import Protocol

import anyio
from sse_starlette import EventSourceResponse
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from mochi_server.api.edge import UNWRAPPED_SEND, WRITE_NOW, WriteNow
from mochi_server.api.http import state
from mochi_server.chat.generation import Listener
from mochi_server.domain.events import Entry

# Without a blank line, for both: a block that holds only these is an empty event to some clients. So they become the
# first lines of the next event's block.
RETRY = b"retry: 1000\n"
HEARTBEAT = b": keep-alive\n"


class Framing(Protocol):
    """How a reply's events look on the wire. What it gives may be empty."""

    opening: bytes
    """What comes before all events."""

    async def begun(self) -> None:
        """Wait until the answer may begin. Raises the MochiError that it is to be in place of a stream."""
        ...

    def frames(self, first: int, batch: list[Entry]) -> bytes | bytearray:
        """Consecutive events; `first` is the number of the first."""
        ...

    async def closing(self) -> bytes:
        """What comes behind the last event."""
        ...


class EventStream(EventSourceResponse):
    """A generation's events to one client, framed as the documented events unless told otherwise.

    The tasks and the watch for a client that leaves are sse-starlette's. Its send loop is replaced: it takes a lock
    and a timer for each event and writes each by itself, which costs as much as all the rest of the relay. So is its
    ping, which shares that lock.
    """

    def __init__(
        self, listener: Listener, heartbeat: float, headers: Mapping[str, str], framing: Framing | None = None
    ) -> None:
        super().__init__(
            iter(()),  # the events are sent by the loop below
            headers={"Content-Type": "text/event-stream", **headers},
            ping=heartbeat,
        )
        self._listener = listener
        self._framing: Framing = framing or Events(listener)
        self._sending = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events until `done`, or until the client leaves."""
        self._unwrapped: Send = scope[UNWRAPPED_SEND]
        self._write_now: WriteNow | None = scope.get(WRITE_NOW)
        metrics = state(Request(scope))["metrics"]
        with contextlib.closing(self._listener), metrics.stream():
            await super().__call__(scope, receive, send)

    async def _stream_response(self, send: Send) -> None:
        framing, unwrapped = self._framing, self._unwrapped
        await framing.begun()
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await unwrapped({"type": "http.response.body", "body": framing.opening, "more_body": True})
        self._sending = False
        async for first, batch in self._listener.batches(at_once=self._send_now if self._write_now else None):
            if body := framing.frames(first, batch):
                self._sending = True
                await unwrapped({"type": "http.response.body", "body": body, "more_body": True})
                self._sending = False
        self._sending = True
        await unwrapped({"type": "http.response.body", "body": await framing.closing(), "more_body": False})

    def _send_now(self, first: int, batch: list[Entry]) -> bool:
        """Send events from where they come about: waking this stream's task for them costs more than all the rest."""
        body = self._framing.frames(first, batch)
        return not body or (self._write_now is not None and self._write_now(body))

    async def _ping(self, send: Send) -> None:
        """Say something while there is nothing to say.

        While the client does not take what was said, this says no more: the comment would come out behind `done`. Who
        waits for the client already is served in order of arrival, so one that waits goes out before later events.
        """
        while True:
            await anyio.sleep(self.ping_interval)
            if not self._sending:
                await send({"type": "http.response.body", "body": HEARTBEAT, "more_body": True})


class Events:
    """The framing of the documented events."""

    opening = RETRY

    def __init__(self, listener: Listener) -> None:
        self._generation_id = listener.generation_id.encode()

    async def begun(self) -> None:
        """As Framing has it: at once, so that waiting can be told."""

    def frames(self, first: int, batch: list[Entry]) -> bytes | bytearray:
        """As Framing has it."""
        generation_id, number = self._generation_id, first
        frames = bytearray()
        for one in batch:
            frames += b"id: %b-%d\nevent: %b\ndata: %b\n\n" % (generation_id, number, one.name.encode(), one.data)
            number += 1
        return frames

    async def closing(self) -> bytes:
        """As Framing has it."""
        return b""
