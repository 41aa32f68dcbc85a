"""A store over a folder, or a process at work in it, for as long as a test needs it."""

import asyncio
import functools
import json
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, ParamSpec

from mochi_server.domain.session import Session
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
        store.close()


def listed(store: SessionStore) -> list[str]:
    """The ids of all sessions, in the list's order."""
    return [s.session_id for s in store.page(1000).sessions]


def damaged(store: SessionStore) -> dict[str, str]:
    """The reasons of the files that cannot be read, by id."""
    return {d.session_id: d.reason for d in store.page(1).damaged}


def file_of(folder: Path, session: Session) -> Path:
    return folder / f"{session.metadata.session_id}.json"


def by_hand(path: Path, change: Callable[[Any], object]) -> None:
    """Change a file as an editor does: read, change, write in place."""
    content = json.loads(path.read_text("utf-8"))
    change(content)
    path.write_text(json.dumps(content, indent=4), "utf-8")


def everything_in(folder: Path) -> dict[str, bytes | None]:
    """The content of every file below the folder, by its path; None for a folder or a link."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() and not path.is_symlink() else None
        for path in folder.rglob("*")
    }


@contextmanager
def child(task: str, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process at one of the tasks of `child.py`, under way; killed in the end, and after LIMIT whatever it does."""
    command = [sys.executable, "-m", "tests.store.child", task, str(folder)]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
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
