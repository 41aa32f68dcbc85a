"""Images on disk: there as long as any session's file refers to them, and not much longer."""

import asyncio
import json
import os
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mochi_server.domain.images import Image, image
from mochi_server.domain.session import Session
from mochi_server.errors import SessionNotFound
from mochi_server.store.images import Images, references
from mochi_server.store.sessions import SessionStore
from tests.domain.talk import at, new_session, user
from tests.pictures import GIF, JPEG, png
from tests.store.opened import by_hand, limited, opened, within

A, B, C = (f"{n:010x}" for n in (0xA, 0xB, 0xC))
ONE, TWO, THREE = image(GIF), image(JPEG), image(png())


def session_with(session_id: str, *images: Image) -> Session:
    asked = msgspec.structs.replace(user("q"), images=tuple(one.reference for one in images))
    return new_session(session_id).append(asked, at(1))


@asynccontextmanager
async def held(store: SessionStore, *images: Image) -> AsyncIterator[None]:
    """These images, stored and held, as for a message that is about to be saved."""
    digests = frozenset(one.digest for one in images)
    saved = False
    try:
        await store.threads.run(store.images.hold, digests)
        await store.threads.run(store.images.put, images)
        yield
        saved = True
    finally:
        await store.let_go(digests, saved=saved)


async def create(store: SessionStore, session_id: str, *images: Image) -> None:
    async with held(store, *images):
        await store.create(session_with(session_id, *images))


def there(folder: Path) -> set[str]:
    return {path.name for path in (folder / ".mochi" / "images").glob("*")}


def names(*images: Image) -> set[str]:
    return {one.digest for one in images}


@limited
async def test_an_image_goes_with_the_last_session_that_has_it(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await create(store, A, ONE, TWO)
        await create(store, B, TWO)
        await store.create(new_session(C))
        assert there(tmp_path) == names(ONE, TWO)
        await store.delete(C)
        assert there(tmp_path) == names(ONE, TWO)
        await store.delete(A)
        assert there(tmp_path) == names(TWO)
        await store.delete(B)
        assert there(tmp_path) == set()


def put_aside(content: Any) -> None:
    content["detached"], content["messages"] = content["messages"], []


def put_in_a_field(content: Any) -> None:
    content["messages"][0]["images"] = None
    content["notes"] = {"seen": [f"see {ONE.reference}!"]}


def put_in_words(content: Any) -> None:
    content["messages"][0] |= {"images": None, "content": ONE.reference}


@pytest.mark.parametrize("change", [put_aside, put_in_a_field, put_in_words])
@limited
async def test_an_image_stays_wherever_in_a_file_it_is_referred_to(tmp_path: Path, change: Any) -> None:
    async with opened(tmp_path) as store:
        await create(store, A, ONE)
        await create(store, B, ONE)
        by_hand(tmp_path / f"{B}.json", change)
        await store.delete(A)
        assert there(tmp_path) == names(ONE)
        await store.load(B)
        await store.update(B, lambda s: s.with_metadata(at(9), title="saved anew"))
        await create(store, A, ONE)
        await store.delete(A)
        assert there(tmp_path) == names(ONE)
        await store.delete(B)
        assert there(tmp_path) == set()


@limited
async def test_a_file_that_was_added_or_changed_by_hand_keeps_its_images(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await create(store, A, ONE)
        copy = json.loads((tmp_path / f"{A}.json").read_text())
        copy["metadata"]["session_id"] = B
        (tmp_path / f"{B}.json").write_text(json.dumps(copy))
        await store.delete(A)
        assert there(tmp_path) == names(ONE)
        await create(store, A, TWO)
        by_hand(tmp_path / f"{B}.json", lambda content: content["messages"][0]["images"].append(TWO.reference))
        await store.delete(A)
        assert there(tmp_path) == names(ONE, TWO)
        assert len((await store.load(B)).path) == 1


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:200])


def in_another_encoding(path: Path) -> None:
    path.write_text(path.read_text("utf-8"), "utf-16")


def a_link(path: Path) -> None:
    path.rename(path.with_suffix(".elsewhere"))
    path.symlink_to(path.with_suffix(".elsewhere"))


def a_folder(path: Path) -> None:
    path.rename(path.with_suffix(".elsewhere"))
    path.mkdir()


@pytest.mark.parametrize("damage", [cut_short, in_another_encoding, a_link, a_folder])
@pytest.mark.parametrize("restarted", [False, True])
@limited
async def test_while_a_session_cannot_be_read_every_image_stays(tmp_path: Path, damage: Any, restarted: bool) -> None:
    async with opened(tmp_path) as store:
        await create(store, A, ONE)
        await create(store, B, TWO)
        await create(store, C, THREE)
        path = tmp_path / f"{B}.json"
        whole = path.read_bytes()
        damage(path)
        if not restarted:
            await store.delete(A)
            assert there(tmp_path) == names(ONE, TWO, THREE)
    if restarted:
        async with opened(tmp_path) as store:
            await store.delete(A)
    assert there(tmp_path) == names(ONE, TWO, THREE)
    async with opened(tmp_path) as store:
        await store.delete(C)
        assert there(tmp_path) == names(ONE, TWO, THREE)
        # Once it is mended, what was left goes with the next.
        if path.is_dir():
            path.rmdir()
        else:
            path.unlink()
        path.write_bytes(whole)
        await create(store, A, THREE)
        await store.delete(A)
        assert there(tmp_path) == names(TWO)


@limited
async def test_a_start_removes_what_a_killed_process_left_and_nothing_else(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await create(store, A, ONE)
        await store.threads.run(store.images.put, [TWO])
    strange = tmp_path / ".mochi" / "images" / "notes.txt"
    strange.write_text("not ours")
    async with opened(tmp_path) as store:

        async def removed() -> bool:
            return there(tmp_path) == {*names(ONE), strange.name}

        await within(5, removed)
        await store.load(A)


@limited
async def test_what_was_not_saved_after_all_leaves_no_image_unless_another_has_it(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await create(store, A, ONE)
        with pytest.raises(ZeroDivisionError):
            async with held(store, ONE, TWO):
                raise ZeroDivisionError
        assert there(tmp_path) == names(ONE)
        async with held(store, TWO):
            with pytest.raises(ZeroDivisionError):
                async with held(store, TWO):
                    raise ZeroDivisionError
            assert there(tmp_path) == names(ONE, TWO)
            await store.create(session_with(B, TWO))
        await store.delete(A)
        assert there(tmp_path) == names(TWO)


@limited
async def test_files_that_have_not_changed_are_not_read_again(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await create(store, A, ONE)
        await create(store, B, TWO)
        await create(store, C, THREE)
        await store.delete(A)
        path = tmp_path / f"{B}.json"
        # Written over where it lies, and with its time set back, it looks as it was: who read it would know better.
        before, changed = path.stat(), path.read_bytes().replace(TWO.digest.encode(), THREE.digest.encode())
        with path.open("r+b") as file:
            file.write(changed)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        await store.delete(C)
        assert there(tmp_path) == names(TWO)


@limited
async def test_a_session_that_was_taken_away_by_hand_is_missed_before_its_images_go(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await create(store, A, ONE)
        await create(store, B, ONE, TWO)
        await create(store, C, TWO)
        await store.delete(C)
        path = tmp_path / f"{B}.json"
        content = path.read_bytes()
        path.unlink()
        await store.delete(A)
        assert there(tmp_path) == names(ONE, TWO)
        path.write_bytes(content)  # as an editor does that puts a new file in the old one's place
        await store.load(B)
        path.unlink()
        with pytest.raises(SessionNotFound):
            await store.load(B)
    async with opened(tmp_path) as store:

        async def removed() -> bool:
            return there(tmp_path) == set()

        await within(5, removed)


def opened_images(folder: Path) -> Images:
    images = Images(folder / "images", folder)
    images.put([ONE, TWO])
    return images


def test_what_was_held_at_any_time_during_a_look_is_not_removed_by_it(tmp_path: Path) -> None:
    images = opened_images(tmp_path)
    images.hold(names(ONE))
    with images.looked_over():
        images.let_go(names(ONE))
        images.hold(names(TWO))
        images.let_go(names(TWO))
        assert not any(images.remove_unreferenced(one.digest) for one in (ONE, TWO))
    with images.looked_over():
        assert images.remove_unreferenced(ONE.digest)
        images.hold(names(ONE))
        images.put([ONE])
        assert not images.remove_unreferenced(ONE.digest)
    assert images.read(ONE.reference) == GIF


@pytest.mark.parametrize("seed", range(3))
@limited
async def test_every_image_that_a_session_has_is_there_whoever_deletes_what_at_the_same_time(
    tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)  # noqa: S311 - nobody is to be kept from guessing it
    pictures = [ONE, TWO, THREE]

    async def come_and_go(store: SessionStore, number: int) -> None:
        for turn in range(25):
            session_id = f"{number * 100 + turn:010x}"
            chosen = chance.sample(pictures, chance.randint(1, 2))
            async with held(store, *chosen):
                await asyncio.sleep(chance.choice((0, 0, 0.001)))
                await store.create(session_with(session_id, *chosen))
            missing = [one for one in chosen if not store.images.has(one.reference)]
            assert missing == [], f"{missing} of {session_id} are gone"
            if chance.random() < 0.9:
                async with store.locked(session_id):
                    await store.delete(session_id)

    async with opened(tmp_path) as store:
        await asyncio.gather(*(come_and_go(store, number) for number in range(8)))
        referred = {one for path in tmp_path.glob("*.json") for one in references(path.read_bytes())}
        assert there(tmp_path) == referred
