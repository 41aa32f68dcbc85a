"""Durable bytes: a file is at every moment the old state or the new one, whole.

All functions block: they run in threads. OS errors come out as they are; `storage_error` maps them.
"""

import contextlib
import errno
import os
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from mochi_server.errors import MochiError, StorageFull, StorageUnavailable

FILE_MODE = 0o600
FOLDER_MODE = 0o700
_LEFTOVER = ".tmp"
_FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}  # Windows has no quota error


class FolderInUse(Exception):
    """Another process holds the folder's lock; the text names it."""


def storage_error(error: OSError) -> MochiError:
    """The failure of ours that an OS error on the sessions folder is."""
    if error.errno in _FULL:
        return StorageFull(
            "The disk of the sessions folder is full, so nothing was saved. Make room and try again; "
            "what was saved before is untouched, and deleting sessions works."
        )
    reason = errno.errorcode.get(error.errno or 0, "unknown")
    return StorageUnavailable(
        f"The sessions folder cannot be used ({reason}: {os.strerror(error.errno or 0)}), so nothing was saved. "
        "Check the folder's disk and permissions and try again; what was saved before is untouched.",
        {"reason": reason},
    )


def make_folder(folder: Path) -> None:
    """The folder and its parents, closed to other users where it is new."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(mode=FOLDER_MODE, exist_ok=True)


def replace(path: Path, data: bytes, scratch: Path) -> os.stat_result:
    """Put `data` at `path`, durably, in place of what was there; the status of what is there now.

    `scratch` is a folder on the same disk for the file while it is written.
    """
    with _written(data, scratch) as written:
        # Before anybody else can reach it: a change by hand right after is to be seen as one.
        status = written.stat()
        written.replace(path)
    _sync_folder(path.parent)
    return status


def create(path: Path, data: bytes, scratch: Path) -> os.stat_result:
    """As `replace`, where nothing is there. Raises FileExistsError where anything is."""
    with _written(data, scratch) as written:
        status = written.stat()
        try:
            os.link(written, path)
        except OSError as error:
            if isinstance(error, FileExistsError) or os.path.lexists(path):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from None
            # Not every file system has hard links. The folder's lock makes us its only writer.
            written.replace(path)
    _sync_folder(path.parent)
    return status


def remove(path: Path) -> None:
    """Remove the file, durably. Raises FileNotFoundError."""
    path.unlink()
    _sync_folder(path.parent)


def sweep(scratch: Path) -> None:
    """Remove what a killed process left half written."""
    for leftover in scratch.glob(f"*{_LEFTOVER}"):
        if leftover.is_file():
            leftover.unlink(missing_ok=True)


@contextlib.contextmanager
def _written(data: bytes, scratch: Path) -> Iterator[Path]:
    """A new file that holds `data` on the disk itself; gone afterwards, unless it was moved away."""
    path = scratch / f"{secrets.token_hex(8)}{_LEFTOVER}"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), FILE_MODE)
    try:
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            view = memoryview(data)
            while view:
                view = view[file.write(view) :]
            os.fsync(descriptor)
        yield path
    finally:
        path.unlink(missing_ok=True)


class FolderLock:
    """One process at a time in a folder. The kernel lets go of it when the process dies.

    Raises FolderInUse when another process holds it, OSError when the file cannot be made.
    """

    def __init__(self, path: Path) -> None:
        # Open for as long as the process holds the folder.
        self._file: IO[bytes] = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, FILE_MODE), "a+b")
        try:
            _lock(self._file)
        except OSError:
            holder = _holder(self._file)
            self._file.close()
            raise FolderInUse(holder) from None
        self._file.truncate(0)
        self._file.write(str(os.getpid()).encode())
        self._file.flush()

    def release(self) -> None:
        """Let go of the folder."""
        self._file.close()


def _holder(file: IO[bytes]) -> str:
    file.seek(0)
    pid = file.read(16).decode("ascii", "replace").strip()
    return f"process {pid}" if pid.isdecimal() else "another process"


if sys.platform == "win32":
    import msvcrt

    def _lock(file: IO[bytes]) -> None:
        # A byte far behind the text, so that others can still read who holds it.
        file.seek(1 << 20)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        file.seek(0)

else:
    import fcntl

    def _lock(file: IO[bytes]) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _sync_folder(folder: Path) -> None:
    """Make the folder's entries durable. Windows has no such call, and needs none for a rename."""
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
