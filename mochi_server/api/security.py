"""What stands between a web page and the conversations: Host, Origin and media type, before any handler runs.

A browser lets any page send requests to a server on this machine. The Host check defeats DNS rebinding (the page's
own name resolving to 127.0.0.1), the Origin check cross-site requests, the media type requests that a browser sends
without asking first.
"""

import re
from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from mochi_server.api.edge import HEAD_HEADERS
from mochi_server.errors import ForbiddenOrigin, MisdirectedHost, UnsupportedMediaType
from mochi_server.settings import host_name, is_loopback

_SHELL = re.compile(r"(?:app|tauri|vscode-webview)://[A-Za-z0-9._:-]*\Z", re.IGNORECASE)
_SHELL_ORIGINS = ("http://tauri.localhost", "https://tauri.localhost")
_METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE"
_STAINLESS = (
    *("Arch", "Async", "Custom-Poll-Interval", "Helper-Method", "Lang", "OS", "Package-Version", "Poll-Helper"),
    *("Retry-Count", "Runtime", "Runtime-Version", "Timeout"),
)
_REQUEST_HEADERS = (
    "Authorization, Content-Type, Idempotency-Key, If-Match, Last-Event-ID, X-API-Key, X-Correlation-Id, X-Session-Id, "
    # What OpenAI's client sends from within a page.
    "OpenAI-Beta, OpenAI-Organization, OpenAI-Project, " + ", ".join(f"X-Stainless-{name}" for name in _STAINLESS)
)
_RESPONSE_HEADERS = "Allow, ETag, Location, Retry-After, X-Correlation-Id, X-Message-Id, X-Request-Id, X-Session-Id"
_PREFLIGHT_SECONDS = 600


class Security:
    """Pure ASGI: refuses what should not reach a handler, and answers CORS preflights.

    `bound_host` is the address that the server listens on; `allow_host` and `allow_origin` are the settings.
    """

    def __init__(
        self, app: ASGIApp, *, bound_host: str, allow_host: Iterable[str], allow_origin: Iterable[str]
    ) -> None:
        self._app = app
        self._hosts = {bound_host.strip("[]").lower(), *(host_name(host) for host in allow_host)}
        self._origins = {origin.rstrip("/").lower() for origin in allow_origin} | set(_SHELL_ORIGINS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request pass, or raise MisdirectedHost, ForbiddenOrigin or UnsupportedMediaType."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        self._check_host(headers)
        added: list[tuple[bytes, bytes]] = scope[HEAD_HEADERS]
        added.append((b"vary", b"Origin"))
        origin = self._checked_origin(headers)
        if origin is not None:
            added += [
                (b"access-control-allow-origin", origin.encode("latin-1")),
                (b"access-control-expose-headers", _RESPONSE_HEADERS.encode()),
            ]
            if scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
                await _preflight_response()(scope, receive, send)
                return
        _check_media_type(headers)
        await self._app(scope, receive, send)

    def _check_host(self, headers: Headers) -> None:
        sent = headers.getlist("host")
        host = host_name(sent[0]) if len(sent) == 1 else ""
        if not (host and (host in self._hosts or is_loopback(host))):
            raise MisdirectedHost(
                f"This server does not answer as {host[:100]!r}. Start it with --allow-host {host[:100] or 'NAME'} if "
                "it should.",
                {"host": host[:100]},
            )

    def _checked_origin(self, headers: Headers) -> str | None:
        """The origin of a page that may read the answer; None where no page asks."""
        sent = headers.getlist("origin")
        if not sent:
            return None
        origin = sent[0]
        own = {f"{scheme}://{headers['host'].lower()}" for scheme in ("http", "https")}
        if len(sent) == 1 and (origin.lower() in self._origins | own or _SHELL.match(origin)):
            return origin
        advice = f"Start it with --allow-origin {origin[:200]} if they should."
        if "://" not in origin:
            advice = "A page without an origin of its own, such as a file or a sandboxed frame, cannot be allowed: "
            advice += "serve it over http and name that origin with --allow-origin."
        raise ForbiddenOrigin(f"Pages of {origin[:200]!r} may not use this server. {advice}", {"origin": origin[:200]})


def _check_media_type(headers: Headers) -> None:
    has_body = headers.get("content-length", "0").strip() not in {"0", ""} or "transfer-encoding" in headers
    if not has_body:
        return
    sent = ", ".join(headers.getlist("content-type"))
    media_type, _, parameters = sent.partition(";")
    charset = parameters.lower().replace(" ", "").replace('"', "")
    if media_type.strip().lower() == "application/json" and charset in {"", "charset=utf-8", "charset=utf8"}:
        return
    raise UnsupportedMediaType(
        "A request with a body must say Content-Type: application/json, and be UTF-8.", {"content_type": sent[:100]}
    )


def _preflight_response() -> Response:
    return Response(
        status_code=204,
        headers={
            "Access-Control-Allow-Methods": _METHODS,
            "Access-Control-Allow-Headers": _REQUEST_HEADERS,
            "Access-Control-Max-Age": str(_PREFLIGHT_SECONDS),
        },
    )
