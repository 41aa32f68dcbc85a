"""Events to bytes on the wire: one write for all events that are ready."""

import contextlib
from collections.abc import Mapping

from sse_starlette import EventSourceResponse
from starlette.types import Receive, Scope, Send

from mochi_server.api.edge import UNWRAPPED_SEND
from mochi_server.chat.generation import Subscription
from mochi_server.domain.events import Entry

# Without a blank line, for both: a block that holds only these is an empty event to some clients. So they become the
# first lines of the next event's block.
RETRY = b"retry: 1000\n"
HEARTBEAT = b": keep-alive\n"


class EventStream(EventSourceResponse):
    """A generation's events to one client.

    The ping and the watch for a client that leaves are sse-starlette's. Its send loop is replaced: it takes a lock
    and a timer for each event and writes each by itself, which costs as much as all the rest of the relay.
    """

    def __init__(self, subscription: Subscription, heartbeat: float, headers: Mapping[str, str]) -> None:
        super().__init__(
            iter(()),  # the events are sent by the loop below
            headers={"Content-Type": "text/event-stream", **headers},
            ping=heartbeat,
            ping_message_factory=_heartbeat,  # type: ignore[arg-type]  # bytes are taken as they are
        )
        self._subscription = subscription

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events until `done`, or until the client leaves."""
        self._unwrapped: Send = scope[UNWRAPPED_SEND]
        with contextlib.closing(self._subscription):
            await super().__call__(scope, receive, send)

    async def _stream_response(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        unwrapped = self._unwrapped
        await unwrapped({"type": "http.response.body", "body": RETRY, "more_body": True})
        generation_id = self._subscription.generation.id.encode()
        async for first, batch in self._subscription.batches():
            body = frames(generation_id, first, batch)
            await unwrapped({"type": "http.response.body", "body": body, "more_body": True})
        self.active = False
        await unwrapped({"type": "http.response.body", "body": b"", "more_body": False})


def frames(generation_id: bytes, first: int, batch: list[Entry]) -> bytes:
    """Consecutive events as they stand in the stream; `first` is the number of the first."""
    return b"".join(
        [
            b"id: %b-%d\nevent: %b\ndata: %b\n\n" % (generation_id, number, entry.name.encode(), entry.data)
            for number, entry in enumerate(batch, first)
        ]
    )


def _heartbeat() -> bytes:
    return HEARTBEAT
