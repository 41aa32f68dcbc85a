"""The images of all sessions, each once, under the SHA-256 of its bytes. What touches the disk blocks.

An image is durable before a session's file refers to it. In between it is held, so that who looks for images that
nobody refers to leaves it alone, whatever that one has seen.
"""

import contextlib
import hashlib
import os
import re
import stat
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec

from mochi_server.domain import images
from mochi_server.domain.images import Image
from mochi_server.store import files

_NAME = re.compile(r"[0-9a-f]{64}\Z")
_REFERENCES = re.compile(rb"sha256:([0-9a-f]{64})")
_HEAD_BYTES = 16


class OpenImage(msgspec.Struct, frozen=True):
    """An image to be read, its size in bytes and its media type."""

    file: BinaryIO
    size: int
    media_type: str


class Images:
    """The folder of the images. All methods raise OSError."""

    def __init__(self, folder: Path, scratch: Path) -> None:
        self._folder = folder
        self._scratch = scratch
        # Guards what follows, together with the removal of a file.
        self._lock = threading.Lock()
        self._held: Counter[str] = Counter()
        self._spared: set[str] | None = None
        """While unreferenced images are looked for: what was held at any time since that began."""

    def has(self, reference: str) -> bool:
        """Whether the image is there. A text that is no reference is of none."""
        digest = images.digest_of(reference)
        return digest is not None and self._path(digest).is_file()

    def read(self, reference: str) -> bytes | None:
        """The image's bytes; None where it is not there, or is not what its name says."""
        digest = images.digest_of(reference)
        if digest is None:
            return None
        try:
            data = self._path(digest).read_bytes()
        except FileNotFoundError:
            return None
        return data if hashlib.sha256(data).hexdigest() == digest else None

    def open(self, digest: str) -> OpenImage | None:
        """The image with this digest, open, for the caller to close; None where there is none."""
        if not (_NAME.match(digest) and self._path(digest).is_file()):
            return None
        try:
            file = self._path(digest).open("rb")
        except FileNotFoundError:
            return None
        try:
            media_type = images.media_type(file.read(_HEAD_BYTES))
            file.seek(0)
            if media_type is not None:
                return OpenImage(file, os.fstat(file.fileno()).st_size, media_type)
        except OSError:
            file.close()
            raise
        file.close()
        return None

    def digests(self) -> set[str]:
        """The images that are there."""
        try:
            with os.scandir(self._folder) as entries:
                return {entry.name for entry in entries if _NAME.match(entry.name)}
        except FileNotFoundError:
            return set()

    def hold(self, digests: Iterable[str]) -> None:
        """Let nobody remove these, from before they are looked for until what refers to them is saved, or given up."""
        with self._lock:
            self._held.update(digests)
            if self._spared is not None:
                self._spared.update(digests)

    def let_go(self, digests: Iterable[str]) -> None:
        """Hold these no longer."""
        with self._lock:
            self._held.subtract(digests)
            self._held = +self._held

    def put(self, found: Iterable[Image]) -> None:
        """Make sure that these are there, durably. They must be held."""
        if not self._folder.is_dir():
            files.make_folder(self._folder)
            files.sync_folder(self._folder.parent)
        try:
            for image in found:
                path = self._path(image.digest)
                if not _holds(path, image.data):
                    files.replace(path, image.data, self._scratch)
            # One that was there may have been put there this very moment, and not be durable yet.
            files.sync_folder(self._folder)
        except files.NotDurable as error:
            # Nothing refers to it yet, so it was not done.
            raise OSError(error.errno, error.strerror) from None

    @contextlib.contextmanager
    def looked_over(self) -> Iterator[None]:
        """Note what is held, from now on to the end: by one at a time, around its look and its removals."""
        with self._lock:
            self._spared = set(self._held)
        try:
            yield
        finally:
            with self._lock:
                self._spared = None

    def remove_unreferenced(self, digest: str) -> bool:
        """Remove an image to which `looked_over` has found no reference; whether it is gone.

        It stays where a request has held it meanwhile: that may have saved a reference since.
        """
        with self._lock:
            if self._spared is None or digest in self._spared:
                return False
            self._path(digest).unlink(missing_ok=True)
        return True

    def _path(self, digest: str) -> Path:
        return self._folder / digest


def references(data: bytes) -> frozenset[str]:
    """The digests of all images that a file's bytes refer to, wherever in it they do."""
    if images.PREFIX.encode() not in data:
        return frozenset()
    return frozenset(digest.decode() for digest in _REFERENCES.findall(data))


def _holds(path: Path, data: bytes) -> bool:
    try:
        status = path.stat()
        return stat.S_ISREG(status.st_mode) and status.st_size == len(data) and path.read_bytes() == data
    except FileNotFoundError:
        return False
