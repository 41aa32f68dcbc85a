"""The journal of a reply: every event is in it before anybody is sent it, so what was shown outlives the process.

A line is a name, a space and one line of JSON: first `head`, then the reply's events in order, and among them two
notes that are no events, `ending` (what the message has beside its words) and `saved`. Appending goes into the page
cache and is done on the event loop; all else blocks and runs in threads.
"""

import contextlib
import os
import threading
import weakref
from collections.abc import Container, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import msgspec

from mochi_server.domain.clock import timestamp
from mochi_server.domain.events import Entry, Event, said
from mochi_server.domain.messages import AssistantMessage
from mochi_server.store import files

RUNNING, ENDED = ".running", ".ended"
_O_BINARY = getattr(os, "O_BINARY", 0)  # Windows would make two bytes of a line feed


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """What a reply is known by before its first token: `reply` is its message without its words."""

    session_id: str
    generation_id: str
    question_id: str
    reply: AssistantMessage


class Kept(msgspec.Struct, frozen=True, kw_only=True, weakref=True):
    """What a journal holds, up to the first line that is torn.

    `ending` is the message as it was about to be saved, without its words; `saved` whether it was. `size` is the
    length in bytes of all that, `written_at` when the last of it was written, in seconds since 1970.
    """

    head: Head
    entries: list[Entry]
    ending: AssistantMessage | None
    saved: bool
    size: int
    written_at: float

    @property
    def ended(self) -> bool:
        """Whether the reply's `done` stands in it."""
        return bool(self.entries) and self.entries[-1].name == "done"

    def message(self) -> AssistantMessage | None:
        """The reply that the events make: as it ended, or as it was when its process died. None: nothing was said."""
        content, thinking = said(self.entries)
        reply = self.ending
        if reply is None:
            if not content and not thinking:
                return None
            written = timestamp(datetime.fromtimestamp(self.written_at, UTC))
            reply = msgspec.structs.replace(
                self.head.reply, status="interrupted", done_reason="crashed", timestamp=written
            )
        return msgspec.structs.replace(
            reply, content=content, thinking=thinking or None, parent_id=self.head.question_id
        )


_json = msgspec.json.Encoder()
_heads = msgspec.json.Decoder(Head)
_messages = msgspec.json.Decoder(AssistantMessage)
_events: dict[bytes, msgspec.json.Decoder[Any]] = {
    kind.name.encode(): msgspec.json.Decoder(kind) for kind in get_args(Event)
}


class Journal:
    """One reply's journal while it is written. Opening blocks and raises OSError, FileExistsError too."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | _O_BINARY, files.FILE_MODE)
        self._size = 0
        self._unsynced = False
        # A sync must not meet a file that was closed, or another one under its number.
        self._closing = threading.Lock()
        self._open = True

    def begin(self, head: Head) -> None:
        """Say what the reply is known by. Raises OSError."""
        self._write(_line("head", _json.encode(head)))

    def append(self, entries: Iterable[Entry]) -> None:
        """Add events: all of them, or none. Raises OSError."""
        lines = bytearray()
        for entry in entries:
            lines += b"%b %b\n" % (entry.name.encode(), entry.data)
        self._write(lines)

    def ending(self, message: AssistantMessage) -> None:
        """Say how the reply ended, before it is saved. Raises OSError."""
        self._write(_ending(message))

    def saved(self) -> None:
        """Say that the reply is in its session's file. Raises OSError."""
        self._write(_line("saved", b"{}"))

    def sync(self) -> None:
        """Make durable what there is so far. Blocks. Raises OSError."""
        with self._closing:
            if self._open and self._unsynced:
                self._unsynced = False
                try:
                    os.fsync(self._file)
                except OSError:
                    self._unsynced = True
                    raise

    def close(self) -> None:
        """Write no more. Blocks."""
        with self._closing:
            if self._open:
                self._open = False
                os.close(self._file)

    def _write(self, lines: bytes | bytearray) -> None:
        if (written := os.write(self._file, lines)) < len(lines):
            _append(self._file, lines, written, self._size)
        self._size += len(lines)
        self._unsynced = True


class Journals:
    """The folder of the journals: at most two a session.

    `<session id>.running` is of a reply that runs, or that is not in its session's file yet; `<session id>.ended` of
    the last one that is. All methods block and raise OSError.
    """

    def __init__(self, folder: Path, quarantine: Path) -> None:
        self._folder = folder
        self._quarantine = quarantine
        self._open: set[Journal] = set()
        self._void: set[Path] = set()
        self._reading = threading.Lock()
        self._in_use: weakref.WeakValueDictionary[tuple[bytes, int], Kept] = weakref.WeakValueDictionary()

    @property
    def writing(self) -> bool:
        """Whether any journal is being written."""
        return bool(self._open)

    def open(self, session_id: str) -> Journal:
        """A journal for a new reply. Raises FileExistsError where the one before is not in its session's file yet."""
        path = self._path(session_id, RUNNING)
        if path in self._void:
            self._void_no_more(path)
        try:
            journal = Journal(path)
        except FileNotFoundError:
            files.make_folder(self._folder)
            journal = Journal(path)
        self._open.add(journal)
        return journal

    def end(self, journal: Journal, *, settled: bool) -> None:
        """Write no more to it. A settled one is from now on the session's last."""
        self._open.discard(journal)
        journal.close()
        if settled:
            journal.path.replace(journal.path.with_suffix(ENDED))

    def discard(self, journal: Journal) -> None:
        """Leave nothing of a journal whose reply never began. Should that fail, the next reply's takes its place."""
        self._open.discard(journal)
        self._void.add(journal.path)
        try:
            journal.close()
        finally:
            self._void_no_more(journal.path)

    def sync(self) -> None:
        """Make durable what the open journals hold: all that can be, even where one fails."""
        failure: OSError | None = None
        for journal in list(self._open):
            try:
                journal.sync()
            except OSError as error:
                failure = error
        if failure is not None:
            raise failure

    def unsettled(self) -> list[str]:
        """The sessions with a reply that may not be in their files, but for those that are being written."""
        writing = {journal.path for journal in list(self._open)}
        try:
            paths = list(self._folder.iterdir())  # unlike a glob, it always says so when it fails
        except FileNotFoundError:
            return []
        return [path.stem for path in paths if path.suffix == RUNNING and path not in writing]

    def kept(self, session_id: str, which: str) -> Kept | None:
        """What the session's running or ended journal holds; None where it holds nothing that can be read.

        However many hold it, it is read once: a long reply takes many times its length in memory. And only one is
        read at a time: it is work for the processor, and takes turns with the event loop.
        """
        try:
            with self._reading, self._path(session_id, which).open("rb") as file:
                head, status = file.readline(), os.fstat(file.fileno())
                known = head, status.st_size  # a head names its reply
                kept = self._in_use.get(known)
                if kept is None and (kept := _read(head + file.read(), status.st_mtime)) is not None:
                    self._in_use[known] = kept
                return kept
        except FileNotFoundError:
            return None

    def settle(self, session_id: str, kept: Kept, ending: AssistantMessage | None, entries: Iterable[Entry]) -> None:
        """End a journal that a process left behind: `ending` is in the session's file now, `entries` were missing."""
        lines = [_line(entry.name, entry.data) for entry in entries]
        if ending is not None:
            lines[:0] = [_ending(ending), _line("saved", b"{}")]
        path = self._path(session_id, RUNNING)
        with path.open("r+b", buffering=0) as file:
            file.truncate(kept.size)
            file.seek(kept.size)
            _append(file.fileno(), b"".join(lines), 0, kept.size)
        path.replace(path.with_suffix(ENDED))

    def give_up(self, session_id: str) -> None:
        """Remove a running journal whose reply never began; the one before stays the session's last."""
        self._path(session_id, RUNNING).unlink(missing_ok=True)

    def set_aside(self, session_id: str) -> None:
        """Put away a running journal of which nothing can be read: the next reply's needs its name."""
        path = self._path(session_id, RUNNING)
        with contextlib.suppress(FileNotFoundError):
            status = path.stat()
            if status.st_size == 0:
                path.unlink()
            else:
                files.make_folder(self._quarantine)
                path.replace(self._quarantine / f"{path.name}.{status.st_mtime_ns}")

    def drop(self, session_id: str) -> None:
        """Leave nothing of the session's replies."""
        for which in (RUNNING, ENDED):
            files.give_up(self._path(session_id, which))
        for path in list(self._quarantine.glob(f"{session_id}.*")):
            files.give_up(path)

    def clean(self, sessions: Container[str]) -> None:
        """Remove the journals of sessions that are no more."""
        for path in list(self._folder.glob("*.*")):
            if path.suffix in {RUNNING, ENDED} and path.stem not in sessions:
                path.unlink(missing_ok=True)
        for path in list(self._quarantine.glob("*.*")):
            if path.name.partition(".")[0] not in sessions:
                path.unlink(missing_ok=True)

    def _void_no_more(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        self._void.discard(path)

    def _path(self, session_id: str, which: str) -> Path:
        return self._folder / f"{session_id}{which}"


def _append(file: int, lines: bytes | bytearray, written: int, size: int) -> None:
    """Write lines behind the first so many bytes of a file: all of them, or none. Raises OSError.

    So many bytes of the lines are `written` already.
    """
    try:
        while written < len(lines):
            written += os.write(file, lines[written:])
    except OSError:
        if written:
            # What is not there whole is not shown: the next line must not be joined to it.
            os.ftruncate(file, size)
        raise


def _line(name: str, data: bytes) -> bytes:
    return b"%b %b\n" % (name.encode(), data)


def _ending(message: AssistantMessage) -> bytes:
    return _line("ending", _json.encode(msgspec.structs.replace(message, content="", thinking=None)))


def _read(data: bytes, written_at: float) -> Kept | None:
    """What the lines say, up to the first that is not as it was written."""
    head: Head | None = None
    ending: AssistantMessage | None = None
    entries: list[Entry] = []
    saved, size = False, 0
    *lines, _torn = data.split(b"\n")
    for line in lines:
        name, _, text = line.partition(b" ")
        try:
            match name:
                case b"head":
                    head = _heads.decode(text)
                case b"ending":
                    ending = _messages.decode(text)
                case b"saved" if text == b"{}":
                    saved = True
                case _:
                    _events[name].decode(text)
                    entries.append(Entry(name.decode(), text))
        except (KeyError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            break
        size += len(line) + 1
    if head is None:
        return None
    return Kept(head=head, entries=entries, ending=ending, saved=saved, size=size, written_at=written_at)
