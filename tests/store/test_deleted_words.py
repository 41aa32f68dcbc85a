"""Nothing that was said in a deleted session is left in any file."""

import asyncio
import functools
import random
from pathlib import Path

import pytest

from mochi_server.domain.session import Session
from tests.domain.talk import SESSION_ID, at, conversation, new_session, user
from tests.store.by_files import assert_answers
from tests.store.harm import LOOKED_FOR, Harm, every_harm, fill, index_of
from tests.store.opened import LIMIT, child, limited, listed, opened, saying

SECRETS = ["secretword", "Geheim-Wörter"]


def holding(folder: Path, text: str) -> list[str]:
    """The files below the folder that hold the text, as it was said or as a search keeps it."""
    forms = {form.encode() for form in (text, text.lower(), text.casefold())}
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [str(path.relative_to(folder)) for path in files if any(form in path.read_bytes() for form in forms)]


def secret_session() -> Session:
    """With its secrets in the title, in short messages and in long ones, on the path and off it."""
    session = conversation(*SECRETS, f"{SECRETS[0]} " * 3000).with_metadata(at(5), title=SECRETS[1])
    return session.edit(2, f"{SECRETS[1]} " * 3000, "edited", at(6)).append(user("end", SECRETS[0]), at(7))


@pytest.mark.parametrize("when", ["at once", "when it was searched", "after changes", "after a restart"])
@limited
async def test_a_deleted_sessions_words_are_in_no_file(when: str, tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await fill(store)
        await store.create(secret_session())
        if when != "at once":
            assert await saying(store, SECRETS[0]) == [SESSION_ID]
            assert f".mochi/{index_of(tmp_path).name}" in holding(tmp_path, SECRETS[0])
        if when == "after changes":
            for title in (SECRETS[0], SECRETS[1] * 99, None):
                await store.update(SESSION_ID, functools.partial(Session.with_metadata, now=at(9), title=title))
                await saying(store, SECRETS[1])
        if when != "after a restart":
            await store.delete(SESSION_ID)
            assert [holding(tmp_path, secret) for secret in SECRETS] == [[], []]
    async with opened(tmp_path) as store:
        if when == "after a restart":
            await store.delete(SESSION_ID)
        assert [holding(tmp_path, secret) for secret in SECRETS] == [[], []]
        await assert_answers(store, tmp_path, *SECRETS, *LOOKED_FOR)


@limited
async def test_a_session_deleted_while_the_index_is_written_leaves_no_words_in_it(tmp_path: Path) -> None:
    # So much that its words are still being folded when it is deleted.
    session = new_session()
    for number in range(400):
        session = session.append(user(str(number), "\u00e9" * 50_000 + SECRETS[0]), at(number))
    async with opened(tmp_path) as store:
        await store.create(session)
        searching = asyncio.create_task(store.page(9, saying="x"))
        await asyncio.sleep(0)
        await store.delete(SESSION_ID)
        await searching
        assert holding(tmp_path, SECRETS[0]) == []
        assert await listed(store) == []
    assert holding(tmp_path, SECRETS[0]) == []


@pytest.mark.parametrize("seed", [5, 7])
@pytest.mark.parametrize("after", ["a search", "a kill"])
@limited
async def test_of_many_sessions_that_grow_no_words_of_the_deleted_are_left(
    after: str, seed: int, tmp_path: Path
) -> None:
    # A database moves rows from page to page, and does not overwrite the places that they leave. With these seeds
    # some are left.
    chance = random.Random(seed)  # noqa: S311 - nothing secret
    sizes: dict[int, int] = {}
    async with opened(tmp_path) as store:
        for number in range(40):
            sizes[number] = chance.choice([5, 40])
            said = secret(number) * sizes[number]
            await store.create(new_session(f"{number:010x}").append(user("q", said), at(number)))
            await saying(store, "secret")
        for step in range(60):
            number = chance.choice(list(sizes))
            sizes[number] += chance.choice([10, 50])
            said = secret(number) * sizes[number]
            edit = functools.partial(Session.edit, index=0, content=said, message_id=f"q{step}", now=at(step))
            await store.update(f"{number:010x}", edit)
            await saying(store, "secret")
        gone = chance.sample(range(40), 20)
        for number in gone:
            await store.delete(f"{number:010x}")
        left = index_of(tmp_path).read_bytes()
        await assert_answers(store, tmp_path, "secret", secret(3))
        assert {number for number in range(40) if holding(tmp_path, secret(number))} == set(range(40)) - set(gone)
    if after == "a kill":
        index_of(tmp_path).write_bytes(left)
        async with opened(tmp_path):
            held = {number for number in range(40) if holding(tmp_path, secret(number))}
        assert held == set(range(40)) - set(gone)


def secret(number: int) -> str:
    return f"secret{number:03} "


def test_a_session_deleted_on_a_full_disk_leaves_no_words(tmp_path: Path) -> None:
    with child("delete_on_a_full_disk", tmp_path) as process:
        told, _ = process.communicate(timeout=LIMIT)
    assert (told.split(), process.returncode) == ([b"deleted"], 0)
    assert holding(tmp_path, "secretword") == []


@every_harm
@limited
async def test_a_session_deleted_after_harm_to_the_index_leaves_no_words(harm: Harm, tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await fill(store)
        await store.create(secret_session())
        await saying(store, SECRETS[0])
        harm(index_of(tmp_path))
        await store.delete(SESSION_ID)
        assert [holding(tmp_path, secret) for secret in SECRETS] == [[], []]
        await assert_answers(store, tmp_path, *SECRETS, *LOOKED_FOR)


@limited
async def test_a_session_removed_by_hand_leaves_no_words_after_the_next_start(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await store.create(secret_session())
    assert holding(tmp_path, SECRETS[0])
    (tmp_path / f"{SESSION_ID}.json").unlink()
    async with opened(tmp_path):
        pass
    assert [holding(tmp_path, secret) for secret in SECRETS] == [[], []]
