"""One session's file: read with all that can be wrong with it, and written so that nobody's change is lost.

All functions block and raise OSError.
"""

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import msgspec

from mochi_server.domain import session_file
from mochi_server.domain.session import Session
from mochi_server.errors import SessionDamaged, SessionNotFound
from mochi_server.store import files
from mochi_server.store.migrations import upgraded

MAX_BYTES = 512 * 1024 * 1024
"""A larger file is not read: nothing that this server lets anybody say makes one."""

_TRIES = 10
"""How often a change is tried anew because the file was changed meanwhile."""

Change = Callable[[Session], Session]


class Stored(msgspec.Struct, frozen=True):
    """A session, the stamp of the file that it was read from or written to, and the bytes that it is counted with.

    These are the size of the file, and what is kept of the messages' JSON: of that a session that was only read has
    none.
    """

    session: Session
    stamp: bytes
    size: int


def read(path: Path, cached: Stored | None = None) -> Stored:
    """The file's session: the cached one where the file is as it was. Raises SessionNotFound, SessionDamaged."""
    stamp = b""
    try:
        status = path.lstat()
        stamp = files.stamp(status)
        if cached is not None and cached.stamp == stamp:
            return cached
        return _decoded(path, status)
    except (FileNotFoundError, NotADirectoryError):
        raise SessionNotFound(path.stem) from None
    except session_file.DamagedFile as error:
        raise SessionDamaged(path.stem, str(error), stamp) from None


def create(path: Path, session: Session, scratch: Path) -> Stored:
    """Write a new file. Raises FileExistsError where anything is there."""
    sealed, data = session_file.sealed(session)
    return _stored(sealed, files.create(path, data, scratch))


def change(path: Path, cached: Stored | None, changed: Change, scratch: Path) -> Stored:
    """The file's session, changed and saved. Raises as `read` does, and what `changed` raises.

    One that `changed` returns as it was is not saved. Where the file is changed by hand before ours takes its place,
    `changed` is given what is then there.
    """
    for _ in range(_TRIES):
        found = read(path, cached)
        session = changed(found.session)
        if session is found.session:
            return found
        sealed, data = session_file.sealed(session, keep=True)
        try:
            return _stored(sealed, files.replace(path, data, scratch, found.stamp))
        except files.FileChanged:
            cached = None
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))


def _decoded(path: Path, status: os.stat_result) -> Stored:
    if not stat.S_ISREG(status.st_mode):
        raise session_file.DamagedFile("it is not a plain file")
    if status.st_size > MAX_BYTES:
        raise session_file.DamagedFile(f"it is larger than {MAX_BYTES} bytes")
    session = session_file.decode(path.read_bytes(), upgraded)
    if session.metadata.session_id != path.stem:
        raise session_file.DamagedFile("its session_id is not its name")
    return _stored(session, status)


def _stored(session: Session, status: os.stat_result) -> Stored:
    kept = session.path_elements.size + session.detached_elements.size
    return Stored(session, files.stamp(status), status.st_size + kept)
