"""A store over a folder, or a process at work in it, for as long as a test needs it."""

import asyncio
import functools
import json
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, ParamSpec

import msgspec

from mochi_server.domain.session import Session
from mochi_server.store.index import Listed, Summary
from mochi_server.store.sessions import SessionStore

LIMIT = 20.0
"""Seconds that anything here may take."""

ROOT = Path(__file__).parents[2]
P = ParamSpec("P")


def limited(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """The test on an event loop of its own, ended after LIMIT."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        asyncio.run(asyncio.wait_for(test(*args, **kwargs), LIMIT))

    return run


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[SessionStore]:
    """The folder's store, taken and read."""
    store = SessionStore(folder)
    store.take()
    try:
        await store.open()
        yield store
    finally:
        await store.close()


async def listed(store: SessionStore) -> list[str]:
    """The ids of all sessions, in the list's order."""
    return [s.session_id for s in (await store.page(1000)).sessions]


async def damaged(store: SessionStore) -> dict[str, str]:
    """The reasons of the files that cannot be read, by id."""
    return {d.session_id: d.reason for d in (await store.page(1)).damaged}


async def saying(store: SessionStore, text: str) -> list[str]:
    """The ids of the sessions that a search finds, in the list's order."""
    page = await store.page(1000, saying=text)
    assert page.total == len(page.sessions)
    return [s.session_id for s in page.sessions]


def summary(one: Listed) -> Summary:
    """What a list shows of a session."""
    shown = msgspec.json.decode(one.line, type=Summary)
    assert (shown.session_id, shown.updated_at, shown.model) == (one.session_id, one.updated_at, one.model)
    return shown


async def summaries(store: SessionStore) -> list[Summary]:
    """What the list shows."""
    return [summary(one) for one in (await store.page(1000)).sessions]


async def within(seconds: float, holds: Callable[[], Coroutine[Any, Any, bool]]) -> None:
    """Wait until it holds, asking again and again for so long at most."""
    async with asyncio.timeout(seconds):
        while not await holds():
            await asyncio.sleep(0.01)


def file_of(folder: Path, session: Session) -> Path:
    return folder / f"{session.metadata.session_id}.json"


def by_hand(path: Path, change: Callable[[Any], object]) -> None:
    """Change a file as an editor does: read, change, write in place."""
    content = json.loads(path.read_text("utf-8"))
    change(content)
    path.write_text(json.dumps(content, indent=4), "utf-8")


def everything_in(folder: Path) -> dict[str, bytes | None]:
    """The content of every file below the folder, by its path; None for a folder or a link.

    Left out is the index file: a cache, which follows what is read and saved a second later.
    """
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() and not path.is_symlink() else None
        for path in folder.rglob("*")
        if not path.name.startswith("index.sqlite")
    }


@contextmanager
def child(task: str, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process at one of the tasks of `child.py`, under way; killed in the end, and after LIMIT whatever it does."""
    command = [sys.executable, "-m", "tests.store.child", task, str(folder)]
    # Unbuffered: what is read beyond the first line would be lost to `communicate`.
    process = subprocess.Popen(command, cwd=ROOT, bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    timer = threading.Timer(LIMIT, process.kill)
    timer.start()
    with process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            yield process
        finally:
            process.kill()
            timer.cancel()


@contextmanager
def syncs(look: Callable[[int], object]) -> Iterator[list[object]]:
    """What `look` sees of each descriptor at the moment it is synced, in order.

    The interpreter's own profile hook tells of calls but not of their arguments: the descriptor is the one file that
    is open then and was not before.
    """
    before, seen = descriptors(), list[object]()

    def hook(_frame: FrameType, event: str, called: object) -> None:
        if event == "c_call" and called in (os.fsync, os.fdatasync):
            (descriptor,) = descriptors() - before
            seen.append(look(descriptor))

    old = sys.getprofile()
    sys.setprofile(hook)
    try:
        yield seen
    finally:
        sys.setprofile(old)


def descriptors() -> set[int]:
    found = set()
    for number in range(256):
        try:
            os.fstat(number)
        except OSError:
            continue
        found.add(number)
    return found
