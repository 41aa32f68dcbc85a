"""Durable bytes: a file is at every moment the old state or the new one, whole.

All functions block: they run in threads. OS errors come out as they are; `storage_error` maps them.
"""

import contextlib
import ctypes
import errno
import os
import re
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path

from mochi_server.errors import MochiError, StorageFull, StorageUnavailable

FILE_MODE = 0o600
FOLDER_MODE = 0o700
LEFTOVER = ".tmp"
_WRITTEN = re.compile(rf"[0-9a-f]{{16}}{re.escape(LEFTOVER)}\Z")
_leftovers: set[Path] = set()
"""Files that were given up, and could not be removed then: the next write or removal tries again."""

_FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}  # Windows has no quota error


_libc = ctypes.CDLL(None, use_errno=True) if sys.platform != "win32" else None
can_sync_file_systems = hasattr(_libc, "syncfs")
"""Linux has the call (syncfs(2)), which tells of failures since its 5.8; Python has none of its own for it."""


class FileChanged(Exception):
    """Somebody else changed the file since it was read."""


class NotDurable(OSError):
    """It is done, but the disk failed before that was safe from a power cut."""


class FolderInUse(Exception):
    """Another process holds the folder's lock; the text names it."""


def storage_error(error: OSError, kept: str = "session") -> MochiError:
    """The failure of ours that an OS error on a folder is; `kept` is what one file there holds."""
    if isinstance(error, NotDurable):
        kind = StorageFull if error.errno in _FULL else StorageUnavailable
        return kind(
            f"The disk of the {kept}s folder failed ({reason(error)}: {os.strerror(error.errno or 0)}) when the "
            f"change was made but not yet safe from a power cut. Check the disk, read the {kept} again, and repeat "
            "the change if it is not there.",
            {"reason": reason(error)},
        )
    if error.errno in _FULL:
        return StorageFull(
            f"The disk of the {kept}s folder is full, so nothing was saved. Make room and try again; "
            f"what was saved before is untouched, and deleting {kept}s works."
        )
    return StorageUnavailable(
        f"The {kept}s folder cannot be used ({reason(error)}: {os.strerror(error.errno or 0)}), so nothing was saved. "
        "Check the folder's disk and permissions and try again; what was saved before is untouched.",
        {"reason": reason(error)},
    )


def reason(error: OSError) -> str:
    """The error's name, such as `EIO`: all that a log or a client needs of it."""
    return errno.errorcode.get(error.errno or 0, "unknown")


def make_folder(folder: Path) -> None:
    """The folder and its parents, closed to other users where it is new."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(mode=FOLDER_MODE, exist_ok=True)


def make_private(path: Path) -> None:
    """An empty file that other users cannot read, unless there is a file."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, FILE_MODE))


def stamp(status: os.stat_result) -> bytes:
    """What tells one state of a file from another, in few bytes."""
    return b"%d.%d.%d" % (status.st_ino, status.st_size, status.st_mtime_ns)


def replace(path: Path, data: bytes, scratch: Path, expected: bytes | None = None) -> os.stat_result:
    """Put `data` at `path`, durably, in place of what was there; the status of what is there now.

    `scratch` is a folder on the same disk for the file while it is written, `expected` the stamp of what
    is to be replaced. Raises FileChanged where that is no longer there, NotDurable where only the last sync failed.
    """
    with _written(data, scratch) as written, _synced(path.parent):
        # Before anybody else can reach it: a change by hand right after is to be seen as one.
        status = written.stat()
        if expected is not None and _stamp_now(path) != expected:
            raise FileChanged
        written.replace(path)
    return status


def _stamp_now(path: Path) -> bytes:
    try:
        return stamp(path.lstat())
    except FileNotFoundError:
        return b""


def create(path: Path, data: bytes, scratch: Path) -> os.stat_result:
    """As `replace`, where nothing is there. Raises FileExistsError where anything is."""
    with _written(data, scratch) as written:
        status = written.stat()
        try:
            with _synced(path.parent):
                _put_new(written, path)
        except NotDurable as error:
            # Nobody was told of it yet, so it can still be as if it had never been.
            try:
                path.unlink()
            except OSError:
                raise error from None
            raise OSError(error.errno, error.strerror) from None
    return status


def _put_new(written: Path, path: Path) -> None:
    try:
        os.link(written, path)
    except OSError as error:
        if isinstance(error, FileExistsError) or os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from None
        # Not every file system has hard links. The folder's lock makes us its only writer.
        written.replace(path)


def remove(path: Path) -> None:
    """Remove the file, durably. Raises FileNotFoundError, and NotDurable where only the last sync failed."""
    _remove_leftovers()
    with _synced(path.parent):
        path.unlink()


def sync_folder(folder: Path) -> None:
    """Make durable what was done to the folder's entries. Raises NotDurable."""
    with _synced(folder):
        pass


def sync_file_system(folder: Path) -> None:
    """Make durable whatever was written to the file system that a folder is on. Only where `can_sync_file_systems`."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if _libc is not None and _libc.syncfs(descriptor) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
    finally:
        os.close(descriptor)


def sweep(scratch: Path, *, shared: bool = False) -> None:
    """Remove what a killed process left half written: now, or with the next write or removal that can.

    In a folder that is `shared` with people only what has a name of ours.
    """
    with os.scandir(scratch) as entries:
        _leftovers.update(
            Path(e.path)
            for e in entries
            if (_WRITTEN.match(e.name) if shared else e.name.endswith(LEFTOVER)) and not e.is_dir()
        )
    _remove_leftovers()


@contextlib.contextmanager
def _written(data: bytes, scratch: Path) -> Iterator[Path]:
    """A new file that holds `data` on the disk itself; gone afterwards, unless it was moved away."""
    _remove_leftovers()
    path = scratch / f"{secrets.token_hex(8)}{LEFTOVER}"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), FILE_MODE)
    try:
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            view = memoryview(data)
            while view:
                view = view[file.write(view) :]
            os.fsync(descriptor)
        yield path
    finally:
        give_up(path)


def give_up(path: Path) -> None:
    """Remove a file that is of no use any more: now, or with the next write or removal that can."""
    _leftovers.add(path)
    _remove_leftovers()


def _remove_leftovers() -> None:
    for path in list(_leftovers):
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
            _leftovers.discard(path)


class FolderLock:
    """One process at a time in a folder. The kernel lets go of it when the process dies.

    Raises FolderInUse when another process holds it, OSError when the file cannot be made.
    """

    def __init__(self, path: Path) -> None:
        # Open for as long as the process holds the folder.
        self._file = _lock_file(path)
        try:
            _lock(self._file)
        except OSError:
            holder = _holder(self._file)
            os.close(self._file)
            raise FolderInUse(holder) from None
        # Who holds it is told to others where there is room to: a full disk is no reason not to start.
        with contextlib.suppress(OSError):
            os.ftruncate(self._file, 0)
            os.write(self._file, str(os.getpid()).encode())

    def release(self) -> None:
        """Let go of the folder."""
        os.close(self._file)


def _lock_file(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, FILE_MODE)
    except OSError as error:
        if error.errno not in {errno.EROFS, errno.EACCES, errno.ENOSPC}:
            raise
        # Conversations that cannot be added to can still be read.
        with contextlib.suppress(FileNotFoundError):
            return os.open(path, os.O_RDONLY)
        raise error from None


def _holder(file: int) -> str:
    os.lseek(file, 0, os.SEEK_SET)
    pid = os.read(file, 16).decode("ascii", "replace").strip()
    return f"process {pid}" if pid.isdecimal() else "another process"


if sys.platform == "win32":
    import msvcrt

    def _lock(file: int) -> None:
        # A byte far behind the text, so that others can still read who holds it.
        os.lseek(file, 1 << 20, os.SEEK_SET)
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        os.lseek(file, 0, os.SEEK_SET)

else:
    import fcntl

    def _lock(file: int) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextlib.contextmanager
def _synced(folder: Path) -> Iterator[None]:
    """Make durable what is done inside to the folder's entries. Windows has no such call, and needs none for a rename.

    The folder is opened first, so that what can fail does so while nothing is done yet; the sync raises NotDurable.
    """
    if sys.platform == "win32":
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield
        try:
            os.fsync(descriptor)
        except OSError as error:
            raise NotDurable(error.errno, error.strerror) from None
    finally:
        with contextlib.suppress(OSError):
            os.close(descriptor)
