"""The index on disk: what lists and searches need of every session, so that a start need not read them all.

A cache: it may be deleted at any time, and what is in it counts only where the stamp is that of the session's file.
SQLite, because it keeps what it has through a kill and finds a text among 40 MB in 40 ms. All methods block.
"""

import contextlib
import sqlite3
import threading
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from mochi_server.domain.session import Session
from mochi_server.store import files
from mochi_server.store.index import Listed

VERSION = 1
_DELETED_FROM = 1
"""Noted in the file's own head once something was deleted from it."""

CACHE_KIB = 256
"""How much of the file SQLite keeps in memory: the operating system has it anyway."""

_SCHEMA = """
CREATE TABLE listed (session_id TEXT PRIMARY KEY, updated_at TEXT, model TEXT, stamp BLOB, line BLOB);
CREATE TABLE words (session_id TEXT PRIMARY KEY, text BLOB);
"""
_BETWEEN = b"\xff"
"""Stands between two texts: no byte of UTF-8, so nothing that is looked for spans them."""


class IndexFile:
    """The file. Whatever is wrong with it raises sqlite3.Error or OSError; `forget` then begins a new one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.new = False
        """Set when a file was begun in which nothing is yet; for the reader to set back."""
        self._lock = threading.Lock()
        self._database: sqlite3.Connection | None = None

    def read(self) -> list[Listed]:
        """All that it has."""
        with self._lock:
            rows = self._opened().execute("SELECT session_id, updated_at, model, stamp, line FROM listed")
            models: dict[str, str] = {}
            return [Listed(i, at, models.setdefault(model, model), stamp, line) for i, at, model, stamp, line in rows]

    def write(self, put: Iterable[tuple[Listed, bytes]], drop: Iterable[str] = ()) -> None:
        """Bring it up to date: sessions with their words, and sessions that are no more."""
        with self._lock, self._opened() as database:
            for one, words in put:
                row = (one.session_id, one.updated_at, one.model, one.stamp, one.line)
                database.execute("INSERT OR REPLACE INTO listed VALUES (?, ?, ?, ?, ?)", row)
                database.execute(
                    "INSERT INTO words VALUES (?, ?) ON CONFLICT (session_id) DO UPDATE SET text = excluded.text",
                    (one.session_id, words),
                )
            for session_id in drop:
                database.execute("DELETE FROM listed WHERE session_id = ?", (session_id,))
                database.execute("DELETE FROM words WHERE session_id = ?", (session_id,))
                database.execute(f"PRAGMA application_id = {_DELETED_FROM}")

    def search(self, text: str, part: int = 0, parts: int = 1) -> set[str]:
        """The sessions whose words hold the text, folded as they are; of one of so many parts of them."""
        # A connection of its own: several parts are searched at the same time, without Python's lock.
        with contextlib.closing(sqlite3.connect(f"{self.path.resolve().as_uri()}?mode=ro", uri=True)) as database:
            first, last = database.execute("SELECT min(rowid), max(rowid) FROM words").fetchone()
            if first is None:
                return set()
            size = (last - first) // parts + 1
            begin = first + part * size
            found = database.execute(
                "SELECT session_id FROM words WHERE rowid >= ? AND rowid < ? AND instr(text, ?)",
                (begin, begin + size, folded(text)),
            )
            return {session_id for (session_id,) in found}

    def compact(self) -> None:
        """Go on in a new file with what is in this one, if anything was deleted from it.

        What is deleted is overwritten, but SQLite moves rows between pages, and the places that they left are not.
        """
        with self._lock:
            database = self._opened()
            if database.execute("PRAGMA application_id").fetchone()[0] != _DELETED_FROM:
                return
            fresh = self.path.with_suffix(files.LEFTOVER)
            try:
                # A killed process may have left one.
                fresh.unlink(missing_ok=True)
                files.make_private(fresh)
                database.execute("VACUUM INTO ?", (str(fresh),))
                self._close()
                fresh.replace(self.path)
            finally:
                fresh.unlink(missing_ok=True)
            self._opened().execute("PRAGMA application_id = 0")

    def forget(self) -> None:
        """Throw the file away, whatever is in it."""
        with self._lock:
            self._close()
            for path in (self.path, self.path.with_name(f"{self.path.name}-journal")):
                path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None

    def _opened(self) -> sqlite3.Connection:
        if self._database is None:
            files.make_private(self.path)
            database = sqlite3.connect(self.path, check_same_thread=False)
            try:
                self.new |= _prepare(database)
            except sqlite3.Error:
                database.close()
                raise
            self._database = database
        return self._database


def _prepare(database: sqlite3.Connection) -> bool:
    """Make it ready for use; whether it was empty."""
    # What is deleted is overwritten, and the journal of a change does not stay: see `compact` for the rest.
    database.execute("PRAGMA secure_delete = ON")
    database.execute("PRAGMA journal_mode = TRUNCATE")
    database.execute("PRAGMA synchronous = NORMAL")
    database.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
    version = database.execute("PRAGMA user_version").fetchone()[0]
    if version == VERSION:
        return False
    if version != 0 or database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        raise sqlite3.DatabaseError("the index is of another version")
    database.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {VERSION}; COMMIT;")
    return True


def words(session: Session) -> bytes:
    """What a search looks at: the title and the messages of the active path, folded."""
    texts = [m.content for m in session.messages]
    if session.metadata.title:
        texts.append(session.metadata.title)
    return _BETWEEN.join([folded(text) for text in texts])


def folded(text: str) -> bytes:
    """The text without what a search does not distinguish: case, and ways to write the same character."""
    if text.isascii():
        return text.lower().encode()
    composed = unicodedata.normalize("NFC", text).casefold()
    return unicodedata.normalize("NFC", composed).encode()
