"""A whole folder of older session files, made format 2.0 in one go.

A server needs none of this: it reads older files as they are, and writes 2.0 with each session's next save.
"""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import msgspec

from mochi_server.domain import session_file
from mochi_server.domain.session import FORMAT_VERSION, Session
from mochi_server.errors import SessionDamaged, SessionNotFound
from mochi_server.store import files, session_files
from mochi_server.store.listing import ID

Tell = Callable[[int, int], None]
"""Is told how many files are done, of how many: before the first, and after each."""

_TRIES = 10
_HOPELESS = {errno.ENOSPC, errno.EFBIG, errno.EROFS, getattr(errno, "EDQUOT", errno.ENOSPC)}


class Untouched(msgspec.Struct, frozen=True):
    """A session's file that is as it was, and why."""

    session_id: str
    reason: str


class Report(msgspec.Struct, kw_only=True):
    """What became of a folder's files.

    `damaged` are those that no server here could read, `failed` those that the system did not let us read or write,
    `others` the names of JSON files that are no session's by their name. `stopped` says why the disk ended it, with
    `left` files still as they were.
    """

    migrated: int = 0
    already: int = 0
    damaged: list[Untouched] = msgspec.field(default_factory=list)
    failed: list[Untouched] = msgspec.field(default_factory=list)
    others: list[str] = msgspec.field(default_factory=list)
    stopped: str | None = None
    left: int = 0

    @property
    def total(self) -> int:
        """How many session files there are."""
        return self.migrated + self.already + len(self.damaged) + len(self.failed) + self.left


class _Head(msgspec.Struct):
    metadata: "_Version"


class _Version(msgspec.Struct):
    format_version: str | None = None


_head = msgspec.json.Decoder(_Head)


def migrate(folder: Path, *, dry_run: bool, tell: Tell) -> Report:
    """Replace each file of an older format with the same session in 2.0, durably and one by one. Blocks.

    When it is broken off, each file is old or new, and the next run goes on from there. No session's `updated_at`
    changes, so lists keep their order. A dry run reads, counts and writes nothing, beside a running server too.
    Raises OSError when the folder cannot be had, FolderInUse while a server runs over it.
    """
    if dry_run:
        return _all(folder, None, tell)
    os.scandir(folder).close()  # one that is not there, or is a file, is not to be made
    scratch = folder / ".mochi"
    files.make_folder(scratch)
    lock = files.FolderLock(scratch / "lock")
    try:
        files.sweep(scratch)
        return _all(folder, scratch, tell)
    finally:
        lock.release()


def _all(folder: Path, scratch: Path | None, tell: Tell) -> Report:
    report = Report()
    with os.scandir(folder) as entries:
        names = sorted(e.name.removesuffix(".json") for e in entries if e.name.endswith(".json"))
    report.others = [f"{name}.json" for name in names if not ID.match(name)]
    ids = [name for name in names if ID.match(name)]
    tell(0, len(ids))
    for done, session_id in enumerate(ids, 1):
        try:
            _one(folder / f"{session_id}.json", scratch, report)
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            if scratch is not None and error.errno in _HOPELESS:
                report.stopped, report.left = reason, len(ids) - done + 1
                return report
            report.failed.append(Untouched(session_id, reason))
        tell(done, len(ids))
    return report


def _one(path: Path, scratch: Path | None, report: Report) -> None:
    """Migrate one file, or only see what there is to do where there is no scratch folder. Raises OSError."""
    try:
        migrated = _migrated(path, scratch)
    except SessionNotFound:
        return  # removed meanwhile
    except SessionDamaged as error:
        report.damaged.append(Untouched(path.stem, str(error.details["reason"])))
        return
    report.migrated += migrated
    report.already += not migrated


def _migrated(path: Path, scratch: Path | None) -> bool:
    """Whether the file was of an older format. Raises SessionNotFound, SessionDamaged, OSError."""
    for _ in range(_TRIES):
        try:
            found = session_files.read(path)
            if _head.decode(path.read_bytes()).metadata.format_version == FORMAT_VERSION:
                return False
            data = _written(path, found.session)
            if scratch is not None:
                files.replace(path, data, scratch, found.stamp)
        except (files.FileChanged, FileNotFoundError, msgspec.DecodeError, UnicodeDecodeError):
            continue  # it was changed while we looked at it
        return True
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))


def _written(path: Path, session: Session) -> bytes:
    """The bytes of the session's file, once it is sure that they will be read as this very session."""
    sealed, data = session_file.sealed(session)
    try:
        same = session_file.decode(data) == sealed
    except session_file.DamagedFile:
        same = False
    if not same:
        raise SessionDamaged(path.stem, f"format {FORMAT_VERSION} cannot hold it as it is")
    return data
