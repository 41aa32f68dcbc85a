"""Headers that make a request conditional."""

import re

import msgspec
from starlette.requests import Request

from mochi_server.api.http import invalid_parameter
from mochi_server.chat.generations import Expected
from mochi_server.chat.repeats import Key
from mochi_server.errors import RevisionConflict
from mochi_server.store.keys import digest

REVISIONS = re.compile(r'\s*(?:W/)?"[\x21\x23-\x7e]*"\s*(?:,\s*(?:W/)?"[\x21\x23-\x7e]*"\s*)*\Z')
_STRONG = re.compile(r'(?:\A|[\s,])"([\x21\x23-\x7e]*)"')
KEY = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]{0,253}[\x21-\x7e])?\Z")
_json = msgspec.json.Encoder(order="deterministic")


def if_match(request: Request) -> Expected:
    """The revisions that `If-Match` names (RFC 9110, 13.1.1: a weak one matches nothing), None for any.

    Raises ValidationFailed for what is no such header.
    """
    sent = ", ".join(request.headers.getlist("if-match"))
    if "if-match" not in request.headers or sent.strip() == "*":
        return None
    if not REVISIONS.match(sent):
        raise invalid_parameter(
            "If-Match", 'it takes a revision in double quotes, as ETag tells it: "0123456789abcdef"'
        )
    return frozenset(_STRONG.findall(sent))


def refuse_if_match(request: Request, why: str = "This makes a new session, which has no revision yet.") -> None:
    """For what is in no session yet. Raises RevisionConflict: nothing is there that could be of a revision."""
    if "if-match" in request.headers:
        raise RevisionConflict(f"{why} Leave If-Match out.")


def idempotency_key(request: Request, scope: str, asked: msgspec.Struct) -> Key | None:
    """The request's `Idempotency-Key` with its body as it was decoded, None where it has none.

    `scope` is a session's id, or the server. Raises ValidationFailed for what is no key.
    """
    sent = checked_key(request)
    return None if sent is None else Key(scope, digest(sent.encode()), digest(_json.encode(asked)))


def checked_key(request: Request) -> str | None:
    """The text of the request's `Idempotency-Key`. Raises ValidationFailed for what is no key."""
    sent = request.headers.getlist("idempotency-key")
    if not sent:
        return None
    if len(sent) > 1 or not KEY.match(sent[0]):
        raise invalid_parameter("Idempotency-Key", "it is one of 1 to 255 printable ASCII characters")
    return sent[0]
