"""Starlette and uvicorn with one route that says yes: what any server on this stack costs at rest.

Usage: python -m benchmarks.servers.bare
"""

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from benchmarks.servers.serving import serve


async def health(_: Request) -> Response:
    """Say that it is there."""
    return JSONResponse({"status": "ok"})


if __name__ == "__main__":
    serve(Starlette(routes=[Route("/health", health)]))
