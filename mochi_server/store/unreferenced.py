"""Images that no session's file refers to any more: found, and removed.

A reference is whatever looks like one, anywhere in a file's bytes: messages off the active path have them, and so may
fields that this version does not know. While any session's file cannot be read nothing is removed.
"""

import asyncio
import logging
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from mochi_server.errors import SessionDamaged, SessionNotFound
from mochi_server.observability.fields import Ours
from mochi_server.observability.logs import log
from mochi_server.store import files
from mochi_server.store.images import Images, references
from mochi_server.store.index import Index, Listed
from mochi_server.store.listing import ID
from mochi_server.store.session_files import Stored
from mochi_server.store.threads import Threads

logger = logging.getLogger(__name__)

Read = Callable[[str], Stored]
"""Reads one session; blocks, and raises SessionNotFound, SessionDamaged, OSError."""


class _CannotTell(Exception):
    """What a session's file refers to; the text says why."""


class Unreferenced:
    """Removes images, one look through the folder at a time. What each file refers to is remembered by its stamp."""

    def __init__(self, folder: Path, images: Images, threads: Threads, index: Index, read: Read) -> None:
        self._folder = folder
        self._images = images
        self._threads = threads
        self._index = index
        self._read = read
        self._known: dict[str, tuple[bytes, frozenset[str]]] = {}
        self._left: set[str] = set()
        """What is to be removed if nobody refers to it."""
        self._looking = asyncio.Lock()
        self._first: asyncio.Task[None] | None = None
        self._closing = False

    def begin(self) -> None:
        """Look once at all images, in the background: a process that was killed may have left some."""
        self._first = asyncio.get_running_loop().create_task(self._look_at_all())

    async def close(self) -> None:
        """Look no further."""
        self._closing = True
        if self._first is not None:
            await self._first

    def referred(self, path: Path) -> frozenset[str]:
        """The images that a file refers to; all that there are where it cannot be read. Blocks. Raises OSError."""
        there = self._images.digests()
        try:
            return references(path.read_bytes()) if there else frozenset()
        except FileNotFoundError:
            return frozenset()
        except OSError:
            return frozenset(there)

    async def remove(self, digests: Iterable[str]) -> None:
        """Remove these, unless somebody refers to them. What cannot be told now is looked at the next time."""
        self._left.update(digests)
        async with self._looking:
            # Who looked before us may have looked at ours, too.
            if not self._left or self._closing:
                return
            try:
                self._left -= await self._threads.run(self._settled, self._left.copy())
            except OSError as error:
                log(logger, logging.WARNING, "images are left", reason=files.reason(error))
            except _CannotTell as why:
                log(
                    logger,
                    logging.WARNING,
                    "images are kept while a session cannot be read",
                    damage=Ours.sentence(str(why)),
                )

    async def _look_at_all(self) -> None:
        try:
            there = await self._threads.run(self._images.digests)
        except OSError as error:
            log(logger, logging.WARNING, "the images cannot be looked at", reason=files.reason(error))
            return
        if there:
            await self.remove(there)

    def _settled(self, digests: set[str]) -> set[str]:
        """Remove those that nobody refers to; all of which it is known by now whether somebody does. Blocks."""
        there = self._images.digests()
        if digests.isdisjoint(there):
            return digests
        with self._images.looked_over():
            referenced = self._referenced()
            return {
                digest
                for digest in digests
                if digest not in there or digest in referenced or self._images.remove_unreferenced(digest)
            }

    def _referenced(self) -> set[str]:
        """All digests that session files refer to. Raises _CannotTell."""
        # A second look, after a long first one: what we save meanwhile is held, what is changed by hand is not.
        if self._look():
            self._look()
        return set[str]().union(*(digests for _, digests in self._known.values()))

    def _look(self) -> bool:
        """Look through the folder; whether there was anything to be read. Raises _CannotTell."""
        present: set[str] = set()
        has_read = False
        with os.scandir(self._folder) as entries:
            for entry in entries:
                session_id = entry.name[:-5]
                if not (entry.name.endswith(".json") and ID.match(session_id)):
                    continue
                if self._closing:
                    raise _CannotTell("the server is stopping")
                try:
                    stamp = files.stamp(entry.stat(follow_symlinks=False))
                    present.add(session_id)
                    if (known := self._known.get(session_id)) is None or known[0] != stamp:
                        has_read = True
                        self._note(session_id, stamp)
                except (FileNotFoundError, SessionNotFound):
                    continue
        for session_id in self._known.keys() - present:
            # One that somebody took away, and that nobody missed yet, may be about to come back: editors do so.
            if self._index.find(session_id) is None:
                del self._known[session_id]
        return has_read

    def _note(self, session_id: str, stamp: bytes) -> None:
        """Note what a session's file refers to. Raises _CannotTell, SessionNotFound, OSError."""
        listed = self._index.find(session_id)
        if isinstance(listed, Listed) and listed.stamp == stamp:
            # The same two objects for the list and for this.
            session_id, stamp = listed.session_id, listed.stamp
        else:
            try:
                self._read(session_id)
            except SessionDamaged as error:
                raise _CannotTell(f"session {session_id}: {error.details['reason']}") from None
        data = (self._folder / f"{session_id}.json").read_bytes()
        self._known[session_id] = (stamp, references(data))
