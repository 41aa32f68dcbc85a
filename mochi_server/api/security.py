"""What stands between a web page, or a stranger, and the conversations: before any handler runs.

A browser lets any page send requests to a server on this machine. The Host check defeats DNS rebinding (the page's
own name resolving to 127.0.0.1), the Origin check cross-site requests, the media type requests that a browser sends
without asking first. Other machines, and whoever else there is, are kept out by keys.
"""

import re

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from mochi_server.api.edge import HEAD_HEADERS
from mochi_server.api.http import body_too_large
from mochi_server.errors import ForbiddenOrigin, MisdirectedHost, Unauthorized, UnsupportedMediaType
from mochi_server.keys import is_known
from mochi_server.settings import Settings, host_name, is_loopback

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
_IMAGES = "/api/v1/images/"


class Security:
    """Pure ASGI: refuses what should not reach a handler, and answers CORS preflights.

    `open_paths` need no key; as the router compares them, so that no other way of writing one opens another.
    """

    def __init__(self, app: ASGIApp, settings: Settings, open_paths: frozenset[str]) -> None:
        self._app = app
        self._open_paths = open_paths
        self._keys = settings.api_key
        self._hosts = {settings.host.strip("[]").lower(), *(host_name(host) for host in settings.allow_host)}
        self._origins = {_plain(origin.rstrip("/")) for origin in settings.allow_origin} | set(_SHELL_ORIGINS)
        self._largest_body = settings.max_body_bytes
        # An answer to a key must not be kept for those who have none.
        self._vary = b"Origin, Authorization, X-API-Key" if self._keys else b"Origin"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request pass, or raise in this order.

        MisdirectedHost, ForbiddenOrigin, Unauthorized, UnsupportedMediaType, PayloadTooLarge.
        """
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if not self._keys:
            self._check_host(headers)
        added: list[tuple[bytes, bytes]] = scope[HEAD_HEADERS]
        added.append((b"vary", self._vary))
        origin = self._checked_origin(headers, scope["path"])
        if origin is not None:
            added += [
                (b"access-control-allow-origin", origin.encode("latin-1")),
                (b"access-control-expose-headers", _RESPONSE_HEADERS.encode()),
            ]
            if scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
                await _preflight_response(headers)(scope, receive, send)
                return
        if self._keys and scope["path"] not in self._open_paths and not self._has_key(headers):
            raise Unauthorized
        self._check_body(headers)
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

    def _checked_origin(self, headers: Headers, path: str) -> str | None:
        """The origin of a page that may read the answer; None where no page asks."""
        sent = headers.getlist("origin")
        if not sent:
            _check_embedding(headers, path)
            return None
        origin = sent[0]
        if len(sent) == 1 and (_plain(origin) in self._origins or _is_own(origin, headers) or _SHELL.match(origin)):
            return origin
        advice = f"Start it with --allow-origin {origin[:200]} if they should."
        if "://" not in origin:
            advice = "A page without an origin of its own, such as a file or a sandboxed frame, cannot be allowed: "
            advice += "serve it over http and name that origin with --allow-origin."
        raise ForbiddenOrigin(f"Pages of {origin[:200]!r} may not use this server. {advice}", {"origin": origin[:200]})

    def _has_key(self, headers: Headers) -> bool:
        """Whether a known key was sent, once or several times, and no other beside it."""
        sent = {key.strip() for key in headers.getlist("x-api-key")}
        for credentials in headers.getlist("authorization"):
            scheme, _, key = credentials.strip().partition(" ")
            if scheme.lower() == "bearer":
                sent.add(key.strip())
        # Compared in any case, so that having sent none or two takes no less time than a wrong one.
        known = is_known(self._keys, min(sent, default="").encode("latin-1"))
        return known and len(sent) == 1

    def _check_body(self, headers: Headers) -> None:
        length = headers.get("content-length", "0").strip()
        if length in {"0", ""} and "transfer-encoding" not in headers:
            return
        _check_media_type(headers)
        if int(length) > self._largest_body:
            raise body_too_large(self._largest_body)


def _plain(origin: str) -> str:
    """An origin as browsers write it: lower case, without the port that its scheme has anyway."""
    origin = origin.lower()
    for scheme, port in (("http://", ":80"), ("https://", ":443")):
        if origin.startswith(scheme):
            return origin.removesuffix(port)
    return origin


def _is_own(origin: str, headers: Headers) -> bool:
    hosts = headers.getlist("host")
    if len(hosts) != 1:
        return False
    return _plain(origin) in {_plain(f"{scheme}://{hosts[0]}") for scheme in ("http", "https")}


def _check_embedding(headers: Headers, path: str) -> None:
    """Refuse what another site's page has a browser fetch without naming its origin, as for an `<img>` or a frame.

    Such a page cannot read the answer, but could tell by the time it takes what a search finds. Links stay, and so do
    images in pages, which tell nothing: their names cannot be guessed. Raises ForbiddenOrigin.
    """
    if headers.get("sec-fetch-site") not in {"cross-site", "same-site"}:
        return
    is_link = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
    if not is_link and not path.startswith(_IMAGES):
        raise ForbiddenOrigin(
            "A page of another site may not embed what is here. Have it ask with fetch() and crossorigin, and start "
            "this server with --allow-origin and its origin.",
        )


def _check_media_type(headers: Headers) -> None:
    sent = ", ".join(headers.getlist("content-type"))
    media_type, _, parameters = sent.partition(";")
    charset = parameters.lower().replace(" ", "").replace('"', "")
    if media_type.strip().lower() == "application/json" and charset in {"", "charset=utf-8", "charset=utf8"}:
        return
    raise UnsupportedMediaType(
        "A request with a body must say Content-Type: application/json, and be UTF-8.", {"content_type": sent[:100]}
    )


def _preflight_response(headers: Headers) -> Response:
    answer = {
        "Access-Control-Allow-Methods": _METHODS,
        "Access-Control-Allow-Headers": _REQUEST_HEADERS,
        "Access-Control-Max-Age": str(_PREFLIGHT_SECONDS),
    }
    if headers.get("access-control-request-private-network") == "true":
        # A page of the internet asks a server of a home: that is what allowing its origin means.
        answer["Access-Control-Allow-Private-Network"] = "true"
    return Response(status_code=204, headers=answer)
