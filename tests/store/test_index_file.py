"""The index file is a cache: whatever becomes of it, lists and searches answer what the session files say."""

import os
import random
import re
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import settings as how
from hypothesis import strategies as st

from mochi_server.domain.session import Session
from mochi_server.domain.session_file import encode
from mochi_server.store.index_file import VERSION, IndexFile
from mochi_server.store.sessions import SessionStore
from tests.domain.made_up import SOME, sessions
from tests.domain.talk import at, conversation, user
from tests.store.by_files import assert_answers, sessions_in
from tests.store.harm import (
    HARM,
    LOOKED_FOR,
    PAGE,
    SEEN_AS_BROKEN,
    Harm,
    every_harm,
    fill,
    index_of,
    named,
    put_a_folder,
)
from tests.store.opened import LIMIT, child, damaged, limited, listed, opened, saying, summaries

KILLS = 8


async def change(store: SessionStore) -> None:
    """What makes what the index file holds out of date."""
    await store.update(named(2), lambda s: s.append(user("q3", "second thoughts"), at(50)))
    await store.update(named(3), lambda s: s.truncate(1, at(51)).append(user("q3", "instead"), at(51)))
    await store.create(conversation("added", session_id=named(9)))
    await store.delete(named(5))


@every_harm
@limited
async def test_whatever_became_of_the_index_between_two_starts_the_answers_are_right(
    harm: Harm, tmp_path: Path
) -> None:
    async with opened(tmp_path) as store:
        await fill(store)
    harm(index_of(tmp_path))
    async with opened(tmp_path) as store:
        await assert_answers(store, tmp_path, *LOOKED_FOR)
        await change(store)
        await assert_answers(store, tmp_path, *LOOKED_FOR)
    async with opened(tmp_path) as store:
        await assert_answers(store, tmp_path, *LOOKED_FOR)


@every_harm
@pytest.mark.parametrize("first", ["search", "change"])
@limited
async def test_whatever_becomes_of_the_index_while_it_is_used_the_answers_are_right(
    first: str, harm: Harm, tmp_path: Path
) -> None:
    async with opened(tmp_path) as store:
        await fill(store)
        await assert_answers(store, tmp_path, *LOOKED_FOR)
        harm(index_of(tmp_path))
        if first == "search":
            await assert_answers(store, tmp_path, *LOOKED_FOR)
        await change(store)
        await assert_answers(store, tmp_path, *LOOKED_FOR)
    async with opened(tmp_path) as store:
        await assert_answers(store, tmp_path, *LOOKED_FOR)


def indexed(folder: Path) -> list[str]:
    """The sessions that are in the index file, once the store is closed."""
    file = IndexFile(index_of(folder))
    with closing(file):
        return sorted(one.session_id for one in file.read())


@pytest.mark.parametrize("harm", [harm for harm in HARM if harm is not put_a_folder], ids=lambda harm: harm.__name__)
@limited
async def test_an_index_that_was_broken_is_whole_again_after_the_next_start(harm: Harm, tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await fill(store)
    harm(index_of(tmp_path))
    async with opened(tmp_path) as store:
        await assert_answers(store, tmp_path, *LOOKED_FOR)
        whole = sorted(await listed(store))
    assert indexed(tmp_path) == whole


@pytest.mark.parametrize("harm", SEEN_AS_BROKEN, ids=lambda harm: harm.__name__)
@limited
async def test_an_index_that_is_broken_while_it_is_used_is_made_anew_without_a_restart(
    harm: Harm, tmp_path: Path
) -> None:
    async with opened(tmp_path) as store:
        await fill(store)
        await assert_answers(store, tmp_path, *LOOKED_FOR)
        harm(index_of(tmp_path))
        await store.create(conversation("added", session_id=named(9)))
        await assert_answers(store, tmp_path, *LOOKED_FOR)
        whole = sorted(await listed(store))
    assert indexed(tmp_path) == whole


def test_what_an_index_that_takes_no_more_does_not_hold_is_found_nevertheless(tmp_path: Path) -> None:
    with child("search_beside_an_index_that_is_full", tmp_path) as process:
        told, _ = process.communicate(timeout=LIMIT)
    assert (told.split(), process.returncode) == ([b"found"], 0)


@limited
async def test_an_index_that_could_not_be_used_and_was_then_taken_away_is_made_anew(tmp_path: Path) -> None:
    path = index_of(tmp_path)
    async with opened(tmp_path) as store:
        await fill(store)
        await assert_answers(store, tmp_path, *LOOKED_FOR)
        put_a_folder(path)
        await change(store)
        await assert_answers(store, tmp_path, *LOOKED_FOR)
        path.rename(path.with_name("away"))
        await assert_answers(store, tmp_path, *LOOKED_FOR)
        await store.update(named(0), lambda s: s.with_metadata(at(60), title="second"))
        await assert_answers(store, tmp_path, *LOOKED_FOR)
    assert b"needle 1" in path.read_bytes()


@limited
async def test_an_index_with_any_page_lost_is_no_reason_to_answer_wrongly(tmp_path: Path) -> None:
    # Sessions that share pages: a page amid a long message could not be told from what was said.
    async with opened(tmp_path) as store:
        for number in range(30):
            await store.create(conversation(f"needle {number} " + "x" * 200, session_id=named(number)))
    good = index_of(tmp_path).read_bytes()
    assert len(good) > 8 * PAGE
    for start in range(0, len(good), PAGE):
        index_of(tmp_path).write_bytes(good[:start] + bytes(PAGE) + good[start + PAGE :])
        async with opened(tmp_path) as store:
            await assert_answers(store, tmp_path, "needle", "needle 7", "xx")


@limited
async def test_what_a_killed_process_left_of_a_new_index_does_not_cost_the_old_one(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await fill(store)
        await store.delete(named(3))
        # Taken before the store is closed: as a kill leaves it.
        left = index_of(tmp_path).read_bytes()
    index_of(tmp_path).write_bytes(left)
    index_of(tmp_path).with_suffix(".tmp").write_bytes(b"half of it")
    async with opened(tmp_path) as store:
        assert indexed(tmp_path) == sorted(await listed(store))
        await assert_answers(store, tmp_path, *LOOKED_FOR)
    assert not index_of(tmp_path).with_suffix(".tmp").exists()


@limited
async def test_an_index_of_another_version_is_not_believed(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await fill(store)
    with closing(sqlite3.connect(index_of(tmp_path))) as database:
        database.execute("UPDATE words SET text = CAST('of another kind' AS BLOB)")
        database.execute("UPDATE listed SET line = CAST('{}' AS BLOB)")
        database.execute(f"PRAGMA user_version = {VERSION + 1}")
        database.commit()
    async with opened(tmp_path) as store:
        await assert_answers(store, tmp_path, *LOOKED_FOR)


@limited
async def test_an_index_of_an_earlier_day_is_brought_up_to_date(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await fill(store)
    earlier = index_of(tmp_path).read_bytes()
    async with opened(tmp_path) as store:
        await change(store)
    index_of(tmp_path).write_bytes(earlier)
    async with opened(tmp_path) as store:
        await assert_answers(store, tmp_path, *LOOKED_FOR)
    async with opened(tmp_path) as store:
        await assert_answers(store, tmp_path, *LOOKED_FOR)
    assert b"needle 5" not in index_of(tmp_path).read_bytes()


@limited
async def test_files_changed_between_two_starts_are_read_anew_and_others_are_not(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await fill(store)
    paths = [tmp_path / f"{named(number)}.json" for number in range(5)]
    status = paths[0].stat()
    # Only the index can know what was in this one: its stamp is as it was.
    paths[0].write_bytes(b"#" * status.st_size)
    os.utime(paths[0], ns=(status.st_atime_ns, status.st_mtime_ns))
    paths[1].write_bytes(encode(conversation("changed", session_id=named(1))))
    paths[2].write_bytes(b"{")
    paths[3].unlink()
    (tmp_path / f"{named(9)}.json").write_bytes(encode(conversation("added", session_id=named(9))))
    async with opened(tmp_path) as store:
        shown = {one.session_id: one.preview for one in await summaries(store)}
        assert shown == {
            named(0): "needle 0",
            named(1): "changed",
            named(9): "added",
            **{named(number): f"needle {number}" for number in range(4, 8)},
        }
        assert list(await damaged(store)) == [named(2)]
        looked_for = ("needle 0", "needle 1", "needle 2", "needle 3", "changed", "added")
        found = [await saying(store, text) for text in looked_for]
        assert found == [[named(0)], [], [], [], [named(1)], [named(9)]]


@how(SOME, max_examples=40)
@given(st.lists(sessions(), min_size=1, max_size=3))
@limited
async def test_any_session_is_listed_from_the_index_as_it_was_from_its_file(made_up: list[Session]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with opened(folder) as store:
            for number, session in enumerate(made_up):
                metadata = msgspec.structs.replace(session.metadata, session_id=named(number))
                await store.create(msgspec.structs.replace(session, metadata=metadata))
            page = await store.page(9)
            shown = await summaries(store)
        async with opened(folder) as store:
            assert await store.page(9) == page
            assert await summaries(store) == shown
        index_of(folder).unlink()
        async with opened(folder) as store:
            assert await store.page(9) == page


def test_a_process_killed_at_any_moment_leaves_an_index_that_answers_rightly(tmp_path: Path) -> None:
    chance = random.Random(5)  # noqa: S311 - nothing secret

    @limited
    async def check() -> None:
        async with opened(tmp_path) as store:
            texts = ("word 1", "number 0", "number 2", "xxx", "nobody says this")
            await assert_answers(store, tmp_path, *texts)

    for _ in range(KILLS):
        with child("save_and_search_over_and_over", tmp_path) as process:
            assert process.stdout is not None
            # Reading as many dots as chance has it is how long it may live.
            process.stdout.read(chance.randrange(1, 40))
            process.kill()
            process.wait(LIMIT)
        check()
        there = {text for session in sessions_in(tmp_path) for text in re.findall("word ([0-9]+) ", str(session))}
        kept = {text.decode() for text in re.findall(b"word ([0-9]+) ", index_of(tmp_path).read_bytes())}
        assert kept == there, "it holds what was deleted, or does not hold what is there"
    assert list(tmp_path.glob("*.json"))
