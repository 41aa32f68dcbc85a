"""What a route is: who serves it, what it takes, and every way in which it may answer."""

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from mochi_server.api.answers import ErrorAnswer, Failure, Refusal, RefusedConnection, RefusedWith
from mochi_server.api.openai_errors import Envelope, code_of, envelope, status_of
from mochi_server.api.parameters import ALLOW, CORRELATION, ETAG, REQUEST_ID, RETRY_AFTER, SHOULD_RETRY, Parameter
from mochi_server.domain.events import ErrorEvent
from mochi_server.errors import (
    PASSING,
    ForbiddenOrigin,
    InternalError,
    MethodNotAllowed,
    MisdirectedHost,
    MochiError,
    PayloadTooLarge,
    ReplyStopped,
    Retold,
    RevisionConflict,
    Unauthorized,
    UnsupportedMediaType,
)

Handler = Callable[[Request], Awaitable[Response]]
Kinds = tuple[type[MochiError], ...]

JSON = ("application/json",)
HTML = ("text/html",)
STREAM = ("text/event-stream",)
METRICS_TEXT = ("text/plain", "application/openmetrics-text")

EVERYWHERE: Kinds = (MisdirectedHost, ForbiddenOrigin, UnsupportedMediaType, PayloadTooLarge, InternalError)
"""What any route may answer, whatever it does."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """One way in which a route answers when it does what was asked.

    `shape` is the type of the body, of a stream that of its events, or the union of those that have names; None where
    there is no body. `told` is what may go wrong once the answer is on its way: a stream's last but one event tells of
    it, or an error with its headers.
    """

    shape: Any = None
    status: int = 200
    media_types: tuple[str, ...] = JSON
    headers: tuple[Parameter, ...] = ()
    sometimes: tuple[Parameter, ...] = ()
    told: Kinds = ()

    @property
    def failures(self) -> Kinds:
        """What is told in an error's place."""
        return () if self.media_types == STREAM else self.told


class Dialect(msgspec.Struct, frozen=True, kw_only=True):
    """How a part of the API speaks: the shape of its errors, their status and code and where the code stands in the
    shape, and the headers of all its answers.
    """

    shape: type[msgspec.Struct]
    status: Callable[[type[MochiError]], int]
    code: Callable[[type[MochiError]], str]
    code_at: tuple[str, ...]
    example: Callable[[ErrorEvent], msgspec.Struct]
    headers: tuple[Parameter, ...] = (CORRELATION,)


OURS = Dialect(
    shape=ErrorAnswer,
    status=lambda kind: kind.status,
    code=lambda kind: kind.code,
    code_at=("detail", "error", "code"),
    example=lambda told: ErrorAnswer(Failure(told)),
)

CONNECTION = Dialect(
    shape=RefusedConnection,
    status=lambda kind: kind.status,
    code=lambda kind: kind.code,
    code_at=("detail", "error", "code"),
    example=lambda told: RefusedConnection(RefusedWith(Refusal(told.code, told.message, told.details))),
    headers=(),
)

OPENAI = Dialect(
    shape=Envelope,
    status=status_of,
    code=code_of,
    code_at=("error", "code"),
    example=lambda told: envelope(Retold(told.code, told.message, told.details)),
    headers=(CORRELATION, REQUEST_ID),
)


class Route(msgspec.Struct, frozen=True):
    """One route. What it does is its handler's docstring.

    `errors` are those of its own, beside those of `EVERYWHERE`. With `body_optional` no body at all will do, too. One
    that is `keyless` asks for no API key.
    """

    method: str
    path: str
    handler: Handler
    group: str
    answers: tuple[Answer, ...]
    errors: Kinds = ()
    body: type[msgspec.Struct] | None = None
    headers: tuple[Parameter, ...] = ()
    query: tuple[Parameter, ...] = ()
    body_optional: bool = False
    keyless: bool = False
    dialect: Dialect = OURS

    @property
    def shown_path(self) -> str:
        """The path as clients know it."""
        return self.path.replace(":path}", "}")

    @property
    def all_errors(self) -> Kinds:
        """Every error that it may give, each once."""
        later = (kind for answer in self.answers for kind in answer.failures)
        keys = () if self.keyless else (Unauthorized,)
        return tuple(dict.fromkeys((*self.errors, *later, *keys, *EVERYWHERE)))


def error_headers(kind: type[MochiError]) -> tuple[Parameter, ...]:
    """The headers that every error of this kind has, beside those of every answer."""
    if issubclass(kind, PASSING):
        return (RETRY_AFTER,)
    if issubclass(kind, ReplyStopped):
        return (SHOULD_RETRY,)
    return (ALLOW,) if issubclass(kind, MethodNotAllowed) else ()


def possible_headers(kind: type[MochiError]) -> tuple[Parameter, ...]:
    """Those that one may have, too: what makes a session has no revision that it could tell."""
    return (ETAG,) if issubclass(kind, RevisionConflict) else ()
