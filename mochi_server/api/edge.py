"""The outermost layer: a correlation id for every request, one log line, and an answer to every exception."""

import asyncio
import logging
import re
import time
import uuid
from collections.abc import Callable
from typing import cast

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mochi_server.api.http import CORRELATION_ID, error_response
from mochi_server.api.openai_errors import is_openai
from mochi_server.errors import InternalError, MochiError
from mochi_server.observability.logs import correlate, log, log_exception
from mochi_server.observability.metrics import UNMATCHED, Metrics

logger = logging.getLogger("mochi_server.request")

HEAD_HEADERS = "mochi.head_headers"
"""Where a request's scope holds the headers that layers below add to its answer."""

UNWRAPPED_SEND = "mochi.unwrapped_send"
"""Where it holds the server's own `send`: a stream's events need nothing of what wraps an answer's head."""

WRITE_NOW = "mochi.write_now"
"""Where it holds what writes a part of the answer's body without waiting: a `WriteNow` of the connection's."""

WriteNow = Callable[[bytes | bytearray], bool]
"""Says whether it did: not while the client does not take what was written, nor after it has left."""

_SANE = re.compile(r"[A-Za-z0-9._-]{1,128}\Z")


def write_now(scope: Scope) -> WriteNow:
    """What writes to this request's client without waiting."""
    return cast("WriteNow", scope[WRITE_NOW])


class Edge:
    """Pure ASGI: wraps the head of an answer only."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request to its end."""
        if scope["type"] != "http":
            await self._live(scope, receive, send)
            return
        began = time.monotonic()
        correlation = _correlation_id(scope)
        correlate(correlation)
        added: list[tuple[bytes, bytes]] = [
            (b"x-correlation-id", correlation.encode()),
            (b"x-content-type-options", b"nosniff"),
        ]
        if is_openai(scope["path"]):
            added.append((b"x-request-id", correlation.encode()))
        scope.update({CORRELATION_ID: correlation, HEAD_HEADERS: added, UNWRAPPED_SEND: send})
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *added]
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        except MochiError as error:
            if status:
                raise  # too late to tell the client; a connection that breaks off says so
            await error_response(error, scope)(scope, receive, send_with_headers)
        except asyncio.CancelledError:
            pass  # the server is ending and could not wait for it: that is no bug, and nobody waits for this task
        except ClientDisconnect:
            pass  # it left in the middle of its own request: there is nobody to tell, and nothing went wrong
        except Exception as error:  # noqa: BLE001 - a bug is told as one, without its stack
            log_exception(logger, error, correlation)
            if status == 0:
                await error_response(InternalError(), scope)(scope, receive, send_with_headers)
        finally:
            self._tell(scope, status, time.monotonic() - began)

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Begin and end. What goes wrong then is told by the server in the exception's own words, which no log has."""
        try:
            await self._app(scope, receive, send)
        except Exception as error:
            log_exception(logger, error)
            raise

    def _tell(self, scope: Scope, status: int, seconds: float) -> None:
        """The request's line, and its count; `status` 0 is that of a client that left before its answer."""
        log(
            logger,
            logging.INFO,
            "request",
            method=scope["method"],
            path=scope["path"],
            status=status,
            duration_ms=round(seconds * 1000, 1),
            correlation_id=scope[CORRELATION_ID],
        )
        route = scope.get("route")  # the router has put it there, where it found one
        template = UNMATCHED if route is None else route.path.replace(":path}", "}")
        self._metrics.request(scope["method"], template, status, seconds)


def _correlation_id(scope: Scope) -> str:
    """The client's own where it sends one sane one, else a new one."""
    sent = Headers(scope=scope).getlist("x-correlation-id")
    if len(sent) == 1 and _SANE.match(sent[0]):
        return sent[0]
    return uuid.uuid4().hex
