"""Is the server there, and could it answer?"""

import anyio
from starlette.requests import Request
from starlette.responses import Response

from mochi_server import __version__
from mochi_server.api.answers import Health, NotReady, Ready
from mochi_server.api.http import json_response, state
from mochi_server.errors import MochiError

PATIENCE_SECONDS = 2
"""How long Ollama may take to say that it is there."""


async def health(request: Request) -> Response:
    """Whether the server is there: 200 while it can serve, whatever Ollama does."""
    ollama = state(request)["ollama"]
    version: str | None = None
    with anyio.move_on_after(PATIENCE_SECONDS):
        try:
            version = await ollama.version()
        except MochiError:
            version = None
    return json_response(
        Health(
            version=__version__,
            ollama_connected=version is not None,
            ollama_host=ollama.address.shown,
            ollama_version=version,
        )
    )


async def ready(request: Request) -> Response:
    """Whether a reply could be generated: 503 until it could."""
    parts = state(request)
    reason: str | None = "Ollama does not answer in time."
    if parts["generations"].closing:
        reason = "The server is stopping."
    else:
        with anyio.move_on_after(PATIENCE_SECONDS):
            try:
                await parts["catalog"].find(await parts["catalog"].choose(None))
                reason = None
            except MochiError as error:
                reason = error.message
    if reason is None:
        return json_response(Ready())
    return json_response(NotReady(reason=reason), 503)
