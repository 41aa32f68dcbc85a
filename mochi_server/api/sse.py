"""Events to bytes on the wire: one write for all events that are ready."""

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Protocol, cast

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from mochi_server.api.edge import UNWRAPPED_SEND, write_now
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


class EventStream(Response):
    """A generation's events to one client, framed as the documented events unless told otherwise.

    What comes while the client takes all is written from where it comes about; this stream's own task sends what went
    before, what the client was too slow for, and the end. Beside it there is one that waits for the client to leave.
    (sse-starlette would have four in a task group, which are 24 KB, a tenth of a turn's time, and, for each event, a
    lock, a timer and a write.)
    """

    def __init__(
        self, listener: Listener, heartbeat: float, headers: Mapping[str, str], framing: Framing | None = None
    ) -> None:
        self.status_code = 200
        self.background = None
        # Proxies are not to keep it, nor to hold it back until they have more.
        fixed = {"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        self.init_headers({**fixed, "Connection": "keep-alive", **headers})
        self._listener = listener
        self._heartbeat = heartbeat
        self._framing: Framing = framing or Events(listener)
        self._left = False
        self._sending = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events until `done`, or until the client leaves."""
        self._send, self._send_body, self._write_now = send, cast("Send", scope[UNWRAPPED_SEND]), write_now(scope)
        with contextlib.closing(self._listener), state(Request(scope))["metrics"].stream():
            if scope["method"] == "HEAD":
                await self._begin()
                await self._send_body({"type": "http.response.body", "body": b"", "more_body": False})
            else:
                await self._until_left(receive)

    async def _until_left(self, receive: Receive) -> None:
        loop, task = asyncio.get_running_loop(), cast("asyncio.Task[None]", asyncio.current_task())
        watch = loop.create_task(self._watch(receive, task))
        self._timer = loop.call_later(self._heartbeat, self._beat, loop)
        try:
            await self._stream()
        except asyncio.CancelledError:
            # The server may want it to end, too.
            if not self._left or task.uncancel():
                raise
        finally:
            watch.cancel()
            self._timer.cancel()

    async def _watch(self, receive: Receive, task: asyncio.Task[None]) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._left = True
        task.cancel()

    async def _begin(self) -> None:
        await self._send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})

    async def _stream(self) -> None:
        framing = self._framing
        await framing.begun()
        await self._begin()
        await self._send_body({"type": "http.response.body", "body": framing.opening, "more_body": True})
        self._sending = False
        async for first, batch in self._listener.batches(at_once=self._send_now):
            if body := framing.frames(first, batch):
                self._sending = True
                await self._send_body({"type": "http.response.body", "body": body, "more_body": True})
                self._sending = False
        self._sending = True
        await self._send_body({"type": "http.response.body", "body": await framing.closing(), "more_body": False})

    def _send_now(self, first: int, batch: list[Entry]) -> bool:
        """Send events from where they come about: waking this stream's task for them costs more than all the rest."""
        body = self._framing.frames(first, batch)
        return not body or self._write_now(body)

    def _beat(self, loop: asyncio.AbstractEventLoop) -> None:
        """Say something while there is nothing to say; a client that does not take what was said is told no more."""
        if not self._sending:
            self._write_now(HEARTBEAT)
        self._timer = loop.call_later(self._heartbeat, self._beat, loop)


class Events:
    """The framing of the documented events."""

    opening = RETRY

    def __init__(self, listener: Listener) -> None:
        self._generation_id = listener.generation_id.encode()

    async def begun(self) -> None:
        """As Framing has it: at once, so that waiting can be told. But the reply's task goes first: it asks Ollama."""
        await asyncio.sleep(0)

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
