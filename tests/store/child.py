"""What a test has done by a process of its own: `python -m tests.store.child <what> <folder>`.

Each says `ready` on a line of its own once it is under way.
"""

import asyncio
import functools
import itertools
import resource
import secrets
import sys
from collections.abc import Callable
from pathlib import Path

from mochi_server.domain.events import ContentDelta, entry
from mochi_server.domain.session import Session
from mochi_server.domain.session_file import encode
from mochi_server.errors import SessionNotFound, StorageFull
from mochi_server.store import files
from mochi_server.store.journal import Head, Journals
from mochi_server.store.sessions import SessionStore
from tests.domain.talk import ids, new_session, reply, user

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
    for write in (store.update("0123456789", lambda _: new), store.create(other)):
        try:
            await write
        except StorageFull as full:
            say(f"{full.code}\n")
    assert await store.load("0123456789") is old, "what is in memory is not the old state"
    assert (folder / "0123456789.json").read_bytes() == encode(old), "what is on disk is not the old state"
    assert [s.session_id for s in (await store.page(9)).sessions] == ["0123456789"], "the list changed"
    assert (await store.page(9, saying="Q")).total == 1, "the search does not work on a full disk"
    # The index file, a cache, is there as far as there is room for it.
    left = [p.name for p in (folder / ".mochi").iterdir() if not p.name.startswith("index.sqlite")]
    assert left == ["lock"], "something half written was left"
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    saved = await store.update("0123456789", lambda _: new)
    assert ids((await store.load("0123456789")).path) == ids(saved.path) == ["q", "long"]
    assert (await store.page(9, saying="XX")).total == 1, "the search does not work once there is room again"
    await store.close()


def append_to_a_full_disk(folder: Path) -> None:
    """Append to a hundred journals, and say of each that more was refused; cut off a byte later in each."""
    say("ready\n")
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    journals = Journals(folder / "journals", folder / "quarantine")
    for more in range(100):
        journal = journals.open(f"{more:010x}")
        journal.begin(Head(session_id=f"{more:010x}", generation_id="a" * 10, question_id="q", reply=reply("a", "")))
        journal.append([entry(ContentDelta("before, "))])
        resource.setrlimit(resource.RLIMIT_FSIZE, (journal.path.stat().st_size + more, most))
        try:
            journal.append([entry(ContentDelta("this is ")), entry(ContentDelta("not shown"))])
        except OSError:
            say("refused\n")
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        journal.append([entry(ContentDelta("after"))])
        journals.end(journal, settled=True)


def delete_on_a_full_disk(folder: Path) -> None:
    """Delete a session where the index file can take no change; another one stays, is listed and found."""
    say("ready\n")
    asyncio.run(_delete_on_a_full_disk(folder))


async def _delete_on_a_full_disk(folder: Path) -> None:
    store = SessionStore(folder)
    store.take()
    await store.open()
    await store.create(new_session("0123456789").append(user("q", "a secretword"), ""))
    await store.create(new_session("ffffffffff").append(user("q", "another word"), ""))
    assert (await store.page(9, saying="word")).total == 2
    index = folder / ".mochi" / "index.sqlite"
    assert b"secretword" in index.read_bytes(), "the index file does not hold what is to be deleted from it"
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, most))
    await store.delete("0123456789")
    assert not index.exists(), "it could be written: the disk was not full"
    assert not [path for path in folder.rglob("*") if path.is_file() and b"secretword" in path.read_bytes()]
    for looked_for in (None, "word"):
        found = (await store.page(9, saying=looked_for)).sessions
        assert [one.session_id for one in found] == ["ffffffffff"], "the list or the search is wrong"
    # What is said at the end may go to a file, too.
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    await store.close()
    say("deleted\n")


def search_beside_an_index_that_is_full(folder: Path) -> None:
    """Save sessions for which there is room, in an index file for which there is none, and search them."""
    say("ready\n")
    asyncio.run(_search_beside_an_index_that_is_full(folder))


async def _search_beside_an_index_that_is_full(folder: Path) -> None:
    store = SessionStore(folder)
    store.take()
    await store.open()
    for number in range(40):
        said = user("q", f"a word, an old one {number} " + "x" * 1000)
        await store.create(new_session(f"{number:010x}").append(said, ""))
    assert (await store.page(99, saying="old one")).total == 40
    index, (_, most) = folder / ".mochi" / "index.sqlite", resource.getrlimit(resource.RLIMIT_FSIZE)
    before = index.read_bytes()
    assert len(before) > 40_000
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, most))
    await store.update("0000000007", lambda s: s.edit(0, "a word, a new one", "q2", ""))
    await store.create(new_session("ffffffffff").append(user("q", "a word, a new one"), ""))
    for looked_for, count in (("word", 41), ("old one", 39), ("new one", 2), ("old one 3", 11), ("none", 0)):
        found = await store.page(99, saying=looked_for)
        assert (looked_for, found.total) == (looked_for, count)
    assert index.read_bytes() == before, "it could be written: it was not full"
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    assert (await store.page(99, saying="new one")).total == 2
    assert index.read_bytes() != before, "it is not written though there is room again"
    await store.close()
    say("found\n")


def save_and_search_over_and_over(folder: Path) -> None:
    """Change sessions and search them, without end, and say a dot for each."""
    say("ready\n")
    asyncio.run(_save_and_search_over_and_over(folder))


async def _save_and_search_over_and_over(folder: Path) -> None:
    store = SessionStore(folder)
    store.take()
    await store.open()
    for number in itertools.count():
        session_id = f"{number % 4:010x}"
        said = user(f"{secrets.token_hex(5)}", f"word {number} number {number % 3} " + "x" * 3000)
        try:
            await store.update(session_id, functools.partial(Session.append, message=said, now=said.timestamp))
        except SessionNotFound:
            await store.create(new_session(session_id).append(said, ""))
        if number % 9 == 8:
            await store.delete(session_id)
        await store.page(9, saying="number 1")
        say(".")


if __name__ == "__main__":
    TASKS: list[Callable[[Path], None]] = [
        *(hold_the_lock, save_over_and_over, meet_a_full_disk, append_to_a_full_disk),
        *(delete_on_a_full_disk, search_beside_an_index_that_is_full, save_and_search_over_and_over),
    ]
    {task.__name__: task for task in TASKS}[sys.argv[1]](Path(sys.argv[2]))
