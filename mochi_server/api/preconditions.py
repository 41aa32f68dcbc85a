"""Headers that make a request conditional."""

import re

from starlette.requests import Request

from mochi_server.api.http import invalid_parameter
from mochi_server.chat.generations import Expected
from mochi_server.errors import RevisionConflict

_REVISIONS = re.compile(r'\s*(?:W/)?"[\x21\x23-\x7e]*"\s*(?:,\s*(?:W/)?"[\x21\x23-\x7e]*"\s*)*\Z')
_STRONG = re.compile(r'(?:\A|[\s,])"([\x21\x23-\x7e]*)"')


def if_match(request: Request) -> Expected:
    """The revisions that `If-Match` names (RFC 9110, 13.1.1: a weak one matches nothing), None for any.

    Raises ValidationFailed for what is no such header.
    """
    sent = ", ".join(request.headers.getlist("if-match"))
    if "if-match" not in request.headers or sent.strip() == "*":
        return None
    if not _REVISIONS.match(sent):
        raise invalid_parameter(
            "If-Match", 'it takes a revision in double quotes, as ETag tells it: "0123456789abcdef"'
        )
    return frozenset(_STRONG.findall(sent))


def refuse_if_match(request: Request) -> None:
    """For what makes a new session. Raises RevisionConflict: nothing is there yet that could be of a revision."""
    if "if-match" in request.headers:
        raise RevisionConflict("This makes a new session, which has no revision yet. Leave If-Match out.")


def refuse_idempotency_key(request: Request) -> None:
    """Raise ValidationFailed: who sends one relies on it."""
    if "idempotency-key" in request.headers:
        raise invalid_parameter("Idempotency-Key", "this version cannot recognise a repeated request yet; leave it out")
