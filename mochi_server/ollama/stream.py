"""One chat reply off the wire: bytes in, typed chunks out.

A connection is used for one reply and closed, which is also what tells Ollama to stop. Lines are split on line
feeds alone: what else counts as a line break in text may stand inside a reply.
"""

import asyncio
from typing import cast

import httptools

from mochi_server.errors import MochiError
from mochi_server.ollama import failures
from mochi_server.ollama.wire import Chunk, decode_chunk, error_words

MAX_LINE_BYTES = 32 * 1024 * 1024
MAX_ERROR_BYTES = 64 * 1024
MAX_WAITING_CHUNKS = 1024
"""Chunks not yet taken at which reading from the socket pauses."""


class ChatStream(asyncio.Protocol):
    """The reply to one request, as an asynchronous iterator over lists of chunks: all that were ready.

    It ends after the chunk with `done`. Raises the MochiError that ended the reply otherwise, once the chunks before
    it were taken. Time limits are in seconds.
    """

    def __init__(self, request: bytes, model: str, first_token_timeout: float, token_timeout: float) -> None:
        self._request = request
        self._model = model
        self._first_token_timeout = first_token_timeout
        self._token_timeout = token_timeout
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._status = 0
        self._retry_after: str | None = None
        self._tail = bytearray()
        self._ready: list[Chunk] = []
        self._waiter: asyncio.Future[None] | None = None
        self._failure: MochiError | None = None
        self._ended = False
        self._heard: float = self._loop.time()
        self._begun = False
        self._watchdog: asyncio.TimerHandle | None = None

    def __aiter__(self) -> "ChatStream":
        return self

    async def __anext__(self) -> list[Chunk]:
        while not self._ready:
            if self._failure is not None:
                raise self._failure
            if self._ended:
                raise StopAsyncIteration
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        ready, self._ready = self._ready, []
        if self._transport is not None and len(ready) >= MAX_WAITING_CHUNKS and not self._ended:
            self._transport.resume_reading()
        return ready

    def close(self) -> None:
        """Close the connection: an unfinished reply is generated no further."""
        self._ended = True
        if self._watchdog is not None:
            self._watchdog.cancel()
        if self._transport is not None:
            self._transport.abort()

    # The transport calls these.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the request."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(self._request)
        self._request = b""
        self._heard = self._loop.time()
        self._watchdog = self._loop.call_later(self._first_token_timeout, self._watch)

    def data_received(self, data: bytes) -> None:
        """Take what came; wake whoever waits once for all of it."""
        if self._ended:
            return
        self._heard = self._loop.time()
        self._begun = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._fail(failures.broken_off("what it sent is not HTTP"))
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the face of the loss does not matter
        """A connection that goes before the last chunk has broken the reply off."""
        if not self._ended:
            if self._status not in {0, 200}:
                self._refused()
            self._fail(failures.broken_off("the connection was closed before the reply's end"))
        self._wake()

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
        if self._ended:
            return
        if self._status != 200:
            self._tail += body[: MAX_ERROR_BYTES - len(self._tail)]
            return
        if not self._tail and body.endswith(b"\n") and body.find(b"\n") == len(body) - 1:
            self._line(body)  # the usual case: one whole line, nothing to join
            return
        self._tail += body
        if b"\n" in body:
            *lines, rest = bytes(self._tail).split(b"\n")
            self._tail = bytearray(rest)
            for line in lines:
                self._line(line)
        if len(self._tail) > MAX_LINE_BYTES:
            self._fail(failures.broken_off(f"one line of it is longer than {MAX_LINE_BYTES} bytes"))

    def on_message_complete(self) -> None:
        """The answer's end: of an error, of the load answer that has no line end, or too early."""
        if self._ended:
            return
        if self._status != 200:
            self._refused()
            return
        if self._tail:
            self._line(bytes(self._tail))
        if not self._ended:
            self._fail(failures.broken_off("it ended without its last line"))

    def _line(self, line: bytes) -> None:
        if self._ended or not line.strip():
            return
        try:
            chunk = decode_chunk(line)
        except ValueError:
            self._fail(failures.broken_off("one line of it is not what Ollama's protocol has"))
            return
        if chunk.error is not None:
            self._fail(failures.broken_off(chunk.error))
            return
        self._ready.append(chunk)
        if chunk.done:
            self._finish()
        elif len(self._ready) == MAX_WAITING_CHUNKS and self._transport is not None:
            self._transport.pause_reading()

    def _refused(self) -> None:
        words = error_words(bytes(self._tail))
        self._fail(failures.refusal(self._status, words, self._model, self._retry_after))

    def _fail(self, failure: MochiError) -> None:
        if not self._ended:
            self._failure = failure
            self._finish()

    def _finish(self) -> None:
        self.close()
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done() and (self._ready or self._ended):
            self._waiter.set_result(None)

    def _watch(self) -> None:
        """Look when the limit could be over, instead of arming a timer anew for each chunk."""
        limit = self._token_timeout if self._begun else self._first_token_timeout
        left = self._heard + limit - self._loop.time()
        if self._ready:
            # What came waits for us, not we for Ollama.
            left = limit
        if left > 0:
            self._watchdog = self._loop.call_later(left, self._watch)
            return
        self._fail(failures.timed_out("no further token" if self._begun else "no first token", limit))
