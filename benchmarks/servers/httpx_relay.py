"""A reference: a relay as one would write it with httpx and Starlette alone. Nothing is saved.

Usage: python -m benchmarks.servers.httpx_relay UPSTREAM_PORT
"""

import json
import sys
from collections.abc import AsyncIterator

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from benchmarks.servers.serving import serve

UNLIMITED = httpx.Limits(max_connections=None, max_keepalive_connections=None)


def application(upstream_port: int) -> Starlette:
    """Takes what Ollama's `/api/chat` takes, and streams each token as an event."""
    base = f"http://127.0.0.1:{upstream_port}"
    client = httpx.AsyncClient(base_url=base, limits=UNLIMITED, timeout=60, trust_env=False)

    async def events(body: bytes) -> AsyncIterator[str]:
        async with client.stream("POST", "/api/chat", content=body) as answer:
            async for line in answer.aiter_lines():
                chunk = json.loads(line)
                yield f"data: {json.dumps({'content': chunk['message']['content'], 'done': chunk['done']})}\n\n"

    async def chat(request: Request) -> Response:
        return StreamingResponse(events(await request.body()), media_type="text/event-stream")

    return Starlette(routes=[Route("/", chat, methods=["POST"])])


if __name__ == "__main__":
    serve(application(int(sys.argv[1])))
