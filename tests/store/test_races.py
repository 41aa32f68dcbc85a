"""What happens to one session at the same time, and to work whose caller has left."""

import asyncio
from pathlib import Path

import pytest

from tests.domain.talk import SESSION_ID, at, conversation, user
from tests.store.opened import limited, listed, opened, summaries

LONG = "x" * 10_000_000
"""So long that reading it takes longer than deleting or saving it."""


@limited
async def test_a_session_deleted_while_it_is_read_is_gone_from_the_list(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await store.create(conversation("q", LONG))
    async with opened(tmp_path) as store:
        deleting = asyncio.create_task(store.delete(SESSION_ID))
        reading = [asyncio.create_task(store.load(SESSION_ID)) for _ in range(6)]
        await deleting
        await asyncio.gather(*reading, return_exceptions=True)
        assert await listed(store) == []


@limited
async def test_a_session_saved_while_it_is_read_is_listed_as_saved(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await store.create(conversation("q", LONG))
    async with opened(tmp_path) as store:
        renaming = store.update(SESSION_ID, lambda s: s.truncate(0, at(9)).with_metadata(at(9), title="new"))
        changing = asyncio.create_task(renaming)
        reading = [asyncio.create_task(store.load(SESSION_ID)) for _ in range(6)]
        await changing
        await asyncio.gather(*reading, return_exceptions=True)
        assert [s.title for s in await summaries(store)] == ["new"]
        assert (await store.load(SESSION_ID)).metadata.title == "new"


@limited
async def test_a_save_whose_caller_was_cancelled_is_made_and_known(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await store.create(conversation("q"))
        saving = asyncio.create_task(store.update(SESSION_ID, lambda s: s.append(user("q2", LONG), at(9))))
        while not list((tmp_path / ".mochi").glob("*.tmp")):
            await asyncio.sleep(0)
        saving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await saving
        assert [s.updated_at for s in await summaries(store)] == [at(9)]
        assert (await store.load(SESSION_ID)).metadata.updated_at == at(9)


@limited
async def test_an_update_waits_for_a_cancelled_one_to_have_ended(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await store.create(conversation("q"))
        first = asyncio.create_task(store.update(SESSION_ID, lambda s: s.append(user("a", LONG), at(8))))
        while not list((tmp_path / ".mochi").glob("*.tmp")):
            await asyncio.sleep(0)
        first.cancel()
        both = await store.update(SESSION_ID, lambda s: s.append(user("b"), at(9)))
        assert [m.message_id for m in both.path][-2:] == ["a", "b"]
