"""An Ollama that costs next to nothing: lines made beforehand, each written by itself, as Ollama does.

Usage: python -m benchmarks.servers.upstream TOKENS_PER_SECOND [LINES_A_WRITE]

The rate is that of each reply, on a clock of its own that begins with its request; 0 is as fast as they are taken.
A reply has as many tokens as `num_predict` says, up to MOST_TOKENS. Several lines a write are what no Ollama does: they
show what a relay can take when the stand-in costs nothing at all.
"""

import asyncio
import json
import re
import sys
from collections.abc import Sequence
from typing import cast

import uvloop

MOST_TOKENS = 20_000
BACKLOG = 2048
WINDOW = 2**24
"""Tokens: more than any history here has, so that no window is ever made larger."""

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
MODEL = {"name": "bench:latest", "model": "bench:latest", "digest": "0", "size": 1}
CALLS = {
    b"/api/tags": {"models": [MODEL]},
    b"/api/ps": {"models": [MODEL | {"context_length": WINDOW}]},
    b"/api/show": {
        "capabilities": ["completion"],
        "model_info": {"general.architecture": "bench", "bench.context_length": WINDOW},
    },
    b"/api/version": {"version": "0.0.0"},
}
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
CLOSING = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)
COUNT = re.compile(rb'"num_predict": ?(\d+)')


TOKEN, ENDING = "~", "^"
"""What each token has in it once, and what the last line has: the client looks for nothing else."""


def line(content: str, *, done: bool = False) -> bytes:
    """One line of a reply as a transfer chunk, with the fields and the length of a real one."""
    chunk = {
        "model": "bench",
        "created_at": "2026-01-01T00:00:00.000000000Z",
        "message": {"role": "assistant", "content": content},
        "done": done,
    }
    if done:
        chunk |= {"done_reason": "stop", "total_duration": 1, "load_duration": 1, "prompt_eval_count": 5}
        chunk |= {"prompt_eval_duration": 1, "eval_count": 100, "eval_duration": 1, "mark": ENDING}
    data = json.dumps(chunk, separators=(",", ":")).encode() + b"\n"
    return b"%x\r\n%s\r\n" % (len(data), data)


LAST = line("", done=True) + b"0\r\n\r\n"


class Connection(asyncio.Protocol):
    """One connection: a request, its answer, and the next request unless it is to be closed."""

    def __init__(self, lines: Sequence[bytes], interval: float, at_once: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._lines = lines
        self._interval = interval
        self._at_once = at_once
        self._received = bytearray()
        self._needed = 0  # bytes of the whole request, once its head is there
        self._said = self._asked = 0
        self._due = 0.0
        self._closing = self._paused = self._waiting = self._gone = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way out."""
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - as asyncio has it
        """Say no more."""
        self._gone = True

    def pause_writing(self) -> None:
        """Wait for a reader who is slower."""
        self._paused = True

    def resume_writing(self) -> None:
        """Go on where it was left."""
        self._paused = False
        if self._waiting:
            self._waiting = False
            self._say()

    def data_received(self, data: bytes) -> None:
        """Answer once the request is whole."""
        self._received += data
        if not self._needed and (end := self._received.find(b"\r\n\r\n")) >= 0:
            length = LENGTH.search(self._received, 0, end)
            self._needed = end + 4 + (int(length[1]) if length else 0)
        if self._needed and len(self._received) >= self._needed:
            request, self._received, self._needed = bytes(self._received), bytearray(), 0
            self._answer(request)

    def _answer(self, request: bytes) -> None:
        path = request.split(b" ", 2)[1]
        self._closing = CLOSING.search(request, 0, request.index(b"\r\n\r\n")) is not None
        if path != b"/api/chat":
            body = json.dumps(CALLS[path]).encode()
            self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
            self._end()
            return
        asked = COUNT.match(request, request.rfind(b'"num_predict"'))
        self._said, self._asked = 0, min(int(asked[1]) if asked else 1, MOST_TOKENS)
        self._due = self._loop.time()
        self._transport.write(HEAD)  # goes out with the first line
        self._say()

    def _say(self) -> None:
        """Write what is next, and go on when more is due: at a rate by the clock, else after all other replies."""
        if self._gone:
            return
        if self._paused:
            self._waiting = True
            return
        if self._said == self._asked:
            self._transport.write(LAST)
            self._end()
            return
        if self._at_once == 1:
            self._transport.write(self._lines[self._said])
            self._said += 1
        else:
            new = self._lines[self._said : min(self._said + self._at_once, self._asked)]
            self._transport.write(b"".join(new))
            self._said += len(new)
        if self._interval:
            self._due += self._interval
            self._loop.call_at(self._due, self._say)
        else:
            self._loop.call_soon(self._say)

    def _end(self) -> None:
        if self._closing:
            self._transport.close()


async def serve(rate: float, at_once: int) -> None:
    """Listen on a free port, which is printed, until the process is told to end."""
    lines = [line(f" {TOKEN}{i}") for i in range(MOST_TOKENS)]
    interval = 1 / rate if rate else 0.0
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(lines, interval, at_once), "127.0.0.1", 0, backlog=BACKLOG)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(float(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1))
