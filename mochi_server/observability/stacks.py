"""Where an exception came from, without what it says.

An exception's text, its notes and the values in its frames may be anything, also what people said. Types, places and
the lines of code are ours and the libraries'.
"""

import errno
import traceback
from collections.abc import Iterator

from mochi_server.errors import MochiError
from mochi_server.observability.fields import Ours

MOST_FRAMES = 200
MOST_EXCEPTIONS = 20
"""How many are told of those that belong together."""


def stack(error: BaseException) -> Ours:
    """The frames of an exception, of those inside a group, and of what it was raised because of, a line each."""
    return Ours("\n".join(_told(error, set())))


def _told(error: BaseException, told: set[int]) -> Iterator[str]:
    told.add(id(error))
    yield _kind(error)
    for frame in traceback.format_tb(error.__traceback__, -MOST_FRAMES):
        yield frame.rstrip("\n")
    if isinstance(error, BaseExceptionGroup):
        for number, one in enumerate(error.exceptions, 1):
            yield from _further(f"which holds, as number {number}:", one, told)
    if error.__cause__ is not None:
        yield from _further("raised because of:", error.__cause__, told)
    elif error.__context__ is not None and not error.__suppress_context__:
        yield from _further("raised while handling:", error.__context__, told)


def _further(how: str, error: BaseException, told: set[int]) -> Iterator[str]:
    if id(error) not in told and len(told) < MOST_EXCEPTIONS:
        yield how
        yield from _told(error, told)


def _kind(error: BaseException) -> str:
    """Its type, and what is known of it in a word that is not its own."""
    kind = f"{type(error).__module__}.{type(error).__qualname__}"
    if isinstance(error, MochiError):
        return f"{kind} {error.code}"
    if isinstance(error, OSError) and (name := errno.errorcode.get(error.errno or 0)) is not None:
        return f"{kind} {name}"
    return kind
