"""One HTTP connection: uvicorn's, with a limit on what its client may send, how slowly, and how many there are.

uvicorn reads 50 MB of headers, waits for ever for the rest of a request, and takes any number of connections. Which
bytes make a request is left to its parser, llhttp, which is strict. Nothing here is run for what is sent: a stream
costs no more than without.
"""

import contextvars
import enum
import logging
import math
from asyncio import AbstractEventLoop, BaseTransport, TimerHandle, Transport
from typing import Any, cast

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from mochi_server.api.edge import WRITE_NOW
from mochi_server.connections.refusals import answer, reason
from mochi_server.connections.writing import write_now
from mochi_server.errors import (
    BadRequest,
    HeadersTooLarge,
    MochiError,
    RequestTimeout,
    ShuttingDown,
    TooManyConnections,
)
from mochi_server.observability.logs import log
from mochi_server.observability.metrics import Metrics
from mochi_server.settings import Settings

logger = logging.getLogger("mochi_server.connection")

MOST_HEADERS = 200
MOST_AHEAD = 8
"""Requests that may wait on a connection for the answers of those before them."""

LEAST_RATE = 1000
"""Bytes a second at which a body must come on the whole, once its first wait is over."""

MOST_DISCARDED = 256 * 1024 * 1024
"""Bytes of a body that nobody wants which are read all the same, so that its client gets to read why."""

_TICK = 0.01


class _At(enum.Enum):
    """Where in its client's bytes a connection is."""

    BETWEEN = "before a request's first byte"
    HEAD = "head"
    BODY = "body"


class Connections:
    """What all connections share: the limits, and which of them wait for their client, the longest first."""

    def __init__(self, settings: Settings, most: int, metrics: Metrics) -> None:
        self.most = most
        self.metrics = metrics
        self.settings = settings
        self.waiting: dict[Connection, None] = {}

    def connect(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: AbstractEventLoop | None = None,
    ) -> "Connection":
        """The protocol of a new connection, as uvicorn asks for it."""
        return Connection(self, config, server_state, app_state, _loop)


class Connection(HttpToolsProtocol):
    """uvicorn's protocol, which hands complete heads to the application, with limits around it.

    A deadline is one timer that looks when it could be over, and is not set anew by what arrives. It is over at the
    latest when the answer begins: a stream has none.
    """

    def __init__(
        self,
        shared: Connections,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        loop: AbstractEventLoop | None,
    ) -> None:
        super().__init__(config, server_state, app_state, loop)
        self._shared = shared
        self._limits = shared.settings
        self._at = _At.BETWEEN
        self._taken = 0  # bytes of the head, of the body, or of what is discarded
        self._heads = 0
        self._since = self._progress = self.loop.time()
        self._timer: TimerHandle | None = None
        self._refused = False
        self._ends = False

    @property
    def _answering(self) -> bool:
        """Whether the application is at work for this connection."""
        cycle = self.cycle
        return cycle is not None and not cycle.response_complete and not cycle.disconnected

    def connection_made(self, transport: BaseTransport) -> None:
        """Make room, if need be, at the cost of who has let the server wait longest."""
        super().connection_made(transport)  # type: ignore[arg-type]  # a socket's, which is what it needs
        self.flow = self._flow = _Flow(self.transport, self.loop)
        self._patient = cast("Transport", _Patient(self))
        waiting = self._shared.waiting
        waiting[self] = None
        while len(self.connections) > self._shared.most:
            oldest = next(iter(waiting))
            if oldest is self:
                self._refuse(TooManyConnections(self._shared.most))
                return
            oldest.make_way()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Leave nothing behind."""
        super().connection_lost(exc)
        self._shared.waiting.pop(self, None)
        if self._timer is not None:
            self._timer.cancel()

    def make_way(self) -> None:
        """End at once."""
        self._shared.waiting.pop(self, None)
        self.connections.discard(self)
        self.transport.abort()

    def shutdown(self) -> None:
        """End behind the answer, if there is to be one. A body that still comes is not waited for."""
        if self._answering and self._at is _At.BODY and not self.cycle.response_started:
            self._refuse(ShuttingDown())
        elif self._answering:
            super().shutdown()
        else:
            self.transport.close()

    def data_received(self, data: bytes) -> None:
        """Read on. What is no HTTP, or too much of it, is refused."""
        self._unset_keepalive_if_required()
        if self._refused:
            self._discard(len(data))
            return
        heads, in_body = self._heads, self._at is _At.BODY
        try:
            self._parse(data)
        except httptools.HttpParserError as error:
            self._refuse(reason(error))
            return
        if self._at is not _At.BODY and not in_body and self._heads == heads:
            self._taken += len(data)
            if self._taken > self._limits.max_header_bytes:
                self._refuse(self._too_large())
                return
        if self._at is not _At.BETWEEN:
            self._watch()

    def _parse(self, data: bytes) -> None:
        """Feed the parser. A wish for another protocol is passed over, as RFC 9110 (7.8) lets a server do.

        The parser itself would take all that follows such a wish, a body too, for that protocol.
        """
        while True:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                head = self._head_without_upgrade()
                self.parser = httptools.HttpRequestParser(self)
                data = head + data[upgrade.args[0] :]
            else:
                return

    def _head_without_upgrade(self) -> bytes:
        lines = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())]
        lines += [b"%b: %b" % header for header in self.headers if header[0] not in {b"upgrade", b"connection"}]
        if not self.parser.should_keep_alive():
            lines.append(b"connection: close")
        return b"\r\n".join([*lines, b"", b""])

    def on_message_begin(self) -> None:
        """The parser's word for a request's first byte."""
        super().on_message_begin()
        self._at, self._since = _At.HEAD, self.loop.time()

    def on_headers_complete(self) -> None:
        """The parser's word for a whole head. Raises MochiError, and what uvicorn's own raises."""
        has_body = self._check_head()
        if self.parser.should_upgrade():
            return
        if self._answering and len(self.pipeline) >= MOST_AHEAD:
            raise BadRequest("Too many requests came ahead of their answers.")
        super().on_headers_complete()
        self.cycle.scope[WRITE_NOW] = write_now(self.cycle)  # type: ignore[literal-required]  # ours, which uvicorn does not know
        self.headers = _TRAILERS  # which in the request's own list would pass for headers
        self._heads += 1
        self._at, self._taken = _At.BODY, 0
        self._since = self._progress = self.loop.time()
        if has_body:
            self.cycle.transport = self._patient
            if self.expect_100_continue:
                # Whether the body is still sent after another answer than "continue" is the client's own affair.
                self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """The parser's word for a part of the body."""
        self._taken += len(body)
        self._progress = self.loop.time()
        if not self._answering:
            self._discard(0)
        elif self.cycle.response_started and self._taken > self._limits.max_body_bytes:
            self.transport.close()  # a body that nobody reads, behind which nothing can be said any more
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The parser's word for a request's end."""
        if self.parser.should_upgrade():
            return
        super().on_message_complete()
        self._at, self._taken = _At.BETWEEN, 0
        if self._answering:
            self._shared.waiting.pop(self, None)
        elif self._ends:
            self.transport.close()
        else:
            self._since = self.loop.time()

    def on_response_complete(self) -> None:
        """The word of uvicorn for an answer's end: the client is waited for."""
        super().on_response_complete()
        if self.transport.is_closing():
            return
        self._unset_keepalive_if_required()  # ours is the one timer
        self._since = self._progress = self.loop.time()
        if not self._answering:
            self._shared.waiting[self] = None
            if self._at is _At.BODY:
                self._taken = 0
        self._watch()

    def close_when_read(self) -> None:
        """Close behind an answer, with a body that still comes discarded first.

        To close with bytes unread tells the client's system to forget the answer.
        """
        unread = self._at is _At.BODY or self._refused
        if unread and self.cycle.response_complete and not self.transport.is_closing():
            self._ends = True
            self.transport.write_eof()
        else:
            self.transport.close()

    def _check_head(self) -> bool:
        """Whether there is a body. Raises HeadersTooLarge, BadRequest."""
        size, has_body = len(self.url), False
        for name, value in self.headers:
            size += len(name) + len(value) + 4  # the colon, the space, the line's end
            if name == b"content-length":
                has_body = value.strip() != b"0"
            elif name == b"transfer-encoding":
                has_body = True
                if value.strip().lower() != b"chunked" or self.parser.get_http_version() != "1.1":
                    raise BadRequest("A body may be chunked, in HTTP/1.1, and is sent in no other encoding.")
            elif name == b"upgrade" and value.lower() == b"websocket":
                raise BadRequest("This server speaks HTTP, and no WebSocket.")
        if self.parser.get_method() == b"CONNECT":
            raise BadRequest("This server is no proxy.")
        if size > self._limits.max_header_bytes or len(self.headers) > MOST_HEADERS:
            raise self._too_large()
        if not self.url.startswith(b"/") and self.url != b"*":
            # RFC 9112 (3.2.2): who is named in the target is who is meant, whatever `Host` says.
            authority = self.url.partition(b"://")[2].partition(b"/")[0].partition(b"?")[0]
            self.headers[:] = [(b"host", authority), *(header for header in self.headers if header[0] != b"host")]
        return has_body

    def _too_large(self) -> HeadersTooLarge:
        most = self._limits.max_header_bytes
        return HeadersTooLarge(
            f"The head of the request is larger than {most} bytes, or has more than {MOST_HEADERS} headers.",
            {"limit_bytes": most, "limit_headers": MOST_HEADERS},
        )

    def _deadline(self) -> float:
        """When the client has been waited for long enough; infinite while the server is at work itself."""
        limits = self._limits
        if self._answering:
            if self._at is not _At.BODY or self.cycle.response_started or self.pipeline:
                return math.inf
            # From when on the server has been reading: that it was not is no fault of the client.
            reading = self._flow.resumed
            at_all = max(self._since, reading) + limits.body_timeout + self._taken / LEAST_RATE
            return min(max(self._progress, reading) + limits.body_timeout, at_all)
        if self._refused or self._at is _At.BODY:
            return self._since + limits.body_timeout
        if self._at is _At.BETWEEN and self._heads:
            return self._since + limits.keep_alive_timeout
        return self._since + limits.header_timeout

    def _watch(self) -> None:
        """See to it that the timer looks no later than at the deadline."""
        deadline = self._deadline()
        if deadline == math.inf:
            return
        if self._timer is not None:
            if self._timer.when() <= deadline:
                return
            self._timer.cancel()
        # What it logs is not of the request whose end set it.
        self._timer = self.loop.call_at(deadline, self._look, context=contextvars.Context())

    def _look(self) -> None:
        self._timer = None
        if self.transport.is_closing():
            return
        if self._flow.read_paused:
            self._flow.resumed = self.loop.time()
        if self.loop.time() + _TICK < self._deadline():
            self._watch()
        elif self._refused or self._at is _At.BETWEEN or not (self._answering or self._at is _At.HEAD):
            self.transport.close()
        else:
            slow = "body" if self._at is _At.BODY else "head"
            self._refuse(RequestTimeout(f"The {slow} of the request came too slowly.", {"slow": slow}))

    def _refuse(self, error: MochiError) -> None:
        """Say why, and read nothing more as a request."""
        self._refused = True
        if self._at is _At.BODY:
            if not self._answering or self.cycle.response_started or self.pipeline:
                self.transport.close()  # there is no place for another answer
                return
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        elif self._answering:
            # What came before is answered, and nothing behind it.
            self.cycle.keep_alive = False
            self.cycle.transport = self._patient
            return
        log(logger, logging.INFO, "refused", status=error.status, code=error.code)
        self._shared.metrics.refused(error.code)
        path = "" if self._at is _At.BETWEEN else self.url.partition(b"?")[0].decode("latin-1")
        self.transport.write(answer(error, path, self.server_state.default_headers))
        if isinstance(error, RequestTimeout | ShuttingDown):
            self.transport.close()
            return
        self.transport.write_eof()
        self.flow.resume_reading()
        self._since, self._taken = self.loop.time(), 0
        self._watch()

    def _discard(self, size: int) -> None:
        self._taken += size
        if self._taken > MOST_DISCARDED:
            self.transport.close()


class _Flow(FlowControl):
    """uvicorn's, which pauses a client that sends more than is read; it remembers since when it is read again."""

    def __init__(self, transport: Transport, loop: AbstractEventLoop) -> None:
        super().__init__(transport)
        self._loop = loop
        self.resumed = 0.0

    def resume_reading(self) -> None:
        if self.read_paused:
            self.resumed = self._loop.time()
        super().resume_reading()


class _Patient:
    """What an answer writes to: the connection's transport, but for how it is closed."""

    def __init__(self, connection: Connection) -> None:
        # Bound here, so that a stream's writes take no way round.
        self.write = connection.transport.write
        self.is_closing = connection.transport.is_closing
        self.close = connection.close_when_read


class _Nowhere(list[tuple[bytes, bytes]]):
    """Where headers are put that nobody is to have."""

    def append(self, _: tuple[bytes, bytes]) -> None:
        """Keep nothing."""


_TRAILERS = _Nowhere()
