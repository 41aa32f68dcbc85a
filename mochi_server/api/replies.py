"""What all forms of chat share: waiting for a whole reply, and what is told of its session."""

import anyio
from starlette.requests import Request

from mochi_server.chat.generation import Listener, Outcome


async def whole(request: Request, listener: Listener) -> Outcome:
    """The reply's end. A client that leaves stops listening, as with a stream."""
    outcome = Outcome()
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(_until_gone, request, group.cancel_scope)
            outcome = await listener.ended()
            group.cancel_scope.cancel()
    finally:
        listener.close()
    return outcome


async def _until_gone(request: Request, waiting: anyio.CancelScope) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    waiting.cancel()


def session_headers(listener: Listener, revision: str) -> dict[str, str]:
    """Which session it is, and its revision with what is saved by now."""
    return {"X-Session-Id": listener.session_id, "ETag": f'"{revision}"'}
