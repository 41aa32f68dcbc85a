"""The sessions folder as sessions: what is in memory follows what is on disk, however the disk came to change."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mochi_server.domain.elements import KEPT_FROM
from mochi_server.domain.session import Session
from mochi_server.domain.session_file import encode
from mochi_server.errors import SessionDamaged, SessionExists, SessionNotFound, StorageUnavailable
from mochi_server.store.files import FolderInUse
from mochi_server.store.listing import ID
from mochi_server.store.sessions import CACHE_BYTES, SessionStore, new_id
from tests.domain.talk import SESSION_ID, at, conversation, ids, new_session, reply, user
from tests.store.opened import (
    LIMIT,
    by_hand,
    child,
    damaged,
    everything_in,
    file_of,
    limited,
    listed,
    opened,
    summaries,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the store will be; it is not there yet."""
    return tmp_path / "sessions"


@pytest.fixture
def made(folder: Path) -> Path:
    """Where the store will be, there already."""
    folder.mkdir()
    return folder


@limited
async def test_a_saved_session_is_loaded_again_by_this_process_and_by_the_next(folder: Path) -> None:
    async with opened(folder) as store:
        created = await store.create(conversation("q"))
        saved = await store.update(SESSION_ID, lambda s: s.answered("q", reply("a"), at(5)))
        assert await store.load(SESSION_ID) == saved
        assert saved.metadata.revision != created.metadata.revision
    assert file_of(folder, saved).read_bytes() == encode(saved)
    async with opened(folder) as store:
        assert await store.load(SESSION_ID) == saved
        assert await listed(store) == [SESSION_ID]


@limited
async def test_loading_and_listing_write_nothing(folder: Path) -> None:
    async with opened(folder) as store:
        await store.create(conversation("q"))
    path = folder / f"{SESSION_ID}.json"
    by_hand(path, lambda file: file["metadata"].update(color="green"))
    before = path.stat()
    async with opened(folder) as store:
        await store.load(SESSION_ID)
        await listed(store)
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert path.stat().st_ino == before.st_ino


@limited
async def test_a_change_by_hand_is_seen_by_the_next_load_and_listed_from_then_on(folder: Path) -> None:
    async with opened(folder) as store:
        saved = await store.create(conversation("q", "a"))
        by_hand(file_of(folder, saved), lambda file: file["messages"][1].update(content="what I wish it had said"))
        loaded = await store.load(SESSION_ID)
        assert loaded.path[1].content == "what I wish it had said"
        assert loaded.metadata.revision != saved.metadata.revision
        assert [s.preview for s in await summaries(store)] == ["what I wish it had said"]


@limited
async def test_a_change_by_hand_of_no_other_size_is_seen_too(folder: Path) -> None:
    async with opened(folder) as store:
        saved = await store.create(conversation("q", "cat"))
        path = file_of(folder, saved)
        path.write_bytes(path.read_bytes().replace(b'"content": "cat"', b'"content": "dog"'))
        # A second later: the clock of a file system ticks too slowly for a test.
        os.utime(path, ns=(0, path.stat().st_mtime_ns + 1_000_000_000))
        assert (await store.load(SESSION_ID)).path[1].content == "dog"


@limited
async def test_an_update_builds_on_a_change_by_hand(folder: Path) -> None:
    async with opened(folder) as store:
        saved = await store.create(conversation("q", "a"))
        by_hand(file_of(folder, saved), lambda file: file["metadata"].update(title="by hand"))
        updated = await store.update(SESSION_ID, lambda session: session.append(user("q2"), at(9)))
        assert updated.metadata.title == "by hand"
        assert ids(updated.path) == ["q", "a", "q2"]


@limited
async def test_updates_at_the_same_time_all_count(folder: Path) -> None:
    def saying(name: str) -> Callable[[Session], Session]:
        return lambda session: session.append(user(name), at(1))

    names = [str(number) for number in range(20)]
    async with opened(folder) as store:
        await store.create(new_session())
        await asyncio.gather(*(store.update(SESSION_ID, saying(name)) for name in names))
        assert sorted(ids((await store.load(SESSION_ID)).path)) == sorted(names)


@limited
async def test_a_file_removed_by_hand_is_not_found_and_leaves_the_list(folder: Path) -> None:
    async with opened(folder) as store:
        file_of(folder, await store.create(conversation("q"))).unlink()
        with pytest.raises(SessionNotFound):
            await store.load(SESSION_ID)
        assert await listed(store) == []


@limited
async def test_a_file_put_there_by_hand_is_found(folder: Path) -> None:
    async with opened(folder) as store:
        (folder / f"{SESSION_ID}.json").write_bytes(encode(conversation("q")))
        assert ids((await store.load(SESSION_ID)).path) == ["q"]
        assert await listed(store) == [SESSION_ID]


@limited
async def test_a_deleted_session_is_gone_from_disk_and_list_and_its_id_is_free(folder: Path) -> None:
    async with opened(folder) as store:
        saved = await store.create(conversation("q"))
        await store.delete(SESSION_ID)
        assert not file_of(folder, saved).exists()
        assert await listed(store) == []
        for again in (store.load, store.delete):
            with pytest.raises(SessionNotFound):
                await again(SESSION_ID)
        await store.create(conversation("other"))


@limited
async def test_a_taken_id_is_refused_and_the_session_there_stays(folder: Path) -> None:
    async with opened(folder) as store:
        saved = await store.create(conversation("q"))
        with pytest.raises(SessionExists):
            await store.create(conversation("other"))
        assert await store.load(SESSION_ID) == saved
        assert file_of(folder, saved).read_bytes() == encode(saved)


# What is in the way


def cut_short(path: Path) -> None:
    path.write_bytes(encode(conversation("q"))[:-30])


def of_a_later_format(path: Path) -> None:
    path.write_bytes(encode(conversation("q")).replace(b'"2.0"', b'"9.0"'))


def of_another_id(path: Path) -> None:
    path.write_bytes(encode(conversation("q", session_id="ffffffffff")))


def a_link(path: Path) -> None:
    target = path.with_name("elsewhere")
    target.write_bytes(encode(conversation("q")))
    path.symlink_to(target)


def a_broken_link(path: Path) -> None:
    path.symlink_to("nowhere")


def a_folder(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize(
    ("put", "reason"),
    [
        (cut_short, "it is not JSON, or cut short"),
        (
            of_a_later_format,
            "its format_version is '9.0': a newer mochi-server wrote it, and only one as new can read it",
        ),
        (of_another_id, "its session_id is not its name"),
        (a_link, "it is not a plain file"),
        (a_broken_link, "it is not a plain file"),
        (a_folder, "it is not a plain file"),
    ],
)
@pytest.mark.parametrize("at_start", [True, False], ids=["found at the start", "found by a load"])
@limited
async def test_a_damaged_file_is_told_and_listed_and_never_touched(
    put: Callable[[Path], None], reason: str, at_start: bool, made: Path
) -> None:
    if at_start:
        put(made / f"{SESSION_ID}.json")
    async with opened(made) as store:
        if not at_start:
            put(made / f"{SESSION_ID}.json")
        before = everything_in(made)
        for access in (store.load, store.delete):
            with pytest.raises(SessionDamaged) as refusal:
                await access(SESSION_ID)
            assert refusal.value.details == {"session_id": SESSION_ID, "reason": reason}
        with pytest.raises(SessionExists):
            await store.create(conversation("new"))
        with pytest.raises(SessionDamaged):
            await store.update(SESSION_ID, lambda session: session)
        assert await damaged(store) == {SESSION_ID: reason}
        assert await listed(store) == []
        assert everything_in(made) == before


@limited
async def test_a_session_damaged_by_hand_is_listed_as_damaged_until_it_is_mended(folder: Path) -> None:
    async with opened(folder) as store:
        saved = await store.create(conversation("q"))
        path = file_of(folder, saved)
        path.write_bytes(b"{")
        with pytest.raises(SessionDamaged):
            await store.load(SESSION_ID)
        assert (await listed(store), list(await damaged(store))) == ([], [SESSION_ID])
        path.write_bytes(encode(saved))
        assert await store.load(SESSION_ID) == saved
        assert (await listed(store), list(await damaged(store))) == ([SESSION_ID], [])


BAD_IDS = [
    *("", "012345678", "01234567890", "ABCDEF0123", "012345678g", "0123456789\n", "\x00123456789", "\uff10123456789"),
    *("../escaped", "../sessions/0123456789", "./01234567", ".mochi/0123456789", "0123456789.json", "inner/0123"),
]


@pytest.mark.parametrize("bad", BAD_IDS, ids=repr)
@limited
async def test_an_id_that_is_none_never_reaches_the_file_system(bad: str, folder: Path, tmp_path: Path) -> None:
    async with opened(folder) as store:
        await store.create(conversation("q"))
        (folder / "inner").mkdir()
        if "\x00" not in bad:
            # Were a path made of the id, this is what it would find.
            (folder / f"{bad}.json").write_bytes(encode(conversation("secret", session_id=Path(bad).name)))
        before = everything_in(tmp_path)
        for access in (store.load, store.delete):
            with pytest.raises(SessionNotFound):
                await access(bad)
        with pytest.raises(SessionNotFound):
            await store.create(conversation("mine", session_id=bad))
        with pytest.raises(SessionNotFound):
            await store.update(bad, lambda session: session.append(user("mine"), at(9)))
        assert everything_in(tmp_path) == before
        assert await listed(store) == [SESSION_ID]


def test_a_new_id_is_an_id_and_another_each_time() -> None:
    made = {new_id() for _ in range(1000)}
    assert len(made) == 1000
    assert all(ID.match(name) for name in made)


@limited
async def test_other_files_in_the_folder_are_left_alone_and_not_listed(made: Path) -> None:
    for name in ("notes.txt", f"{SESSION_ID}.json.bak", f"{SESSION_ID}.txt", "ABCDEF0123.json", ".hidden.json"):
        (made / name).write_bytes(encode(conversation("q")))
    before = everything_in(made)
    async with opened(made) as store:
        assert await listed(store) == []
        assert await damaged(store) == {}
    assert {name: data for name, data in everything_in(made).items() if not name.startswith(".mochi")} == before


@limited
async def test_what_a_killed_process_left_half_written_is_removed_at_the_start(folder: Path) -> None:
    async with opened(folder) as store:
        await store.create(conversation("q"))
    (folder / ".mochi" / "0123456789abcdef.tmp").write_bytes(b"half")
    async with opened(folder):
        assert sorted(everything_in(folder)) == [".mochi", ".mochi/lock", f"{SESSION_ID}.json"]


@limited
async def test_two_stores_cannot_have_one_folder(folder: Path) -> None:
    async with opened(folder):
        with pytest.raises(FolderInUse):
            SessionStore(folder).take()
    async with opened(folder):
        pass


# When saving fails


def test_a_save_onto_a_full_disk_fails_and_keeps_the_old_state_and_the_next_one_works(tmp_path: Path) -> None:
    with child("meet_a_full_disk", tmp_path) as process:
        told, _ = process.communicate(timeout=LIMIT)
    assert (told.split(), process.returncode) == ([b"storage_full", b"storage_full"], 0)


@limited
async def test_a_folder_that_cannot_be_written_fails_the_save_and_keeps_the_old_state(folder: Path) -> None:
    async with opened(folder) as store:
        old = await store.create(conversation("q"))
        # Permissions do not bind the user that tests often run as: the scratch folder turns into a file instead.
        (folder / ".mochi").rename(folder / "away")
        (folder / ".mochi").write_bytes(b"")
        with pytest.raises(StorageUnavailable) as failure:
            await store.update(SESSION_ID, lambda s: s.append(user("q2"), at(5)))
        assert failure.value.details == {"reason": "ENOTDIR"}
        with pytest.raises(StorageUnavailable):
            await store.create(conversation("q", session_id="ffffffffff"))
        assert await store.load(SESSION_ID) == old
        assert file_of(folder, old).read_bytes() == encode(old)
        assert await listed(store) == [SESSION_ID]
        (folder / ".mochi").unlink()
        (folder / "away").rename(folder / ".mochi")
        assert ids((await store.update(SESSION_ID, lambda s: s.append(user("q2"), at(5)))).path) == ["q", "q2"]


@limited
async def test_a_change_that_fails_changes_nothing(folder: Path) -> None:
    class Bug(Exception):
        pass

    def change(_session: Session) -> Session:
        raise Bug

    async with opened(folder) as store:
        old = await store.create(conversation("q"))
        with pytest.raises(Bug):
            await store.update(SESSION_ID, change)
        assert await store.load(SESSION_ID) == old
        assert ids((await store.update(SESSION_ID, lambda s: s.append(user("q2"), at(5)))).path) == ["q", "q2"]


# Memory


@limited
async def test_what_is_held_decoded_stays_within_its_limit_and_the_least_used_goes_first(folder: Path) -> None:
    quarter = "x" * (CACHE_BYTES // 4 - 10_000)

    async with opened(folder) as store:
        saved = []
        for number in range(4):
            session = new_session(f"{number:010x}", second=number).append(user("q", quarter), at(number))
            saved.append(await store.create(session))
        # What is held is the very session that was saved, what is not is read anew.
        assert await store.load("0" * 10) is saved[0]
        await store.create(new_session("f" * 10).append(user("q", quarter), at(9)))
        held = [await store.load(session.metadata.session_id) is session for session in (saved[0], *saved[2:])]
        assert held == [True, True, True]
        evicted = await store.load(saved[1].metadata.session_id)
        assert evicted is not saved[1]
        assert evicted == saved[1]


@limited
async def test_what_is_kept_of_a_sessions_json_counts_too(folder: Path) -> None:
    quarter = "x" * (CACHE_BYTES // 4 - 100_000)

    async with opened(folder) as store:
        first, second = [
            await store.create(conversation(*map(str, range(KEPT_FROM)), session_id=f"{number:010x}"))
            for number in range(2)
        ]
        # Beside its file its messages are kept twice, compact and indented: that leaves room for the other.
        first = await store.update(first.metadata.session_id, lambda s: s.append(user("q", quarter), at(500)))
        assert await store.load(second.metadata.session_id) is second
        assert await store.load(first.metadata.session_id) is first
        second = await store.update(second.metadata.session_id, lambda s: s.append(user("q", quarter), at(600)))
        assert await store.load(second.metadata.session_id) is second
        assert await store.load(first.metadata.session_id) is not first


@limited
async def test_an_unchanged_session_is_not_read_again(folder: Path) -> None:
    async with opened(folder) as store:
        await store.create(conversation("q"))
    async with opened(folder) as store:
        loaded = await store.load(SESSION_ID)
        assert await store.load(SESSION_ID) is loaded
