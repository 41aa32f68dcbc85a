"""Errors below `/v1`: in OpenAI's envelope, and under the statuses that its clients make their own exceptions of."""

from typing import Any

import msgspec

from mochi_server.errors import MochiError

_CODES = {"context_overflow": "context_length_exceeded", "unauthorized": "invalid_api_key"}
"""Where OpenAI has a word of its own for it; all others are those of the error table."""

_STATUSES = {"model_not_found": 404, "validation_error": 400}
_PARAMS = {"model_not_found": "model", "context_overflow": "messages", "empty_history": "messages"}
_PARAMS_OF_CAPABILITIES = {"thinking": "reasoning_effort", "tools": "tools", "vision": "messages"}
_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """An error as OpenAI's clients read it; `param` is the field of the request that it is about."""

    message: str
    type: str
    param: str | None
    code: str


class Envelope(msgspec.Struct, frozen=True):
    """The body of an error, and the last chunk but one of a stream that failed."""

    error: Told


def is_openai(path: str) -> bool:
    """Whether what is at this path speaks as OpenAI does."""
    return path == "/v1" or path.startswith("/v1/")


def envelope(error: MochiError) -> Envelope:
    """The error as OpenAI's clients read it."""
    status = status_of(error)
    kind = _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    param = _param(error.code, error.details)
    return Envelope(Told(message=error.message, type=kind, param=param, code=code_of(error)))


def code_of(error: MochiError | type[MochiError]) -> str:
    """Its code."""
    return _CODES.get(error.code, error.code)


def status_of(error: MochiError | type[MochiError]) -> int:
    """The status of the answer."""
    return _STATUSES.get(error.code, error.status)


def _param(code: str, details: dict[str, Any]) -> str | None:
    if isinstance(path := details.get("path"), str):
        return path.removeprefix("$").removeprefix(".") or None
    if code == "capability_missing":
        return _PARAMS_OF_CAPABILITIES.get(details["capability"])
    return _PARAMS.get(code)
