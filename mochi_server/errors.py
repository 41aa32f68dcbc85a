"""Every failure that a client can be told of.

    MochiError
    ├── InvalidJson, ValidationFailed, UnsupportedMediaType, PayloadTooLarge     the request's bytes
    ├── BadRequest, HeadersTooLarge, RequestTimeout, TooManyConnections          the connection's
    ├── NotFound, MethodNotAllowed                                               where it went
    ├── MisdirectedHost, ForbiddenOrigin, Unauthorized                           where it came from
    ├── SessionNotFound, MessageNotFound, PromptNotFound, ModelNotFound,         what it names
    │   ImageNotFound
    ├── EmptyHistory, InvalidMessageIndex, CapabilityMissing, ContextOverflow    what cannot be done
    ├── SessionExists, PromptExists, SessionBusy, SessionDamaged                 what stands in the way
    ├── RevisionConflict, ReplyStopped                                           what has changed meanwhile
    ├── NoGeneration, IdempotencyMismatch, IdempotencyExpired, QueueFull         which reply, and when
    ├── OllamaRejected, OllamaUnreachable, OllamaBusy, OllamaFailed, OllamaTimeout
    ├── StorageFull, StorageUnavailable
    └── ShuttingDown, InternalError, Retold

Codes and statuses are the error table of `app_specs/http_api.md`. A message says what happened, why, and what to do
next; it never holds a path, a stack or a secret.
"""

from collections.abc import Iterator, Mapping
from typing import Any


class MochiError(Exception):
    """A failure with a place in the error table.

    `details` is JSON-ready and named by the table; `headers` go with the HTTP answer.
    """

    code: str = "internal_error"
    status: int = 500

    def __init__(
        self, message: str, details: Mapping[str, Any] | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.details: dict[str, Any] = dict(details or {})
        self.headers: dict[str, str] = dict(headers or {})


class InvalidJson(MochiError):
    """The body is not JSON."""

    code, status = "invalid_json", 400


class ValidationFailed(MochiError):
    """JSON of the wrong shape, or a bad query parameter or header; `details.path` names it."""

    code, status = "validation_error", 422


class UnsupportedMediaType(MochiError):
    """A body that is not `application/json`."""

    code, status = "unsupported_media_type", 415


class PayloadTooLarge(MochiError):
    """A body or a message over its limit."""

    code, status = "payload_too_large", 413


class BadRequest(MochiError):
    """Bytes that are no HTTP, or HTTP that can be understood in two ways."""

    code, status = "bad_request", 400


class HeadersTooLarge(MochiError):
    """The head of a request is over its limit, in bytes or in lines."""

    code, status = "headers_too_large", 431


class RequestTimeout(MochiError):
    """A request comes too slowly."""

    code, status = "request_timeout", 408


class TooManyConnections(MochiError):
    """All connections that there may be are at work; with `Retry-After`."""

    code, status = "too_many_connections", 503

    def __init__(self, limit: int) -> None:
        super().__init__(
            "All connections that this server takes are at work. Try again, or raise MOCHI_MAX_CONNECTIONS.",
            {"limit": limit},
            {"Retry-After": "5"},
        )


class NotFound(MochiError):
    """No such path."""

    code, status = "not_found", 404


class MethodNotAllowed(MochiError):
    """The path exists, the method does not; the `Allow` header says which do."""

    code, status = "method_not_allowed", 405


class MisdirectedHost(MochiError):
    """The `Host` header names a server that this one is not: what DNS rebinding looks like."""

    code, status = "misdirected_host", 421


class ForbiddenOrigin(MochiError):
    """A web page of a foreign origin asks."""

    code, status = "forbidden_origin", 403


class Unauthorized(MochiError):
    """No key, a wrong one, or two different ones: always told in the same words."""

    code, status = "unauthorized", 401

    def __init__(self) -> None:
        super().__init__(
            "This server needs a key, as `Authorization: Bearer KEY` or as `X-API-Key: KEY`. Ask who runs it for one.",
            headers={"WWW-Authenticate": "Bearer"},
        )


class SessionNotFound(MochiError):
    """No session has this id."""

    code, status = "session_not_found", 404

    def __init__(self, session_id: str) -> None:
        super().__init__(
            f"There is no session {session_id[:64]!r}. GET /api/v1/sessions lists those there are.",
            {"session_id": session_id[:64]},
        )


class MessageNotFound(MochiError):
    """No message of this session has this id."""

    code, status = "message_not_found", 404


class PromptNotFound(MochiError):
    """No system prompt file has this name, or what has it cannot be used as one."""

    code, status = "prompt_not_found", 404


class ImageNotFound(MochiError):
    """No such image is there; `details.image` names it, and `details.message_index` the message that needs it."""

    code, status = "image_not_found", 404


class ModelNotFound(MochiError):
    """Ollama does not have the model, or it is not allowed here; `details.available` lists what can be had."""

    code, status = "model_not_found", 400


class ModelPathNotFound(ModelNotFound):
    """Ollama does not have the model that the path names, or it is not allowed here; `details.available` as ever."""

    status = 404


class EmptyHistory(MochiError):
    """There is nothing to answer."""

    code, status = "empty_history", 400


class InvalidMessageIndex(MochiError):
    """An index out of range, or of a message that this cannot be done to."""

    code, status = "invalid_message_index", 400


class CapabilityMissing(MochiError):
    """The model cannot do what is asked; `details.capability` in Ollama's words."""

    code, status = "capability_missing", 400


class ContextOverflow(MochiError):
    """The history does not fit the model's window."""

    code, status = "context_overflow", 400


class SessionExists(MochiError):
    """A proposed session id is taken."""

    code, status = "session_exists", 409


class PromptExists(MochiError):
    """A new system prompt file's name is taken, by whatever it may be."""

    code, status = "prompt_exists", 409


class SessionBusy(MochiError):
    """A reply is being generated and the request would change its history."""

    code, status = "session_busy", 409


class RevisionConflict(MochiError):
    """`If-Match` names another revision than the session has."""

    code, status = "revision_conflict", 412


class ReplyStopped(MochiError):
    """Somebody stopped the reply, and who asked for it can be told so only by an error."""

    code, status = "reply_stopped", 409

    def __init__(self) -> None:
        super().__init__(
            "The reply was stopped before its end by another request. Ask again if you want it after all.",
            headers={"x-should-retry": "false"},  # OpenAI's clients would ask again by themselves
        )


class NoGeneration(MochiError):
    """No reply runs, or is kept, that could be listened to."""

    code, status = "no_generation", 404


class IdempotencyMismatch(MochiError):
    """The same `Idempotency-Key` came with another body."""

    code, status = "idempotency_mismatch", 422


class IdempotencyExpired(MochiError):
    """The reply that an `Idempotency-Key` was used for is gone."""

    code, status = "idempotency_expired", 409


class QueueFull(MochiError):
    """Too many replies wait already, or this one has waited too long; with `Retry-After`."""

    code, status = "queue_full", 503


class SessionDamaged(MochiError):
    """The session's file cannot be read; it is left untouched; `details.reason` says why.

    `stamp` tells that state of the file from others.
    """

    code, status = "session_damaged", 409

    def __init__(self, session_id: str, reason: str, stamp: bytes = b"") -> None:
        self.stamp = stamp
        super().__init__(
            f"The file of session {session_id} cannot be read ({reason}). It was left untouched: mend it by hand, "
            "or move it out of the sessions folder.",
            {"session_id": session_id, "reason": reason},
        )


class OllamaRejected(MochiError):
    """Ollama refused the request; the message carries its own words."""

    code, status = "ollama_rejected", 400


class OllamaUnreachable(MochiError):
    """No connection to Ollama."""

    code, status = "ollama_unreachable", 502


class OllamaBusy(MochiError):
    """Ollama answered 503; with `Retry-After`."""

    code, status = "ollama_busy", 503


class OllamaFailed(MochiError):
    """An answer of Ollama's that is no reply, or a reply broken off."""

    code, status = "ollama_error", 502


class OllamaTimeout(MochiError):
    """No connection, no first token or no next token within its limit."""

    code, status = "ollama_timeout", 504


class StorageFull(MochiError):
    """No room on the disk of the sessions or the system prompts."""

    code, status = "storage_full", 507


class StorageUnavailable(MochiError):
    """The folder of the sessions or of the system prompts cannot be used."""

    code, status = "storage_unavailable", 503


class ShuttingDown(MochiError):
    """The server is stopping and takes no new work."""

    code, status = "shutting_down", 503

    def __init__(self) -> None:
        super().__init__(
            "The server is stopping and takes no new work. Try again once it is back.",
            headers={"Retry-After": "5"},
        )


class InternalError(MochiError):
    """A bug of ours: logged with its stack, told without it."""

    code, status = "internal_error", 500

    def __init__(self) -> None:
        super().__init__(
            "Something went wrong inside the server. Its log has the details under this correlation id. "
            "What was saved before is still there."
        )


PASSING = (QueueFull, OllamaBusy, ShuttingDown, TooManyConnections)
"""What passes by itself: their answers say when to come back."""


class Retold(MochiError):
    """A failure that was told before, told again."""

    def __init__(self, code: str, message: str, details: Mapping[str, Any]) -> None:
        again = {"Retry-After": "5"} if code in {kind.code for kind in PASSING} else {}
        super().__init__(message, details, again)
        self.code = code
        self.status = next((kind.status for kind in kinds() if kind.code == code), self.status)


def kinds(kind: type[MochiError] = MochiError) -> Iterator[type[MochiError]]:
    """Every kind of failure."""
    for below in kind.__subclasses__():
        yield below
        yield from kinds(below)
