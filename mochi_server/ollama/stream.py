"""One chat reply off the wire: bytes in, typed chunks out.

A connection is used for one reply and closed, which is also what tells Ollama to stop. Lines are split on line
feeds alone: what else counts as a line break in text may stand inside a reply.
"""

import asyncio
from collections.abc import Callable
from typing import cast

import httptools

from mochi_server.ollama import failures
from mochi_server.ollama.wire import NO_CHUNK, Chunk, decode_chunk, error_words

MAX_LINE_BYTES = 32 * 1024 * 1024
MAX_ERROR_BYTES = 64 * 1024

Sink = Callable[[list[Chunk]], None]
"""Takes the chunks of one read of the socket, in order. It is called from the event loop and must not block."""


class ChatStream(asyncio.Protocol):
    """The reply to one request. Its chunks go to `sink` as they come: no task wakes up for each of them.

    The request is given in parts, which are not copied. Time limits are in seconds, from the request to the first whole
    chunk, and then from one byte to the next.
    """

    def __init__(
        self, request: list[bytes], model: str, sink: Sink, *, first_token_timeout: float, token_timeout: float
    ) -> None:
        self._request = request
        self._model = model
        self._sink = sink
        self._first_token_timeout = first_token_timeout
        self._token_timeout = token_timeout
        self._loop = asyncio.get_running_loop()
        self._end: asyncio.Future[None] = self._loop.create_future()
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._status = 0
        self._retry_after: str | None = None
        self._tail = bytearray()
        self._chunks: list[Chunk] = []
        self._failure: Exception | None = None
        self._over = False
        self._begun = False
        self._heard = self._loop.time()
        self._watchdog: asyncio.TimerHandle | None = None

    async def ended(self) -> None:
        """Wait for the reply's end. Raises the MochiError that came in place of the chunk with `done`."""
        await self._end
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """Close the connection: an unfinished reply is generated no further, and nothing more goes to the sink."""
        self._over = True
        if self._watchdog is not None:
            self._watchdog.cancel()
        if self._transport is not None:
            self._transport.abort()

    # The transport calls these.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the request."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.writelines(self._request)
        self._request = []
        self._heard = self._loop.time()
        self._watchdog = self._loop.call_later(self._first_token_timeout, self._watch)

    def data_received(self, data: bytes) -> None:
        """Take what came; the sink gets all chunks of it at once."""
        if self._begun:
            self._heard = self._loop.time()
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._fail(failures.broken_off("what it sent is no HTTP answer"))
        if self._chunks:
            chunks, self._chunks = self._chunks, []
            try:
                self._sink(chunks)
            except Exception as bug:  # noqa: BLE001 - it is raised again where the end is waited for
                self._failure = bug
                self.close()
        if self._over:
            self._tell_end()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the face of the loss does not matter
        """A connection that goes before the last chunk has broken the reply off."""
        if self._status not in {0, 200}:
            self._refused()
        self._fail(failures.broken_off("the connection was closed before the reply's end"))
        self._tell_end()

    # The HTTP parser calls these.

    def on_header(self, name: bytes, value: bytes) -> None:
        """Note the one header that matters."""
        if name.lower() == b"retry-after":
            self._retry_after = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """Note the status."""
        self._status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        """Split off whole lines; an error's body is kept for its end."""
        if self._over:
            return
        if self._status != 200:
            self._tail += body[: MAX_ERROR_BYTES - len(self._tail)]
            return
        if not self._tail and body.find(b"\n") == len(body) - 1:
            self._line(body)  # the usual case: one whole line, nothing to join
            return
        # Looked for in what is new only: a long line in many pieces is joined once.
        if b"\n" in body:
            *lines, rest = (bytes(self._tail) + body).split(b"\n")
            self._tail = bytearray(rest)
            for line in lines:
                self._line(line)
        else:
            self._tail += body
        if len(self._tail) > MAX_LINE_BYTES:
            self._fail(failures.broken_off(f"one line of it is longer than {MAX_LINE_BYTES} bytes"))

    def on_message_complete(self) -> None:
        """The answer's end: of an error, or of a reply before its last line. A last line may lack its line feed."""
        if self._status != 200:
            self._refused()
            return
        self._line(bytes(self._tail))
        self._fail(failures.broken_off("it ended without its last line"))

    def _line(self, line: bytes) -> None:
        if self._over or not line or line.isspace():
            return
        try:
            chunk = decode_chunk(line)
        except NO_CHUNK:
            self._fail(failures.broken_off("one line of it is not what Ollama's protocol has"))
            return
        if chunk.error is not None:
            self._fail(failures.broken_off(chunk.error))
            return
        self._chunks.append(chunk)
        if not self._begun:
            self._begun = True
            self._heard = self._loop.time()
            self._watch_from_now()
        if chunk.done:
            self.close()

    def _refused(self) -> None:
        words = error_words(bytes(self._tail))
        self._fail(failures.refusal(self._status, words, self._model, self._retry_after))

    def _fail(self, failure: Exception) -> None:
        """End with this failure, unless it is over already."""
        if not self._over:
            self._failure = failure
            self.close()

    def _tell_end(self) -> None:
        if not self._end.done():
            self._end.set_result(None)

    def _watch_from_now(self) -> None:
        """The limit is the other one from now on, which may be over long before the first one would be."""
        if self._watchdog is not None:
            self._watchdog.cancel()
        self._watchdog = self._loop.call_later(self._token_timeout, self._watch)

    def _watch(self) -> None:
        """Look when the limit could be over, instead of arming a timer anew for each chunk."""
        limit = self._token_timeout if self._begun else self._first_token_timeout
        missing, setting = ("a further token", "TOKEN") if self._begun else ("its first token", "FIRST_TOKEN")
        left = self._heard + limit - self._loop.time()
        if left > 0:
            self._watchdog = self._loop.call_later(left, self._watch)
            return
        self._fail(failures.timed_out(f"send {missing}", limit, f"MOCHI_{setting}_TIMEOUT"))
        self._tell_end()
