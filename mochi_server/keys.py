"""API keys: where they are read from, and whether a request has one.

A key itself is kept nowhere: it is hashed as soon as it is read, and digests are compared.
"""

import hashlib
import hmac
import re
from collections.abc import Iterable
from pathlib import Path

SHORTEST, LONGEST = 8, 512
LARGEST_FILE = 65_536
"""Bytes; a file that has more is no list of keys."""

_KEY = re.compile(rf"[!-~]{{{SHORTEST},{LONGEST}}}\Z")
_READABLE_BY_OTHERS = 0o044


class BadKeys(Exception):
    """Keys that cannot be had; the text is the rest of a sentence, and shows none of them."""


def digest(key: bytes) -> bytes:
    """What is kept of a key: of one length for all of them, so that none tells its own by the time it takes."""
    return hashlib.sha256(key).digest()


def digests_of(keys: Iterable[str]) -> tuple[bytes, ...]:
    """The digests of keys. Raises BadKeys."""
    given = list(keys)
    if not given:
        raise BadKeys("holds no key; leave it out to run without one")
    for number, key in enumerate(given, 1):
        if not _KEY.match(key):
            which = f"key {number} of {len(given)}" if len(given) > 1 else "what it holds"
            raise BadKeys(
                f"{which} is no key: one has {SHORTEST} to {LONGEST} printable ASCII characters without spaces, and "
                f"this has {len(key)} characters"
            )
    return tuple(dict.fromkeys(digest(key.encode()) for key in given))


def read_key_file(path: Path) -> tuple[bytes, ...]:
    """The digests of a file's keys, one a line; blank lines and those that begin with `#` count for nothing.

    Raises BadKeys.
    """
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
        if len(content) > LARGEST_FILE:
            raise BadKeys(f"is no list of keys: it is larger than {LARGEST_FILE} bytes")
        lines = [line.strip() for line in content.decode("utf-8-sig").split("\n")]
    except OSError as error:
        raise BadKeys(f"cannot be read: {error.strerror or type(error).__name__}") from None
    except ValueError:
        # Not UTF-8, or a name that no file may have.
        raise BadKeys("cannot be read as text") from None
    return digests_of(line for line in lines if line and not line.startswith("#"))


def is_readable_by_others(path: Path) -> bool:
    """Whether other users of this machine can read the file; false where the system does not tell."""
    try:
        return path.is_file() and bool(path.stat().st_mode & _READABLE_BY_OTHERS)
    except OSError:
        return False


def is_known(known: Iterable[bytes], sent: bytes) -> bool:
    """Whether the key is one of these, in a time that tells neither which nor how much of it is right."""
    asked, found = digest(sent), False
    for one in known:
        found |= hmac.compare_digest(one, asked)
    return found
