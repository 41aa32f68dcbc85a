"""Every route, in one table."""

import re
from collections.abc import Awaitable, Callable, Mapping

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from mochi_server.api import chat, health, images, metrics, models, openai, prompts, sessions
from mochi_server.errors import MethodNotAllowed, NotFound

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
    ("PUT", "/api/v1/sessions/{session_id}/system-prompt", prompts.set_system_prompt),
    ("DELETE", "/api/v1/sessions/{session_id}/system-prompt", prompts.remove_system_prompt),
    ("GET", "/api/v1/sessions/{session_id}/status", sessions.read_status),
    ("GET", "/api/v1/sessions/{session_id}/tree", sessions.read_tree),
    ("PUT", "/api/v1/sessions/{session_id}/head", sessions.set_head),
    ("GET", "/api/v1/system-prompts", prompts.list_prompts),
    ("POST", "/api/v1/system-prompts", prompts.create_prompt),
    ("GET", "/api/v1/system-prompts/{filename:path}", prompts.read_prompt),
    ("PUT", "/api/v1/system-prompts/{filename:path}", prompts.replace_prompt),
    ("DELETE", "/api/v1/system-prompts/{filename:path}", prompts.delete_prompt),
    ("POST", "/api/v1/chat", chat.send_first),
    ("POST", "/api/v1/chat/stream", chat.stream_first),
    ("POST", "/api/v1/chat/{session_id}", chat.send),
    ("POST", "/api/v1/chat/{session_id}/stream", chat.stream),
    ("GET", "/api/v1/chat/{session_id}/stream", chat.listen),
    ("POST", "/api/v1/chat/{session_id}/stop", chat.stop),
    ("GET", "/api/v1/images/{sha256}", images.read),
    ("GET", "/metrics", metrics.read),
    ("POST", "/v1/chat/completions", openai.chat_completions),
    ("GET", "/v1/models", openai.list_models),
    ("GET", "/v1/models/{name:path}", openai.read_model),
)


class Methods:
    """One path's handlers, by method. Raises MethodNotAllowed, naming all that there are."""

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        self._handlers = {**handlers, "HEAD": handlers["GET"]} if "GET" in handlers else dict(handlers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request to this path."""
        handler = self._handlers.get(scope["method"])
        if handler is None:
            allowed = ", ".join(sorted(self._handlers))
            raise MethodNotAllowed(f"This path takes {allowed}.", {"allow": allowed}, {"Allow": allowed})
        response = await handler(Request(scope, receive, send))
        await response(scope, receive, send)


def routes() -> list[Route]:
    """The table for Starlette: one route a path."""
    by_path: dict[str, dict[str, Handler]] = {}
    for method, path, handler in ROUTES:
        by_path.setdefault(path, {})[method] = handler
    return [_route(path, Methods(handlers)) for path, handlers in by_path.items()]


def _route(path: str, methods: Methods) -> Route:
    route = Route(path, methods)
    # Starlette's pattern ends in `$`, which a line feed at the path's end slips past, and has a name of several
    # segments end at one.
    route.path_regex = re.compile(rf"{route.path_regex.pattern.removesuffix('$')}\Z", re.DOTALL)
    return route


async def nothing_here(_scope: Scope, _receive: Receive, _send: Send) -> None:
    """Every other path."""
    raise NotFound("There is nothing at this path. The API lies under /api/v1, what OpenAI's clients need under /v1.")
