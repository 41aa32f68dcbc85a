"""A reference: a relay as one would write it with the `ollama` package and sse-starlette. Nothing is saved.

Usage: python -m benchmarks.servers.ollama_relay UPSTREAM_PORT
"""

import json
import sys
from collections.abc import AsyncIterator
from typing import Any

import ollama
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from benchmarks.servers.httpx_relay import UNLIMITED
from benchmarks.servers.serving import serve


def application(upstream_port: int) -> Starlette:
    """Takes what Ollama's `/api/chat` takes, and streams each token as an event."""
    client = ollama.AsyncClient(host=f"http://127.0.0.1:{upstream_port}", limits=UNLIMITED, trust_env=False)

    async def events(asked: dict[str, Any]) -> AsyncIterator[ServerSentEvent]:
        chunks = await client.chat(
            model=asked["model"], messages=asked["messages"], options=asked["options"], stream=True
        )
        async for chunk in chunks:
            yield ServerSentEvent(json.dumps({"content": chunk.message.content, "done": chunk.done}))

    async def chat(request: Request) -> Response:
        return EventSourceResponse(events(await request.json()))

    return Starlette(routes=[Route("/", chat, methods=["POST"])])


if __name__ == "__main__":
    serve(application(int(sys.argv[1])))
