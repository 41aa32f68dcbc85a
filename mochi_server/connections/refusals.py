"""What a connection is refused with, where there is no request yet that the application could answer."""

from http import HTTPStatus

import httptools

from mochi_server.api.http import connection_error
from mochi_server.errors import BadRequest, MochiError


def reason(error: httptools.HttpParserError) -> MochiError:
    """What to tell of it: our own reason, or the parser's, unless that shows what was sent."""
    if isinstance(error.__context__, MochiError):
        return error.__context__
    reason = str(error) if type(error) is httptools.HttpParserError else "it cannot be read"
    return BadRequest(f"This is no request in HTTP/1.1: {reason}.", {"reason": reason})


def answer(error: MochiError, path: str, defaults: list[tuple[bytes, bytes]]) -> bytes:
    """The whole answer, behind which the connection ends; `defaults` are headers that all answers have."""
    body = connection_error(error, path)
    lines = [f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}"]
    lines += [f"{name.decode()}: {value.decode()}" for name, value in defaults]
    lines += [f"{name}: {value}" for name, value in error.headers.items()]
    lines += ["content-type: application/json", f"content-length: {len(body)}", "x-content-type-options: nosniff"]
    return "\r\n".join([*lines, "connection: close", "", ""]).encode() + body
