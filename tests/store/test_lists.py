"""Lists of sessions: newest first, in pages that no session is in twice."""

import tempfile
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as how
from hypothesis import strategies as st

from mochi_server.domain.session import Session
from mochi_server.store.index import Damaged, Index, Listed, Place, Summary
from mochi_server.store.sessions import SessionStore
from tests.domain.made_up import SOME
from tests.domain.talk import at, conversation, new_session, user
from tests.store.opened import limited, listed, opened, summaries


def named(number: int) -> str:
    return f"{number:010x}"


async def filled(store: SessionStore, count: int) -> list[Session]:
    """That many sessions, each newer than the one before; every second one of the model `big`."""
    sessions = [new_session(named(n), "big" if n % 2 else "tiny", n) for n in range(count)]
    return [await store.create(session) for session in sessions]


def of(model: str | None) -> Callable[[Listed], bool]:
    return lambda one: model is None or one.model == model


async def walked(store: SessionStore, limit: int, model: str | None = None) -> list[list[str]]:
    """The ids of each page, to the last."""
    pages: list[list[str]] = []
    place: Place | None = None
    while True:
        page = await store.page(limit, place, matches=of(model))
        pages.append([s.session_id for s in page.sessions])
        if page.more is None:
            return pages
        place = page.more


@limited
async def test_the_list_is_newest_first_after_every_change_and_after_a_restart(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await filled(store, 4)
        assert await listed(store) == [named(n) for n in (3, 2, 1, 0)]
        await store.update(named(1), lambda session: session.append(user("q"), at(10)))
        assert await listed(store) == [named(n) for n in (1, 3, 2, 0)]
        await store.delete(named(3))
        assert await listed(store) == [named(n) for n in (1, 2, 0)]
        before = await store.page(9)
    async with opened(tmp_path) as store:
        assert await store.page(9) == before


@limited
async def test_sessions_of_the_same_moment_are_all_listed(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        for number in range(5):
            await store.create(new_session(named(number)))
        assert sorted(chain.from_iterable(await walked(store, 2))) == [named(n) for n in range(5)]


@limited
async def test_a_session_in_the_list_shows_what_its_file_says(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        saved = await store.create(conversation("hello", "good\nday").with_metadata(at(9), title="A title"))
        shown = await summaries(store)
    assert shown == [
        Summary(
            session_id=saved.metadata.session_id,
            model="tiny",
            title="A title",
            created_at=at(0),
            updated_at=at(9),
            message_count=2,
            summary=None,
            preview="good day",
        )
    ]
    async with opened(tmp_path) as store:
        assert await summaries(store) == shown


@pytest.mark.parametrize(("limit", "sizes"), [(1, [1, 1, 1, 1, 1]), (2, [2, 2, 1]), (4, [4, 1]), (5, [5]), (1000, [5])])
@limited
async def test_pages_hold_up_to_the_limit_and_the_last_one_says_so(
    limit: int, sizes: list[int], tmp_path: Path
) -> None:
    async with opened(tmp_path) as store:
        await filled(store, 5)
        pages = await walked(store, limit)
        assert [len(page) for page in pages] == sizes
        assert list(chain.from_iterable(pages)) == await listed(store)


@limited
async def test_of_one_model_only_its_sessions_are_listed_and_counted(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await filled(store, 7)
        assert await walked(store, 2, "big") == [[named(5), named(3)], [named(1)]]
        assert await walked(store, 2, "tiny") == [[named(6), named(4)], [named(2), named(0)]]
        assert await walked(store, 2, "none") == [[]]
        totals = [(await store.page(1, matches=of(model))).total for model in (None, "big", "tiny", "none")]
        assert totals == [7, 3, 4, 0]
        first = await store.page(2, matches=of("big"))
        second = await store.page(2, first.more, matches=of("big"))
        assert (second.total, second.more) == (3, None)


@limited
async def test_a_page_goes_on_where_the_session_it_ended_with_was_deleted(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await filled(store, 4)
        page = await store.page(2)
        await store.delete(page.sessions[-1].session_id)
        assert [s.session_id for s in (await store.page(2, page.more)).sessions] == [named(1), named(0)]


CHANGES = st.lists(st.tuples(st.sampled_from(["update", "delete", "create"]), st.integers(0, 7)), max_size=4)


@how(SOME, max_examples=40)
@given(st.integers(1, 3), st.lists(CHANGES, max_size=5))
@limited
async def test_nothing_is_listed_twice_and_nothing_at_rest_is_missed_while_others_change(
    limit: int, between: list[list[tuple[str, int]]]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with opened(Path(folder)) as store:
            await filled(store, 6)
            seen: list[str] = []
            changed: set[str] = set()
            place: Place | None = None
            second = 100
            for changes in [*between, *[[]] * 8]:
                page = await store.page(limit, place)
                seen += [s.session_id for s in page.sessions]
                if page.more is None:
                    break
                place = page.more
                for what, number in changes:
                    second += 1
                    changed.add(named(number))
                    await change(store, what, named(number), second)
            assert page.more is None
            assert len(seen) == len(set(seen))
            assert {named(n) for n in range(6)} - changed <= set(seen)


async def change(store: SessionStore, what: str, session_id: str, second: int) -> None:
    """Do it, if it can be done."""
    there = session_id in await listed(store)
    if what == "create" and not there:
        await store.create(new_session(session_id, second=second))
    elif what == "update" and there:
        await store.update(session_id, lambda session: session.with_metadata(at(second), title="touched"))
    elif what == "delete" and there:
        await store.delete(session_id)


def one_listed(session_id: str, updated_at: str, stamp: bytes = b"") -> Listed:
    return Listed(session_id, updated_at, "tiny", stamp, b"{}")


LISTED = st.builds(one_listed, st.integers(0, 5).map(named), st.integers(0, 3).map(at), st.sampled_from([b"1", b"2"]))
STEPS = st.lists(LISTED | st.tuples(st.sampled_from(["drop", "damage"]), st.integers(0, 5).map(named)), max_size=30)


@SOME
@given(STEPS)
def test_the_index_is_a_sorted_dictionary(steps: list[Listed | tuple[str, str]]) -> None:
    index, whole, bad = Index(), dict[str, Listed](), dict[str, Damaged]()
    for step in steps:
        session_id = step.session_id if isinstance(step, Listed) else step[1]
        whole.pop(session_id, None)
        bad.pop(session_id, None)
        match step:
            case Listed():
                index.put(step)
                whole[session_id] = step
            case ("drop", _):
                index.drop(session_id)
            case _:
                bad[session_id] = Damaged(session_id, "because", b"3")
                index.put_damaged(bad[session_id])
        newest = sorted(whole.values(), key=lambda s: (s.updated_at, s.session_id), reverse=True)
        assert list(index.newest_first()) == newest
        assert index.damaged() == [bad[name] for name in sorted(bad)]
        assert index.known() == {**whole, **bad}
        assert [index.find(named(n)) for n in range(6)] == [whole.get(named(n)) or bad.get(named(n)) for n in range(6)]
        assert len(index) == len(whole)
        for place, one in enumerate(newest):
            assert list(index.newest_first((one.updated_at, one.session_id))) == newest[place + 1 :]


@SOME
@given(st.lists(LISTED, unique_by=lambda one: one.session_id))
def test_an_index_that_is_filled_is_as_one_that_was_added_to(listed: list[Listed]) -> None:
    filled, added = Index(), Index()
    filled.fill(listed)
    for one in listed:
        added.put(one)
    assert list(filled.newest_first()) == list(added.newest_first())
    assert filled.known() == added.known()
