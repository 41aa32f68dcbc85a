"""The list of sessions: in memory, kept on disk for the next start, and searched there."""

import asyncio
import contextlib
import contextvars
import errno
import logging
import os
import re
import sqlite3
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from mochi_server.errors import SessionDamaged, SessionNotFound
from mochi_server.observability.fields import Ours
from mochi_server.observability.logs import log
from mochi_server.store import files, index_file
from mochi_server.store.index import Damaged, Index, Listed, listed
from mochi_server.store.index_file import IndexFile
from mochi_server.store.session_files import Stored
from mochi_server.store.threads import Threads

logger = logging.getLogger(__name__)

ID = re.compile(r"[0-9a-f]{10}\Z")
WRITE_AFTER_SECONDS = 1.0
"""How long after a change the index file follows: a long session that is written to is not folded for each message."""

BATCH = 200
"""How many sessions are written to the index file at once."""

PROGRESS_SECONDS = 1.0

PARTS = min(4, os.cpu_count() or 1)
"""In how many parts the index file is searched at the same time."""

_UNKNOWN = b""
"""The stamp of a file of which the disk told nothing."""

Read = Callable[[str], Stored]
"""Reads one session; blocks, and raises SessionNotFound, SessionDamaged, OSError."""


class Listing:
    """Every session of a folder, as lists and searches need it.

    `read` reads a session that the index file has not, or has no longer as it is.
    """

    def __init__(self, folder: Path, file: Path, threads: Threads, read: Read) -> None:
        self.index = Index()
        self._folder = folder
        self._file = IndexFile(file)
        self._threads = threads
        self._read = read
        self._unwritten: set[str] = set()
        self._deleted = False
        self._writing = asyncio.Lock()
        self._later: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Find out what is in the folder. Raises OSError."""
        whole, damaged = await self._threads.run(self._look)
        self._file.new = False
        self.index.fill(whole)
        for one in damaged:
            self.put_damaged(one)
        await self.write()

    async def close(self) -> None:
        """Write what is not written yet."""
        if self._later is not None:
            self._later.cancel()
        await self.write()
        await self._threads.run(self._file.close)

    def put(self, stored: Stored) -> None:
        """Add a session, or bring it up to date."""
        one = listed(stored.session, stored.stamp)
        if self.index.find(one.session_id) != one:
            self.index.put(one)
            self._changed(one.session_id)

    def put_damaged(self, damaged: Damaged) -> None:
        """Note that a session's file cannot be read."""
        if self.index.find(damaged.session_id) != damaged:
            self.index.put_damaged(damaged)
            self._changed(damaged.session_id)
            log(
                logger,
                logging.WARNING,
                "damaged session",
                session_id=damaged.session_id,
                damage=Ours.sentence(damaged.reason),
            )

    def drop(self, session_id: str) -> None:
        """Forget a session that is no more."""
        self.index.drop(session_id)
        self._changed(session_id)

    async def purge(self, session_id: str) -> None:
        """Forget a session, and leave none of its words on disk."""
        self.index.drop(session_id)
        # Not beside a write that has read the session before its file was removed, and would put its words back.
        async with self._writing:
            try:
                await self._threads.run(self._file.write, (), (session_id,))
                self._deleted = True
                self._write_later()
            except (sqlite3.Error, OSError) as error:
                # On a full disk even that may fail. Without the file there are no words either.
                with contextlib.suppress(OSError):
                    await self._threads.run(self._file.forget)
                await self._lost(error)
                self._changed(session_id)

    def differing(self, known: dict[str, Listed | Damaged]) -> list[str]:
        """The sessions whose files are not as they are known, or are not there. Blocks. Raises OSError."""
        differing, gone = _compared(self._folder, known)
        return [*gone, *differing]

    async def search(self, text: str) -> set[str]:
        """The sessions that say this, in whatever case."""
        await self.write()
        # What could not be written, or has changed meanwhile, is looked at itself.
        unwritten = set(self._unwritten)
        try:
            # Rows that are written meanwhile would move the bounds between the parts.
            async with self._writing:
                found = await asyncio.gather(
                    *(self._threads.run(self._file.search, text, part, PARTS) for part in range(PARTS))
                )
            hits = set[str]().union(*found)
        except (sqlite3.Error, OSError) as error:
            await self._lost(error)
            hits, unwritten = set(), set(self.index.known())
        if self._begun_anew():
            unwritten = set(self._unwritten)
        looked_for = index_file.folded(text)
        return (hits - unwritten) | await self._threads.run(self._saying, looked_for, unwritten)

    async def write(self) -> None:
        """Bring the index file up to date. Where that fails it is left behind, and searches take longer."""
        while await self._write_some():
            continue
        if self._deleted:
            async with self._writing:
                await self._compact()

    async def _write_some(self) -> bool:
        """Write a part of what is not written; whether there may be more. What fails is tried with the next write."""
        async with self._writing:
            if not (batch := list(self._unwritten)[:BATCH]):
                return False
            self._unwritten.difference_update(batch)
            left = set(batch)
            try:
                left = await self._threads.run(self._write, batch)
            except (sqlite3.Error, OSError) as error:
                await self._lost(error)
            finally:
                self._unwritten |= left
            self._begun_anew()
            return not left

    async def _compact(self) -> None:
        """Leave no copies of what was deleted."""
        try:
            await self._threads.run(self._file.compact)
            self._deleted = False
        except (sqlite3.Error, OSError) as error:
            # Without room for a second file there is none for the first.
            with contextlib.suppress(OSError):
                await self._threads.run(self._file.forget)
                self._deleted = False
            await self._lost(error)

    def _begun_anew(self) -> bool:
        """Whether somebody took the index file away and there is a new one, to which all is to be written."""
        if not self._file.new:
            return False
        self._file.new = False
        self._unwritten.update(self.index.known())
        return True

    def _look(self) -> tuple[list[Listed], list[Damaged]]:
        known: dict[str, Listed | Damaged] = {one.session_id: one for one in self._kept()}
        unread, gone = _compared(self._folder, known)
        for session_id in (*gone, *unread):
            known.pop(session_id, None)
        self._unwritten.update(gone)
        whole = [one for one in known.values() if isinstance(one, Listed)]
        more, damaged = self._read_all(unread)
        # What a killed process had no time for.
        self._deleted = True
        return whole + more, damaged

    def _kept(self) -> list[Listed]:
        """What the index file has. One that cannot be used is thrown away: all is read anew."""
        try:
            return self._file.read()
        except (sqlite3.Error, OSError) as error:
            log(logger, logging.WARNING, "the index file is made anew", reason=_reason(error))
        try:
            self._file.forget()
            return self._file.read()
        except (sqlite3.Error, OSError):
            return []

    def _read_all(self, unread: dict[str, bytes]) -> tuple[list[Listed], list[Damaged]]:
        """Read these files, saying how far it is, and write the index file on the way."""
        whole: list[Listed] = []
        damaged: list[Damaged] = []
        told = time.monotonic()
        ids = list(unread)
        for start in range(0, len(ids), BATCH):
            found: list[tuple[Listed, bytes]] = []
            for session_id in ids[start : start + BATCH]:
                try:
                    stored = self._read(session_id)
                    found.append((listed(stored.session, stored.stamp), index_file.words(stored.session)))
                except SessionNotFound:
                    continue  # it was removed while we looked
                except (SessionDamaged, OSError) as error:
                    # What the disk could not give is tried again with the next look.
                    stamp = unread[session_id] if isinstance(error, SessionDamaged) else _UNKNOWN
                    damaged.append(Damaged(session_id, why_damaged(error), stamp))
            whole += [one for one, _ in found]
            try:
                self._file.write(found)
            except (sqlite3.Error, OSError):
                self._unwritten.update(one.session_id for one, _ in found)
            if time.monotonic() - told >= PROGRESS_SECONDS:
                told = time.monotonic()
                log(logger, logging.INFO, "reading the sessions", read=start + BATCH, of=len(ids))
        return whole, damaged

    def _write(self, session_ids: list[str]) -> set[str]:
        """Write these; those that could not be read just now."""
        put: list[tuple[Listed, bytes]] = []
        drop: list[str] = []
        left: set[str] = set()
        for session_id in session_ids:
            try:
                stored = self._read(session_id)
                put.append((listed(stored.session, stored.stamp), index_file.words(stored.session)))
            except (SessionNotFound, SessionDamaged):
                drop.append(session_id)
                self._deleted = True
            except OSError:
                left.add(session_id)
        self._file.write(put, drop)
        return left

    def _saying(self, looked_for: bytes, session_ids: set[str]) -> set[str]:
        found: set[str] = set()
        for session_id in session_ids:
            try:
                if looked_for in index_file.words(self._read(session_id).session):
                    found.add(session_id)
            except (SessionNotFound, SessionDamaged, OSError):
                continue  # a session that cannot be read is in the list's `damaged`
        return found

    async def _lost(self, error: Exception) -> None:
        """The index file cannot be used now. One that is broken, or was removed, is made anew from the sessions."""
        log(logger, logging.WARNING, "the index file could not be used", reason=_reason(error))
        if not await self._threads.run(self._kept_after, error):
            self._unwritten.update(self.index.known())

    def _kept_after(self, error: Exception) -> bool:
        """Close the index file, to be opened anew; whether there is one still."""
        try:
            self._file.close()
            if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
                self._file.forget()
            return self._file.path.exists()
        except (OSError, sqlite3.Error):
            return False

    def _changed(self, session_id: str) -> None:
        self._unwritten.add(session_id)
        self._write_later()

    def _write_later(self) -> None:
        if self._later is None:
            # Its log lines are not those of the request that happened to come first.
            context = contextvars.Context()
            loop = asyncio.get_running_loop()
            self._later = loop.call_later(WRITE_AFTER_SECONDS, self._start_writing, context=context)

    def _start_writing(self) -> None:
        self._later = None
        task = asyncio.get_running_loop().create_task(self.write())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def why_damaged(error: SessionDamaged | OSError) -> str:
    """Why a session's file cannot be read."""
    if isinstance(error, OSError):
        return f"it cannot be read: {os.strerror(error.errno or 0)}"
    return str(error.details["reason"])


def _compared(folder: Path, known: Mapping[str, Listed | Damaged]) -> tuple[dict[str, bytes], list[str]]:
    """The session files that are not as they are known, with their stamps, and the known that are not there."""
    differing: dict[str, bytes] = {}
    seen: set[str] = set()
    with os.scandir(folder) as entries:
        for entry in entries:
            if not (entry.name.endswith(".json") and ID.match(entry.name[:-5])):
                continue
            one = known.get(entry.name[:-5])
            stamp = _UNKNOWN
            try:
                stamp = files.stamp(entry.stat(follow_symlinks=False))
            except FileNotFoundError:
                continue
            except OSError:
                pass  # one file of which the disk says nothing is no reason to list none
            if one is None or one.stamp != stamp:
                differing[entry.name[:-5]] = stamp
            if one is not None:
                seen.add(one.session_id)
    return differing, [session_id for session_id in known if session_id not in seen]


def _reason(error: Exception) -> str:
    if isinstance(error, sqlite3.Error):
        return getattr(error, "sqlite_errorname", type(error).__name__)
    return errno.errorcode.get(getattr(error, "errno", 0) or 0, type(error).__name__)
