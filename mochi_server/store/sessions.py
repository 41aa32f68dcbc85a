"""SessionStore: the sessions folder as sessions.

A session is `<id>.json`, nothing else is ever made of an id. Everything that touches the disk runs in a thread, and
what is in memory follows the disk: a session counts as changed once its file is durable.
"""

import asyncio
import contextlib
import itertools
import logging
import os
import secrets
import time
import weakref
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from mochi_server.domain.session import Session
from mochi_server.errors import MochiError, SessionDamaged, SessionExists, SessionNotFound
from mochi_server.observability.logs import log
from mochi_server.observability.metrics import Metrics
from mochi_server.store import files, session_files
from mochi_server.store.images import Images
from mochi_server.store.index import Damaged, Listed, Place, place
from mochi_server.store.journal import Journals
from mochi_server.store.keys import Keys
from mochi_server.store.listing import ID, Listing
from mochi_server.store.session_files import Change, Stored
from mochi_server.store.threads import Threads, to_its_end
from mochi_server.store.unreferenced import Unreferenced

logger = logging.getLogger(__name__)

CACHE_BYTES = 64 * 1024 * 1024
"""How much may be held of the sessions used last: the size of their files, and of the JSON kept with them."""

LOOK_AFTER_SECONDS = 1.0
"""A list looks for changes by hand when the last look is longer ago: they are seen within two seconds, and while
nobody asks for a list nothing is looked at."""


def new_id() -> str:
    """A new id for a session, a message or a generation: 10 lowercase hex characters."""
    return secrets.token_hex(5)


def session_exists(session_id: str) -> SessionExists:
    """The id is taken."""
    return SessionExists(
        f"There is a session {session_id} already. Leave session_id out to have one made.", {"session_id": session_id}
    )


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """A part of the list; `more` says where the next part begins, None at the end."""

    sessions: list[Listed]
    more: Place | None
    total: int
    damaged: list[Damaged]


class _Hold:
    """One session while anybody works with it: its lock, and how often it was written or removed meanwhile."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.changes = 0


class SessionStore:
    """Loads, saves, lists and deletes sessions. One process at a time: first `take` the folder, then `open` it."""

    def __init__(self, folder: Path, metrics: Metrics | None = None) -> None:
        self._folder = folder
        self._metrics = metrics or Metrics()
        self._inner = folder / ".mochi"
        self.threads = Threads()
        self._listing = Listing(folder, self._inner / "index.sqlite", self.threads, self._held_or_read)
        self.journals = Journals(self._inner / "journals", self._inner / "quarantine")
        self.keys = Keys(self._inner / "keys", self._inner)
        self.images = Images(self._inner / "images", self._inner)
        self._unreferenced = Unreferenced(folder, self.images, self.threads, self._listing.index, self._read)
        self._cache: OrderedDict[str, Stored] = OrderedDict()
        self._cached_bytes = 0
        self._holds: weakref.WeakValueDictionary[str, _Hold] = weakref.WeakValueDictionary()
        self._folder_lock: files.FolderLock | None = None
        self._looking = asyncio.Lock()
        self._looked = float("-inf")
        self._not_durable = False
        """Whether the folder has changes that are not known to outlive a power cut."""

    def take(self) -> None:
        """Make the folder, if it is not there, and take its lock. Blocks. Raises OSError, FolderInUse."""
        files.make_folder(self._folder)
        with os.scandir(self._folder) as entries:
            next(entries, None)  # one that cannot be read is of no use
        files.make_folder(self._inner)
        self._folder_lock = files.FolderLock(self._inner / "lock")

    async def open(self) -> None:
        """Read what is in the folder, and remove what a killed process left half done. Raises OSError."""
        await self._listing.open()
        self._looked = time.monotonic()
        await self.threads.run(self._clean)
        self._unreferenced.begin()

    async def close(self) -> None:
        """Let go of the folder."""
        await self._unreferenced.close()
        await self._listing.close()
        self.threads.close()
        if self._folder_lock is not None:
            self._folder_lock.release()
            self._folder_lock = None

    @property
    def counts(self) -> tuple[int, int]:
        """How many sessions there are, as far as has been seen, and how many more that cannot be read."""
        index = self._listing.index
        return len(index), len(index.damaged())

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
        found: Stored | SessionNotFound | SessionDamaged
        try:
            found = await self.threads.run(session_files.read, path, cached)
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
        path = self._path(session_id)

        async def created() -> Session:
            began = time.monotonic()
            now = await self.threads.run(session_files.create, path, session, self._inner)
            self._metrics.saved(time.monotonic() - began)
            return self._saved(now)

        try:
            async with self.locked(session_id):
                return await to_its_end(created())
        except FileExistsError:
            raise session_exists(session_id) from None
        except OSError as error:
            raise self._failed(error) from None

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
        began = time.monotonic()
        saves = False

        def changed(session: Session) -> Session:
            nonlocal saves
            after = change(session)
            saves = after is not session
            return after

        async def updated() -> Session:
            try:
                now = await self.threads.run(session_files.change, path, cached, changed, self._inner)
            except (SessionNotFound, SessionDamaged) as error:
                self._note(session_id, error, cached)
                raise
            if self._not_durable:
                # What is returned may be what an earlier save could not make safe.
                await self.threads.run(files.sync_folder, self._folder)
                self._not_durable = False
            if saves:
                self._metrics.saved(time.monotonic() - began)
            return now.session if now is cached else self._saved(now)

        try:
            return await to_its_end(updated())
        except OSError as error:
            raise self._failed(error) from None

    async def delete(self, session_id: str) -> None:
        """Remove the session durably, and all that is kept of its words beside it.

        The session must be held. Raises as `load` does: a damaged file is not ours to delete.
        """
        await self.load(session_id)
        await to_its_end(self._remove(session_id))

    async def let_go(self, images: frozenset[str], *, saved: bool) -> None:
        """Hold these images no longer; where nothing was saved that refers to them, remove those that nobody needs."""
        await self.threads.run(self.images.let_go, images)
        if not saved:
            await self._unreferenced.remove(images)

    async def page(
        self,
        limit: int,
        after: Place | None = None,
        *,
        saying: str | None = None,
        matches: Callable[[Listed], bool] | None = None,
    ) -> Page:
        """Up to `limit` sessions behind the place `after`, newest first; `total` counts all that match.

        `saying` is looked for in titles and messages. Changes by hand are seen, too. Raises StorageUnavailable.
        """
        await self._look()
        index = self._listing.index
        if saying:
            found = (index.find(session_id) for session_id in await self._listing.search(saying))
            hits = [one for one in found if isinstance(one, Listed)]
            every = sorted(hits, key=place, reverse=True)
            behind: Iterable[Listed] = every if after is None else [one for one in every if place(one) < after]
        else:
            every, behind = None, index.newest_first(after)
        sessions = list(itertools.islice(filter(matches, behind), limit + 1))
        if every is None and matches is None:
            total = len(index)
        else:
            total = sum(1 for _ in filter(matches, index.newest_first() if every is None else every))
        return Page(
            sessions=sessions[:limit],
            more=place(sessions[limit - 1]) if len(sessions) > limit else None,
            total=total,
            damaged=index.damaged(),
        )

    def _path(self, session_id: str) -> Path:
        if not ID.match(session_id):
            raise SessionNotFound(session_id)
        return self._folder / f"{session_id}.json"

    def _read(self, session_id: str) -> Stored:
        return session_files.read(self._path(session_id), self._cache.get(session_id))

    def _held_or_read(self, session_id: str) -> Stored:
        """As memory has it: a long file that is just being replaced is not decoded anew because of that.

        Changes by hand come into memory by `_look`, and a row of the index is as good as its stamp.
        """
        return self._cache.get(session_id) or self._read(session_id)

    async def _look(self) -> None:
        """Bring the list up to date with changes by hand."""
        async with self._looking:
            if time.monotonic() - self._looked < LOOK_AFTER_SECONDS:
                return
            began = time.monotonic()
            try:
                differing = await self.threads.run(self._listing.differing, self._listing.index.known())
            except OSError as error:
                raise files.storage_error(error) from None
            for session_id in differing:
                with contextlib.suppress(MochiError):
                    await self.load(session_id)
            self._looked = began

    def _clean(self) -> None:
        try:
            files.sweep(self._inner)
            sessions = set(self._listing.index.known())
            # A reply that runs has its session's file, and one whose session was deleted does not run.
            self.keys.clean(sessions, never_made=set(self.journals.unsettled()) - sessions)
            self.journals.clean(sessions)
        except OSError as error:
            log(logger, logging.WARNING, "could not clean up", reason=files.reason(error))

    async def _remove(self, session_id: str) -> None:
        failure: files.NotDurable | None = None
        path = self._path(session_id)
        try:
            images = await self.threads.run(self._unreferenced.referred, path)
            await self.threads.run(files.remove, path)
        except FileNotFoundError:
            raise SessionNotFound(session_id) from None
        except files.NotDurable as error:
            failure = error
        except OSError as error:
            raise self._failed(error) from None
        self._hold(session_id).changes += 1
        self._uncache(session_id)
        await self._listing.purge(session_id)
        try:
            await self.threads.run(self.journals.drop, session_id)
            await self.threads.run(self.keys.drop, session_id)
        except OSError as error:
            log(logger, logging.WARNING, "something is left", session_id=session_id, reason=files.reason(error))
        if images:
            await self._unreferenced.remove(images)
        if failure is not None:
            raise self._failed(failure)

    def _failed(self, error: OSError) -> MochiError:
        """The failure to tell. What the disk has after it is for the next list to find out."""
        self._looked = float("-inf")
        self._not_durable |= isinstance(error, files.NotDurable)
        failure = files.storage_error(error)
        self._metrics.save_failed(failure.code)
        return failure

    def _hold(self, session_id: str) -> _Hold:
        hold = self._holds.get(session_id)
        if hold is None:
            hold = self._holds[session_id] = _Hold()
        return hold

    def _note(self, session_id: str, found: Stored | SessionNotFound | SessionDamaged, cached: Stored | None) -> None:
        """Bring memory up to date with what was just read."""
        if isinstance(found, Stored):
            if found is not cached:
                self._remember(found)
            elif session_id in self._cache:
                self._cache.move_to_end(session_id)
            return
        self._uncache(session_id)
        if isinstance(found, SessionDamaged):
            self._listing.put_damaged(Damaged(session_id, found.details["reason"], found.stamp))
        elif self._listing.index.find(session_id) is not None:
            self._listing.drop(session_id)

    def _saved(self, now: Stored) -> Session:
        self._hold(now.session.metadata.session_id).changes += 1
        self._remember(now)
        return now.session

    def _remember(self, stored: Stored) -> None:
        session_id = stored.session.metadata.session_id
        self._uncache(session_id)
        self._cache[session_id] = stored
        self._cached_bytes += stored.size
        self._listing.put(stored)
        while self._cached_bytes > CACHE_BYTES and len(self._cache) > 1:
            self._uncache(next(iter(self._cache)))

    def _uncache(self, session_id: str) -> None:
        if (old := self._cache.pop(session_id, None)) is not None:
            self._cached_bytes -= old.size
