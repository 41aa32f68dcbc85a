"""The floor: the upstream's bytes passed through unread, on the server's own stack.

Usage: python -m benchmarks.servers.floor UPSTREAM_PORT
"""

import asyncio
import sys

from starlette.types import Receive, Scope, Send

from benchmarks.servers.serving import serve


class Passage:
    """An ASGI application that answers every POST with what the upstream's `/api/chat` sends for it, byte for byte."""

    def __init__(self, upstream_port: int) -> None:
        self._port = upstream_port

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        writer.write(
            b"POST /api/chat HTTP/1.1\r\nHost: bench\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s"
            % (len(body), body)
        )
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        while data := await reader.read(65536):
            await send({"type": "http.response.body", "body": data, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
        writer.close()


if __name__ == "__main__":
    serve(Passage(int(sys.argv[1])))
