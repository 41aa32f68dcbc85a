"""PromptFiles: the system prompts folder, one Markdown file a prompt.

People put files there by hand, too: what is no prompt is left alone. A name is checked before it becomes a path, and
no link is followed, so nothing outside of the folder is reached.
"""

import asyncio
import codecs
import contextlib
import errno
import logging
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TypeVarTuple

import msgspec

from mochi_server.errors import PromptExists, PromptNotFound
from mochi_server.observability.logs import log
from mochi_server.store import files
from mochi_server.store.threads import Threads, to_its_end

logger = logging.getLogger(__name__)
_Ts = TypeVarTuple("_Ts")

LONGEST_PROMPT = 20_000
"""In characters."""

PREVIEW_CHARACTERS = 120
NAMES = (
    "up to 255 letters (A to Z), digits, `_`, `-`, `.` and spaces, the first a letter, a digit or `_`, ending in .md"
)
"""What a name may be, in words."""

# Windows opens a device under these names, whatever follows their first dot.
_NAME = re.compile(
    r"(?!(?i:con|prn|aux|nul|com[0-9]|lpt[0-9])\.)(?=.{4,255}\Z)[A-Za-z0-9_][A-Za-z0-9_. -]*\.md\Z", re.ASCII
)
_KEPT = "system prompt"
_MOST_BYTES = len(codecs.BOM_UTF8) + 4 * LONGEST_PROMPT
# Windows has none of the last three, and no links that are made without asking.
_READ = os.O_RDONLY | sum(getattr(os, name, 0) for name in ("O_BINARY", "O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC"))


class ListedPrompt(msgspec.Struct, frozen=True):
    """A prompt as the list shows it: the beginning of its text on one line, and how many words it has."""

    filename: str
    preview: str
    word_count: int


class _Unusable(Exception):
    """What has the name is no prompt; the text says why."""


def is_prompt_name(filename: str) -> bool:
    """Whether a prompt file may be called so."""
    return _NAME.match(filename) is not None


def check_folder(folder: Path) -> None:
    """Raise OSError where there is something that is no folder, or one that cannot be read. Blocks."""
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        next(entries, None)


class PromptFiles:
    """Lists, reads and writes the prompts. The folder is made with the first of them."""

    def __init__(self, folder: Path, threads: Threads) -> None:
        self._folder = folder
        self._threads = threads
        self._writing = asyncio.Lock()

    async def open(self) -> None:
        """Remove what a killed process left half written."""
        try:
            await self._threads.run(self._sweep)
        except OSError as error:
            log(logger, logging.WARNING, "could not clean up", reason=files.reason(error))

    async def listed(self) -> list[ListedPrompt]:
        """All prompts by name. Raises StorageUnavailable."""
        try:
            return await self._threads.run(self._list)
        except OSError as error:
            raise files.storage_error(error, _KEPT) from None

    async def read(self, filename: str) -> str:
        """The prompt's text. Raises PromptNotFound, StorageUnavailable."""
        path = self._path(filename)
        try:
            return await self._threads.run(_read, path)
        except OSError as error:
            raise files.storage_error(error, _KEPT) from None

    async def create(self, filename: str, content: str) -> None:
        """Save a new prompt durably. Raises PromptExists, StorageFull, StorageUnavailable."""
        await self._changed(self._create, self._path(filename), content)

    async def replace(self, filename: str, content: str) -> None:
        """Put another text in a prompt's place, durably. Raises PromptNotFound, StorageFull, StorageUnavailable."""
        await self._changed(self._replace, self._path(filename), content)

    async def delete(self, filename: str) -> None:
        """Remove a prompt durably. Raises PromptNotFound, StorageFull, StorageUnavailable."""
        await self._changed(_delete, self._path(filename))

    async def _changed(self, work: Callable[[*_Ts], None], *arguments: *_Ts) -> None:
        async def changed() -> None:
            async with self._writing:
                await self._threads.run(work, *arguments)

        try:
            await to_its_end(changed())
        except OSError as error:
            raise files.storage_error(error, _KEPT) from None

    def _path(self, filename: str) -> Path:
        if not is_prompt_name(filename):
            raise _not_found(filename, f"no file can be called so; a name has {NAMES}")
        return self._folder / filename

    def _sweep(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            files.sweep(self._folder, shared=True)

    def _list(self) -> list[ListedPrompt]:
        try:
            names = sorted(path.name for path in self._folder.iterdir() if is_prompt_name(path.name))
        except FileNotFoundError:
            return []
        prompts: list[ListedPrompt] = []
        for name in names:
            # One that cannot be read is told to who asks for it by name.
            with contextlib.suppress(PromptNotFound, OSError):
                prompts.append(_shown(name, _read(self._folder / name)))
        return prompts

    def _create(self, path: Path, content: str) -> None:
        self._make_folder()
        try:
            files.create(path, _encoded(content), self._folder)
        except FileExistsError:
            raise PromptExists(
                f"There is a system prompt file {path.name!r} already, or something else that has its name. Choose "
                f"another, or replace it with PUT /api/v1/system-prompts/{path.name}.",
                {"filename": path.name},
            ) from None

    def _replace(self, path: Path, content: str) -> None:
        _read(path)  # what is no prompt is not ours to replace
        files.replace(path, _encoded(content), self._folder)

    def _make_folder(self) -> None:
        if self._folder.is_dir():
            return
        try:
            files.make_folder(self._folder)
        except FileExistsError:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from None
        files.sync_folder(self._folder.parent)


def _delete(path: Path) -> None:
    _read(path)  # what is no prompt is not ours to delete
    files.remove(path)


def _read(path: Path) -> str:
    """The prompt's text. Raises PromptNotFound, OSError."""
    try:
        return _text(path)
    except FileNotFoundError:
        raise _not_found(path.name) from None
    except _Unusable as unusable:
        raise _not_found(path.name, str(unusable)) from None


def _text(path: Path) -> str:
    _check_kind(path.lstat())  # before it is opened, which some things take for more than it is
    try:
        descriptor = os.open(path, _READ)
    except PermissionError:
        raise _Unusable("this server may not read it") from None
    with os.fdopen(descriptor, "rb") as file:
        _check_kind(os.fstat(descriptor))
        data = file.read(_MOST_BYTES + 1)
    try:
        text = data.removeprefix(codecs.BOM_UTF8).decode() if len(data) <= _MOST_BYTES else ""
    except UnicodeDecodeError:
        raise _Unusable("it is not UTF-8") from None
    if not 1 <= len(text) <= LONGEST_PROMPT:
        raise _Unusable(f"it is not of 1 to {LONGEST_PROMPT} characters")
    return text


def _check_kind(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise _Unusable("it is a link" if stat.S_ISLNK(status.st_mode) else "it is no file")


def _encoded(content: str) -> bytes:
    # One mark is taken off when a file is read: a text that begins with one gets another.
    return (codecs.BOM_UTF8 if content.startswith("\ufeff") else b"") + content.encode()


def _shown(filename: str, content: str) -> ListedPrompt:
    words = content.split()
    return ListedPrompt(filename, " ".join(words)[:PREVIEW_CHARACTERS], len(words))


def _not_found(filename: str, why: str = "") -> PromptNotFound:
    shown = filename[:255]
    told = (
        f"{shown!r} cannot be used as a system prompt: {why}." if why else f"There is no system prompt file {shown!r}."
    )
    return PromptNotFound(f"{told} GET /api/v1/system-prompts lists those there are.", {"filename": shown})
