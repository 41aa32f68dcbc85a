"""Every route, in one table."""

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from mochi_server.api import chat, health, models, sessions

Handler = Callable[[Request], Awaitable[Response]]

ROUTES: tuple[tuple[str, str, Handler], ...] = (
    ("GET", "/health", health.health),
    ("GET", "/health/ready", health.ready),
    ("GET", "/api/v1/health", health.health),
    ("GET", "/api/v1/health/ready", health.ready),
    ("GET", "/api/v1/models", models.list_models),
    ("GET", "/api/v1/models/{name:path}", models.read_model),
    ("POST", "/api/v1/sessions", sessions.create),
    ("GET", "/api/v1/sessions", sessions.list_sessions),
    ("GET", "/api/v1/sessions/{session_id}", sessions.read),
    ("PATCH", "/api/v1/sessions/{session_id}", sessions.change),
    ("DELETE", "/api/v1/sessions/{session_id}", sessions.delete),
    ("GET", "/api/v1/sessions/{session_id}/messages", sessions.read_messages),
    ("PUT", "/api/v1/sessions/{session_id}/messages/{index}", sessions.edit_message),
    ("DELETE", "/api/v1/sessions/{session_id}/messages/{index}", sessions.truncate),
    ("PUT", "/api/v1/sessions/{session_id}/system-prompt", sessions.set_system_prompt),
    ("DELETE", "/api/v1/sessions/{session_id}/system-prompt", sessions.remove_system_prompt),
    ("GET", "/api/v1/sessions/{session_id}/status", sessions.read_status),
    ("GET", "/api/v1/sessions/{session_id}/tree", sessions.read_tree),
    ("PUT", "/api/v1/sessions/{session_id}/head", sessions.set_head),
    ("POST", "/api/v1/chat", chat.send_first),
    ("POST", "/api/v1/chat/stream", chat.stream_first),
    ("POST", "/api/v1/chat/{session_id}", chat.send),
    ("POST", "/api/v1/chat/{session_id}/stream", chat.stream),
    ("POST", "/api/v1/chat/{session_id}/stop", chat.stop),
)


def routes() -> list[Route]:
    """The table for Starlette: one route a path, so that a 405 names all its methods."""
    by_path: dict[str, dict[str, Handler]] = {}
    for method, path, handler in ROUTES:
        by_path.setdefault(path, {})[method] = handler
    return [Route(path, _endpoint(handlers), methods=list(handlers)) for path, handlers in by_path.items()]


def _endpoint(handlers: dict[str, Handler]) -> Handler:
    async def endpoint(request: Request) -> Response:
        return await handlers["GET" if request.method == "HEAD" else request.method](request)

    return endpoint
