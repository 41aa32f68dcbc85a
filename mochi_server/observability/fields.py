"""What a log line may hold: these fields, each in its one shape, and nothing else.

What people say, keys and the values of headers come in any shape and under any name, so no list of what is secret would
do. A field that is not named here is left out of its line, and a value of another shape is not shown.
"""

import errno
import functools
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from mochi_server.errors import MochiError

HIDDEN = "[hidden]"
"""What stands in place of a value that is not of its field's shape."""

LONGEST_PATH = 256
LARGEST = 2**53
"""Beyond it a number is none that we or Ollama counted, and few who read JSON can hold it."""


class Ours(str):
    """A text that was written by who wrote the code, with nothing in it that came from outside.

    What is in quotes in a sentence of ours is somebody else's: `Ours.sentence` leaves it out.
    """

    __slots__ = ()

    @classmethod
    def sentence(cls, text: str) -> "Ours":
        """One of our sentences, up to the first thing that it quotes."""
        return cls(re.split(r"[\"']", text, maxsplit=1)[0][:200])


Shape = Callable[[Any], Any]
"""Gives the value as it is shown, or HIDDEN."""


def _matching(pattern: str) -> Shape:
    matches = re.compile(pattern, re.ASCII).fullmatch

    def shown(value: Any) -> Any:
        return value if value is None or (type(value) is str and matches(value)) else HIDDEN

    return shown


def _number(value: Any) -> Any:
    # Exactly these types: another that is one of them may say anything when it is written.
    if value is None or type(value) is bool or (type(value) in {int, float} and abs(value) < LARGEST):
        return value
    return HIDDEN


def _path(value: Any) -> Any:
    if type(value) is not str:
        return HIDDEN
    return printable(value if len(value) <= LONGEST_PATH else value[:LONGEST_PATH] + "…")


def _ours(value: Any) -> Any:
    return str(value) if type(value) is Ours else HIDDEN


def _kind(value: Any) -> Any:
    return printable(value.__name__) if isinstance(value, type) else HIDDEN


def _code(value: Any) -> Any:
    return value if value is None or (type(value) is str and value in _known_codes()) else HIDDEN


_error_name = _matching(r"SQLITE_[A-Z_]+|[A-Za-z]+Error")


def _reason(value: Any) -> Any:
    return _error_name(value) if _code(value) is HIDDEN else value


def _done_reason(value: Any) -> Any:
    # Ollama's own word, which is whatever answers there says.
    return value if value is None or (type(value) is str and value in _DONE_REASONS) else "other"


_DONE_REASONS = {"stop", "length", "load", "unload", "stopped", "disconnected", "superseded", "shutdown", "error"}

_id = _matching(r"[0-9a-f]{10}")

FIELDS: Mapping[str, Shape] = {
    "method": _matching(r"[A-Z-]{1,20}"),
    "path": _path,
    "status": _number,
    "duration_ms": _number,
    "session_id": _id,
    "generation_id": _id,
    "model": _matching(r"[\w.:/-]{1,200}"),
    "prompt_tokens": _number,
    "reply_tokens": _number,
    "ttft_ms": _number,
    "total_ms": _number,
    "window": _number,
    "outcome": _code,
    "done_reason": _done_reason,
    "code": _code,
    "limit": _number,
    "reason": _reason,
    "damage": _ours,
    "scope": _matching(r"[0-9a-f]{10}|server"),
    "read": _number,
    "of": _number,
    "where": _ours,
    "error": _kind,
    "stack": _ours,
    "correlation_id": _matching(r"[A-Za-z0-9._-]{1,128}"),
}
"""All fields, by name."""


def shown(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields as they may be logged; `left_out` counts those that may not."""
    told: dict[str, Any] = {}
    unknown = 0
    for name, value in fields.items():
        if (shape := FIELDS.get(name)) is not None:
            told[name] = shape(value)
        else:
            unknown += 1
    if unknown:
        told["left_out"] = unknown
    return told


def printable(text: str) -> str:
    """The text with everything written out that could end a line, move a cursor or colour a terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


@functools.cache
def _known_codes() -> frozenset[str]:
    codes = {kind.code for kind in _kinds(MochiError)}
    return frozenset({"complete", "interrupted", "unknown", *codes, *errno.errorcode.values()})


def _kinds(kind: type[MochiError]) -> Iterator[type[MochiError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from _kinds(below)
