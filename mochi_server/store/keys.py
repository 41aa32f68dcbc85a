"""Idempotency keys: which reply a key was used for, so that a repeated request finds it, after a restart, too.

One small file for each scope, a session or the server, rewritten whole. All functions block and raise OSError.
"""

import contextlib
import hashlib
import logging
import threading
import time
from pathlib import Path

import msgspec

from mochi_server.observability.logs import log
from mochi_server.store import files

logger = logging.getLogger(__name__)

KEPT_SECONDS = 24 * 3600
MOST = 1000
"""How many keys are kept for a scope; the oldest go first."""

SERVER = "server"
"""The scope of the forms that make their session themselves."""


class Used(msgspec.Struct, frozen=True, kw_only=True):
    """What a key was used for. Keys and bodies are kept as digests: nobody's words are in them."""

    key: str
    body: str
    session_id: str
    generation_id: str
    question_id: str
    message_id: str
    at: float


_decoder = msgspec.json.Decoder(list[Used])


def digest(data: bytes) -> str:
    """What stands for a key or a body."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


class Keys:
    """The folder of the keys."""

    def __init__(self, folder: Path, scratch: Path) -> None:
        self._folder = folder
        self._scratch = scratch
        self._writing = threading.Lock()

    def find(self, scope: str, key: str) -> Used | None:
        """What the key was last used for, if that is not too long ago."""
        return next((used for used in reversed(self._read(scope)) if used.key == key), None)

    def add(self, scope: str, used: Used) -> None:
        """Keep it, durably."""
        with self._alone(scope):
            kept = [one for one in self._read(scope) if one.key != used.key][-(MOST - 1) :]
            self._write(scope, [*kept, used])

    def remove(self, scope: str, used: Used) -> None:
        """Forget it: its request was refused after all."""
        with self._alone(scope):
            self._write(scope, [one for one in self._read(scope) if one != used])

    def drop(self, session_id: str) -> None:
        """Forget all of a session's. What made the session itself is still known, and that its reply is gone."""
        self._path(session_id).unlink(missing_ok=True)

    def clean(self, sessions: set[str], never_made: set[str]) -> None:
        """Remove the keys of sessions that are no more, and those of which a kill was ahead of their session's file."""
        for path in list(self._folder.glob("*.json")):
            if path.stem != SERVER and path.stem not in sessions:
                path.unlink(missing_ok=True)
        if never_made and (kept := self._read(SERVER)):
            self._write(SERVER, [used for used in kept if used.session_id not in never_made])

    def _alone(self, scope: str) -> contextlib.AbstractContextManager[object]:
        """For reading and writing back. Who writes a session's keys holds the session; the server's nobody holds."""
        return self._writing if scope == SERVER else contextlib.nullcontext()

    def _read(self, scope: str) -> list[Used]:
        try:
            kept = _decoder.decode(self._path(scope).read_bytes())
        except FileNotFoundError:
            return []
        except (msgspec.DecodeError, UnicodeDecodeError):
            # Nothing that anybody said is in it.
            log(logger, logging.WARNING, "a file of idempotency keys is broken, and begun anew", scope=scope)
            return []
        oldest = time.time() - KEPT_SECONDS
        return [used for used in kept if used.at > oldest]

    def _write(self, scope: str, kept: list[Used]) -> None:
        files.make_folder(self._folder)
        files.replace(self._path(scope), msgspec.json.format(msgspec.json.encode(kept)), self._scratch)

    def _path(self, scope: str) -> Path:
        return self._folder / f"{scope}.json"
