"""Changes by hand while the store is open: seen by lists, and never saved over."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mochi_server.domain.session import Session
from mochi_server.domain.session_file import encode
from mochi_server.errors import SessionDamaged, SessionNotFound, StorageUnavailable
from mochi_server.store.sessions import SessionStore
from tests.domain.talk import SESSION_ID, at, conversation, ids, user
from tests.store.by_files import assert_answers, list_of, shown
from tests.store.opened import by_hand, damaged, everything_in, file_of, limited, listed, opened, summaries, within

OTHER = "ffffffffff"
SEEN_WITHIN = 2.0
"""Seconds in which a list sees a change by hand."""


def write(path: Path, session: Session) -> None:
    path.write_bytes(encode(session))


def edit(path: Path) -> None:
    by_hand(path, lambda file: file["metadata"].update(title="by hand"))


def edit_a_letter(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'"content": "cat"', b'"content": "dog"'))


def replace(path: Path) -> None:
    """As an editor that writes beside and renames."""
    write(path.with_name("draft"), conversation("replaced", session_id=path.stem))
    path.with_name("draft").replace(path)


def replace_by_an_older_one(path: Path) -> None:
    replace(path)
    os.utime(path, (0, 0))


def remove(path: Path) -> None:
    path.unlink()


def move(path: Path) -> None:
    """To another id, as its content says too."""
    write(path, conversation("moved", session_id="eeeeeeeeee"))
    path.rename(path.with_name("eeeeeeeeee.json"))


def add(path: Path) -> None:
    write(path.with_name("dddddddddd.json"), conversation("added", session_id="dddddddddd"))


CHANGES = [edit, edit_a_letter, replace, replace_by_an_older_one, remove, move, add]


def named(number: int) -> str:
    return f"{number:010x}"


CAME_AND_WENT = {named(CHANGES.index(remove)), named(CHANGES.index(move)), "eeeeeeeeee", "dddddddddd"}


@pytest.mark.parametrize("restarted", [False, True], ids=["saved by this process", "known from the index"])
@limited
async def test_a_list_sees_changes_by_hand_in_two_seconds(restarted: bool, tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        files = [
            file_of(tmp_path, await store.create(conversation("q", "cat", session_id=named(number))))
            for number in range(len(CHANGES) + 1)
        ]
        if not restarted:
            await assert_seen(store, files)
    if restarted:
        async with opened(tmp_path) as store:
            await assert_seen(store, files)
    async with opened(tmp_path) as store:
        assert await shown(store) == list_of(tmp_path)


async def assert_seen(store: SessionStore, files: list[Path]) -> None:
    """Each change by hand, made to a file of its own, is in the list two seconds later at most."""
    folder = files[0].parent
    before = list_of(folder)
    assert await shown(store) == before
    for path, change in zip(files, CHANGES, strict=False):
        change(path)
    assert {line[0] for line in before} ^ {line[0] for line in list_of(folder)} == CAME_AND_WENT

    async def is_seen() -> bool:
        return await shown(store) == list_of(folder)

    await within(SEEN_WITHIN, is_seen)


def cut_short(path: Path) -> None:
    path.write_bytes(encode(conversation("q"))[:-30])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def put_a_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("elsewhere")


def put_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def put_another(path: Path) -> None:
    write(path, conversation("q", session_id=OTHER))


DAMAGE = {
    cut_short: "it is not JSON, or cut short",
    empty: "the file is empty",
    put_a_link: "it is not a plain file",
    put_a_folder: "it is not a plain file",
    put_another: "its session_id is not its name",
}


@limited
async def test_a_list_sees_damage_in_two_seconds_and_other_damage_and_its_mending(tmp_path: Path) -> None:
    reasons = {named(number): reason for number, reason in enumerate(DAMAGE.values())}
    names = list(reasons)
    files = [tmp_path / f"{name}.json" for name in names]
    state: tuple[list[str], dict[str, str]] = ([], {})

    async with opened(tmp_path) as store:

        async def is_seen() -> bool:
            return (await listed(store), await damaged(store)) == state

        for name in names:
            await store.create(conversation("q", session_id=name))
        assert sorted(await listed(store)) == names
        for path, damage in zip(files, DAMAGE, strict=True):
            damage(path)
        state = ([], reasons)
        await within(SEEN_WITHIN, is_seen)
        for path in files:
            (path.rmdir if path.is_dir() and not path.is_symlink() else path.unlink)()
            path.write_bytes(b"[]")
        state = ([], dict.fromkeys(names, "Expected `object`, got `array`"))
        await within(SEEN_WITHIN, is_seen)
        for path in files[1:]:
            write(path, conversation("mended", session_id=path.stem))
        files[0].unlink()
        state = (names[:0:-1], {})
        await within(SEEN_WITHIN, is_seen)
        assert [one.preview for one in await summaries(store)] == ["mended"] * (len(names) - 1)


# Changed while it is saved


def changing_meanwhile(path: Path, *by_others: Callable[[Path], None]) -> Callable[[Session], Session]:
    """A change of ours; each time that it is made, others change the file by hand before it is saved."""
    left = list(by_others)

    def change(session: Session) -> Session:
        if left:
            left.pop(0)(path)
        return session.append(user("ours"), at(9))

    return change


def say_theirs(path: Path) -> None:
    write(path, conversation("q", "theirs", session_id=path.stem))


@pytest.mark.parametrize(
    ("by_others", "said", "title"),
    [
        ([edit], ["q", "cat", "ours"], "by hand"),
        ([edit_a_letter], ["q", "dog", "ours"], None),
        ([say_theirs], ["q", "theirs", "ours"], None),
        ([replace], ["replaced", "ours"], None),
        ([replace_by_an_older_one], ["replaced", "ours"], None),
        ([say_theirs, edit, replace, edit], ["replaced", "ours"], "by hand"),
    ],
)
@limited
async def test_a_file_changed_while_it_is_saved_has_both_changes(
    by_others: list[Callable[[Path], None]], said: list[str], title: str | None, tmp_path: Path
) -> None:
    async with opened(tmp_path) as store:
        path = file_of(tmp_path, await store.create(conversation("q", "cat")))
        saved = await store.update(SESSION_ID, changing_meanwhile(path, *by_others))
        assert [m.content for m in saved.path] == said
        assert saved.metadata.title == title
        assert path.read_bytes() == encode(saved)
        assert await store.load(SESSION_ID) == saved
        await assert_answers(store, tmp_path, "ours", "cat", "dog", "by hand", "theirs")


@limited
async def test_a_file_removed_while_it_is_saved_stays_removed(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        path = file_of(tmp_path, await store.create(conversation("q")))
        with pytest.raises(SessionNotFound):
            await store.update(SESSION_ID, changing_meanwhile(path, remove))
        assert await listed(store) == []
        assert not path.exists()


@pytest.mark.parametrize("damage", [cut_short, empty, put_a_link, put_a_folder])
@limited
async def test_a_file_damaged_while_it_is_saved_is_left_as_it_is(
    damage: Callable[[Path], None], tmp_path: Path
) -> None:
    async with opened(tmp_path) as store:
        path = file_of(tmp_path, await store.create(conversation("q")))
        there: list[dict[str, bytes | None]] = []

        def change(session: Session) -> Session:
            assert there == [], "it was tried again"
            damage(path)
            there.append(everything_in(tmp_path))
            return session.append(user("ours"), at(9))

        with pytest.raises(SessionDamaged):
            await store.update(SESSION_ID, change)
        # The file that was about to take its place is gone, too.
        assert [everything_in(tmp_path)] == there
        assert (await listed(store), list(await damaged(store))) == ([], [SESSION_ID])


@limited
async def test_a_file_that_is_changed_without_end_is_not_saved_over(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        path = file_of(tmp_path, await store.create(conversation("q")))
        number = iter(range(1_000_000))

        def edit_again(path: Path) -> None:
            by_hand(path, lambda file: file["metadata"].update(title=f"edit {next(number)}"))

        def change(session: Session) -> Session:
            edit_again(path)
            return session.append(user("ours"), at(9))

        with pytest.raises(StorageUnavailable) as failure:
            await store.update(SESSION_ID, change)
        assert failure.value.details == {"reason": "EBUSY"}
        last = await store.load(SESSION_ID)
        assert ids(last.path) == ["q"]
        assert last.metadata.title == f"edit {next(number) - 1}"


@limited
async def test_a_session_that_was_not_changed_is_not_saved_over_a_change_by_hand(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        path = file_of(tmp_path, await store.create(conversation("q")))

        def change(session: Session) -> Session:
            edit(path)
            return session

        await store.update(SESSION_ID, change)
        assert (await store.load(SESSION_ID)).metadata.title == "by hand"
