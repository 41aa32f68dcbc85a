"""Bodies in, answers out: decode a request, encode a response, and the one shape of every error."""

import asyncio
import re
from contextlib import AsyncExitStack
from typing import Any, TypedDict, TypeVar, cast

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from mochi_server.api.answers import ErrorAnswer, Failure, Refusal, RefusedConnection, RefusedWith
from mochi_server.api.openai_errors import envelope, is_openai, status_of
from mochi_server.api.validation import invalid
from mochi_server.chat.generation import error_event
from mochi_server.chat.generations import Generations
from mochi_server.domain.json_depth import DEEPEST_REQUEST, is_deeper_than
from mochi_server.domain.session import Session
from mochi_server.errors import (
    InvalidJson,
    MochiError,
    PayloadTooLarge,
    ValidationFailed,
)
from mochi_server.observability.metrics import Metrics
from mochi_server.ollama.catalog import Catalog
from mochi_server.ollama.client import OllamaClient
from mochi_server.settings import Settings
from mochi_server.store.prompts import PromptFiles
from mochi_server.store.sessions import SessionStore

_S = TypeVar("_S", bound=msgspec.Struct)
_encoder = msgspec.json.Encoder()
_decoders: dict[type[Any], msgspec.json.Decoder[Any]] = {}
_LONE_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")

SMALL_BODY = 65_536
LARGE_BODIES = 16
"""Larger ones that are read at a time. Others wait, unread: so all of them together have a limit, too."""

CORRELATION_ID = "mochi.correlation_id"
"""Where a request's scope holds its correlation id."""


class State(TypedDict):
    """What the lifespan hands to every request."""

    settings: Settings
    store: SessionStore
    prompts: PromptFiles
    ollama: OllamaClient
    catalog: Catalog
    generations: Generations
    metrics: Metrics
    large_bodies: asyncio.Semaphore
    """One for each request whose body is being read and is no `SMALL_BODY`."""


def state(request: Request) -> State:
    """The parts that the request's handler works with."""
    return cast("State", request.scope["state"])


def correlation_id(scope: Scope) -> str:
    """The id that ties a request's log lines, errors and answer together."""
    return cast("str", scope[CORRELATION_ID])


async def read_json(request: Request, shape: type[_S], *, empty: _S | None = None) -> _S:
    """The body as a `shape`. No body at all is `empty`, where the route allows it.

    Raises PayloadTooLarge, InvalidJson, ValidationFailed.
    """
    body = await _read(request)
    if not body and empty is not None:
        return empty
    decoder = _decoders.get(shape)
    if decoder is None:
        decoder = _decoders[shape] = msgspec.json.Decoder(shape)
    try:
        asked = decoder.decode(body)
    except msgspec.ValidationError as error:
        # A wrong field may stand before the place where the JSON itself breaks off.
        _check_json(body)
        raise invalid(str(error), shape) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _not_json(body, error) from None
    if any(is_deeper_than(value, DEEPEST_REQUEST) for value in msgspec.structs.astuple(asked)):
        raise _not_json(body, RecursionError())
    return cast("_S", asked)


def invalid_parameter(name: str, message: str) -> ValidationFailed:
    """A bad query parameter or header."""
    return ValidationFailed(f"{name}: {message}", {"path": name})


def json_response(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Anything that msgspec encodes, as JSON."""
    return Response(_encoder.encode(content), status, headers, "application/json")


def raw_response(content: bytes, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """JSON that is encoded already."""
    return Response(content, status, headers, "application/json")


def etag(session: Session) -> dict[str, str]:
    """The header that names a session's revision."""
    return {"ETag": f'"{session.metadata.revision}"'}


def error_response(error: MochiError, scope: Scope) -> Response:
    """An error outside of a stream."""
    if is_openai(scope["path"]):
        return json_response(envelope(error), status_of(error), error.headers)
    answer = ErrorAnswer(Failure(error_event(error, correlation_id(scope))))
    return json_response(answer, error.status, error.headers)


def connection_error(error: MochiError, path: str) -> bytes:
    """The body of an error that a connection is refused with before there is a request, and so without its id."""
    if is_openai(path):
        return _encoder.encode(envelope(error))
    refusal = Refusal(error.code, error.message, error.details)
    return _encoder.encode(RefusedConnection(RefusedWith(refusal)))


def body_too_large(limit: int) -> PayloadTooLarge:
    """For a body of more bytes, be they declared or sent."""
    return PayloadTooLarge(
        f"The body is larger than {limit} bytes. Send less, or raise MOCHI_MAX_BODY_BYTES.", {"limit_bytes": limit}
    )


async def _read(request: Request) -> bytes:
    parts = state(request)
    limit, large = parts["settings"].max_body_bytes, parts["large_bodies"]
    read: list[bytes] = []
    size = 0
    async with AsyncExitStack() as stack:
        async for part in request.stream():
            if size <= SMALL_BODY < size + len(part):
                await stack.enter_async_context(large)
            size += len(part)
            if size > limit:
                raise body_too_large(limit)
            read.append(part)
        return b"".join(read)


def _check_json(body: bytes) -> None:
    try:
        value = msgspec.json.decode(body)
    except msgspec.ValidationError:
        return  # it is JSON, with a number that nothing can hold
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _not_json(body, error) from None
    if is_deeper_than(value, DEEPEST_REQUEST):
        raise _not_json(body, RecursionError())


def _not_json(body: bytes, error: Exception) -> InvalidJson:
    if not body.strip():
        return InvalidJson("The body is empty. This request needs one: a JSON object.", {"reason": "it is empty"})
    if isinstance(error, UnicodeDecodeError) or not _is_utf8(body):
        reason = "it is not UTF-8"
    elif isinstance(error, RecursionError):
        reason = "it is nested too deep"
    elif _LONE_SURROGATE.search(body):
        reason = "it is cut short, or has half of a surrogate pair"
    else:
        reason = str(error).removeprefix("JSON is malformed: ").replace("Input data was truncated", "it is cut short")
    return InvalidJson(f"The body is not JSON: {reason}.", {"reason": reason})


def _is_utf8(body: bytes) -> bool:
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True
