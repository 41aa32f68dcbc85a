"""SessionStore: the sessions folder as sessions.

A session is `<id>.json`, nothing else is ever made of an id. Everything that touches the disk runs in a thread, and
what is in memory follows the disk: a session counts as changed once its file is durable.
"""

import asyncio
import os
import re
import secrets
import stat
import weakref
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar, TypeVarTuple

import msgspec

from mochi_server.domain import session_file
from mochi_server.domain.session import Session
from mochi_server.errors import MochiError, SessionDamaged, SessionExists, SessionNotFound
from mochi_server.store import files
from mochi_server.store.index import Damaged, Index, Place, Summary, summarize

ID = re.compile(r"[0-9a-f]{10}\Z")
CACHE_BYTES = 64 * 1024 * 1024
"""How much of the session files may be held decoded, counted by their size on disk."""


_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")
Write = Callable[[Path, bytes, Path], os.stat_result]
Change = Callable[[Session], Session]

THREADS = 8
"""How many files may be read and written at the same time."""


def new_id() -> str:
    """A new id for a session, a message or a generation: 10 lowercase hex characters."""
    return secrets.token_hex(5)


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """A part of the list; `more` says where the next part begins, None at the end."""

    sessions: list[Summary]
    more: Place | None
    total: int
    damaged: list[Damaged]


class _Stamp(msgspec.Struct, frozen=True):
    """What tells one state of a file from another."""

    inode: int
    size: int
    mtime_ns: int


class _Cached(msgspec.Struct, frozen=True):
    stamp: _Stamp
    session: Session


class _Hold:
    """One session while anybody works with it: its lock, and how often it was written or removed meanwhile."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.changes = 0


class SessionStore:
    """Loads, saves, lists and deletes sessions. One process at a time: first `take` the folder, then `open` it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._inner = folder / ".mochi"
        self._index = Index()
        self._cache: OrderedDict[str, _Cached] = OrderedDict()
        self._cached_bytes = 0
        self._holds: weakref.WeakValueDictionary[str, _Hold] = weakref.WeakValueDictionary()
        self._folder_lock: files.FolderLock | None = None
        # Threads of our own: a trip costs a third of one through anyio's, and nobody else's work stands before ours.
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="store")

    def take(self) -> None:
        """Make the folder, if it is not there, and take its lock. Blocks. Raises OSError, FolderInUse."""
        files.make_folder(self._folder)
        files.make_folder(self._inner)
        self._folder_lock = files.FolderLock(self._inner / "lock")

    async def open(self) -> None:
        """Read what is in the folder. Raises OSError."""
        found = await self._in_thread(self._look)
        for session_id, outcome in found:
            if isinstance(outcome, Summary):
                self._index.put(outcome)
            else:
                self._index.put_damaged(session_id, outcome)

    def close(self) -> None:
        """Let go of the folder."""
        self._threads.shutdown()
        if self._folder_lock is not None:
            self._folder_lock.release()
            self._folder_lock = None

    @asynccontextmanager
    async def locked(self, session_id: str) -> AsyncIterator[None]:
        """Hold one session: what is loaded inside is still so when it is saved inside."""
        hold = self._hold(session_id)  # by name: it lives as long as somebody has it
        async with hold.lock:
            yield

    async def load(self, session_id: str) -> Session:
        """The session as its file has it now, a change by hand included.

        Raises SessionNotFound, SessionDamaged, StorageUnavailable.
        """
        path = self._path(session_id)
        hold = self._hold(session_id)
        changes = hold.changes
        cached = self._cache.get(session_id)
        found: _Cached | SessionNotFound | SessionDamaged
        try:
            found = await self._in_thread(_read, path, cached)
        except (SessionNotFound, SessionDamaged) as error:
            found = error
        except OSError as error:
            raise files.storage_error(error) from None
        # What was read before a save or a delete that came meanwhile says nothing about now.
        if hold.changes == changes:
            self._note(session_id, found, cached)
        if isinstance(found, MochiError):
            raise found
        return found.session

    async def create(self, session: Session) -> Session:
        """Save a new session durably; returned under its revision.

        Raises SessionExists where anything has its id, StorageFull, StorageUnavailable.
        """
        session_id = session.metadata.session_id
        try:
            async with self.locked(session_id):
                return await self._write(session, files.create)
        except FileExistsError:
            raise SessionExists(
                f"There is a session {session_id} already. Leave session_id out to have one made.",
                {"session_id": session_id},
            ) from None

    async def save(self, session: Session) -> Session:
        """Replace the session's file durably; returned under its revision. Raises StorageFull, StorageUnavailable."""
        return await self._write(session, files.replace)

    async def update(self, session_id: str, change: Change) -> Session:
        """Load, change and save, with the session held. Raises what these three raise."""
        async with self.locked(session_id):
            return await self.update_held(session_id, change)

    async def update_held(self, session_id: str, change: Change) -> Session:
        """As `update`, for who holds the session already: one trip to a thread. `change` runs there, too.

        A change that returns what it was given saves nothing.
        """
        path = self._path(session_id)
        cached = self._cache.get(session_id)

        async def updated() -> Session:
            now = await self._in_thread(_change, path, cached, change, self._inner)
            self._hold(session_id).changes += 1
            self._note(session_id, now, cached)
            return now.session

        try:
            return await _to_its_end(updated())
        except OSError as error:
            raise files.storage_error(error) from None

    async def delete(self, session_id: str) -> None:
        """Remove the session durably. Raises as `load` does: a damaged file is not ours to delete."""
        await self.load(session_id)
        await _to_its_end(self._remove(session_id))

    def page(self, limit: int, after: Place | None = None, matches: Callable[[Summary], bool] = bool) -> Page:
        """Up to `limit` sessions behind the place `after`, newest first; `total` counts all that match."""
        sessions: list[Summary] = []
        more: Place | None = None
        for summary in self._index.newest_first(after):
            if not matches(summary):
                continue
            if len(sessions) == limit:
                more = (sessions[-1].updated_at, sessions[-1].session_id)
                break
            sessions.append(summary)
        total = sum(1 for summary in self._index.newest_first() if matches(summary))
        return Page(sessions=sessions, more=more, total=total, damaged=self._index.damaged())

    def _path(self, session_id: str) -> Path:
        if not ID.match(session_id):
            raise SessionNotFound(session_id)
        return self._folder / f"{session_id}.json"

    def _look(self) -> list[tuple[str, Summary | str]]:
        files.sweep(self._inner)
        with os.scandir(self._folder) as entries:
            ids = [e.name[:10] for e in entries if e.name.endswith(".json") and ID.match(e.name[:-5])]
        return [(session_id, self._outcome(session_id)) for session_id in ids]

    def _outcome(self, session_id: str) -> Summary | str:
        try:
            return summarize(_read(self._path(session_id), None).session)
        except SessionDamaged as error:
            return str(error.details["reason"])
        except SessionNotFound:
            return "it was removed while it was read"
        except OSError as error:
            return f"it cannot be read: {os.strerror(error.errno or 0)}"

    async def _write(self, session: Session, write: Write) -> Session:
        session_id = session.metadata.session_id
        path = self._path(session_id)

        async def written() -> Session:
            now = await self._in_thread(_save, path, session, self._inner, write)
            self._hold(session_id).changes += 1
            self._remember(now)
            return now.session

        try:
            return await _to_its_end(written())
        except FileExistsError:
            raise
        except OSError as error:
            raise files.storage_error(error) from None

    async def _in_thread(self, work: Callable[[*_Ts], _T], *arguments: *_Ts) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)

    async def _remove(self, session_id: str) -> None:
        try:
            await self._in_thread(files.remove, self._path(session_id))
        except FileNotFoundError:
            raise SessionNotFound(session_id) from None
        except OSError as error:
            raise files.storage_error(error) from None
        self._hold(session_id).changes += 1
        self._forget(session_id)

    def _hold(self, session_id: str) -> _Hold:
        hold = self._holds.get(session_id)
        if hold is None:
            hold = self._holds[session_id] = _Hold()
        return hold

    def _note(self, session_id: str, found: _Cached | SessionNotFound | SessionDamaged, cached: _Cached | None) -> None:
        """Bring memory up to date with what was just read."""
        if isinstance(found, _Cached):
            if found is not cached:
                self._remember(found)
            elif session_id in self._cache:
                self._cache.move_to_end(session_id)
            return
        self._forget(session_id)
        if isinstance(found, SessionDamaged):
            self._index.put_damaged(session_id, found.details["reason"])

    def _remember(self, cached: _Cached) -> None:
        session_id = cached.session.metadata.session_id
        self._uncache(session_id)
        self._cache[session_id] = cached
        self._cached_bytes += cached.stamp.size
        self._index.put(summarize(cached.session))
        while self._cached_bytes > CACHE_BYTES and len(self._cache) > 1:
            self._uncache(next(iter(self._cache)))

    def _forget(self, session_id: str) -> None:
        self._uncache(session_id)
        self._index.drop(session_id)

    def _uncache(self, session_id: str) -> None:
        if (old := self._cache.pop(session_id, None)) is not None:
            self._cached_bytes -= old.stamp.size


async def _to_its_end(work: Coroutine[Any, Any, _T]) -> _T:
    """Do this to its end even when the caller is cancelled: memory must learn what the disk holds, and the session's
    lock is not let go of before.
    """
    task = asyncio.get_running_loop().create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise


def _stamp(status: os.stat_result) -> _Stamp:
    return _Stamp(status.st_ino, status.st_size, status.st_mtime_ns)


def _read(path: Path, cached: _Cached | None) -> _Cached:
    """The file's session: the cached one where the file is as it was.

    Raises SessionNotFound, SessionDamaged, OSError.
    """
    try:
        return _decoded(path, cached)
    except (FileNotFoundError, NotADirectoryError):
        raise SessionNotFound(path.stem) from None
    except session_file.DamagedFile as error:
        raise SessionDamaged(path.stem, str(error)) from None


def _decoded(path: Path, cached: _Cached | None) -> _Cached:
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode):
        raise session_file.DamagedFile("it is not a plain file")
    stamp = _stamp(status)
    if cached is not None and cached.stamp == stamp:
        return cached
    session = session_file.decode(path.read_bytes())
    if session.metadata.session_id != path.stem:
        raise session_file.DamagedFile("its session_id is not its name")
    return _Cached(stamp, session)


def _save(path: Path, session: Session, scratch: Path, write: Write) -> _Cached:
    """The session as it is on the disk now."""
    sealed, data = session_file.sealed(session)
    return _Cached(_stamp(write(path, data, scratch)), sealed)


def _change(path: Path, cached: _Cached | None, change: Change, scratch: Path) -> _Cached:
    """The file's session, changed and saved. Raises as `_read` does, and what `change` raises."""
    found = _read(path, cached)
    changed = change(found.session)
    return found if changed is found.session else _save(path, changed, scratch, files.replace)
