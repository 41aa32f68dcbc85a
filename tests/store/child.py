"""What a test has done by a process of its own: `python -m tests.store.child <what> <folder>`.

Each says `ready` on a line of its own once it is under way.
"""

import asyncio
import resource
import sys
from collections.abc import Callable
from pathlib import Path

from mochi_server.domain.session_file import encode
from mochi_server.errors import StorageFull
from mochi_server.store import files
from mochi_server.store.sessions import SessionStore
from tests.domain.talk import ids, new_session, user

SIZE = 1_000_000
STATES = 7


def states() -> list[bytes]:
    """The files of a session at different moments, each large enough to be caught half written."""
    return [encode(new_session().append(user("a", str(n) * SIZE), "")) for n in range(STATES)]


def say(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def hold_the_lock(folder: Path) -> None:
    """Hold the folder's lock until standard input ends."""
    lock = files.FolderLock(folder / "lock")
    say("ready\n")
    sys.stdin.read()
    lock.release()


def save_over_and_over(folder: Path) -> None:
    """Save one state after the other, without end, and say a dot for each that is saved."""
    moments = states()
    say("ready\n")
    while True:
        for state in moments:
            files.replace(folder / "session.json", state, folder / "scratch")
            say(".")


def meet_a_full_disk(folder: Path) -> None:
    """Save, fail on a disk that takes no file as large, find the old state whole, and save again with more room."""
    say("ready\n")
    asyncio.run(_meet_a_full_disk(folder))


async def _meet_a_full_disk(folder: Path) -> None:
    store = SessionStore(folder)
    store.take()
    await store.open()
    old = await store.create(new_session().append(user("q"), ""))
    new = old.append(user("long", "x" * 100_000), "")
    other = new_session("ffffffffff").append(user("long", "x" * 100_000), "")
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, most))
    for write, session in ((store.save, new), (store.create, other)):
        try:
            await write(session)
        except StorageFull as full:
            say(f"{full.code}\n")
    assert await store.load("0123456789") is old, "what is in memory is not the old state"
    assert (folder / "0123456789.json").read_bytes() == encode(old), "what is on disk is not the old state"
    assert [s.session_id for s in store.page(9).sessions] == ["0123456789"], "the list changed"
    assert [p.name for p in (folder / ".mochi").iterdir()] == ["lock"], "something half written was left"
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    saved = await store.save(new)
    assert ids((await store.load("0123456789")).path) == ids(saved.path) == ["q", "long"]
    store.close()


if __name__ == "__main__":
    TASKS: dict[str, Callable[[Path], None]] = {
        task.__name__: task for task in (hold_the_lock, save_over_and_over, meet_a_full_disk)
    }
    TASKS[sys.argv[1]](Path(sys.argv[2]))
