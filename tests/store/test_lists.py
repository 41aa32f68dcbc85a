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
from mochi_server.store.index import Index, Place, Summary
from mochi_server.store.sessions import SessionStore
from tests.domain.made_up import SOME
from tests.domain.talk import at, conversation, new_session, user
from tests.store.opened import limited, listed, opened


def named(number: int) -> str:
    return f"{number:010x}"


async def filled(store: SessionStore, count: int) -> list[Session]:
    """That many sessions, each newer than the one before; every second one of the model `big`."""
    sessions = [new_session(named(n), "big" if n % 2 else "tiny", n) for n in range(count)]
    return [await store.create(session) for session in sessions]


def of(model: str | None) -> Callable[[Summary], bool]:
    return lambda summary: model is None or summary.model == model


def walked(store: SessionStore, limit: int, model: str | None = None) -> list[list[str]]:
    """The ids of each page, to the last."""
    pages: list[list[str]] = []
    place: Place | None = None
    while True:
        page = store.page(limit, place, of(model))
        pages.append([s.session_id for s in page.sessions])
        if page.more is None:
            return pages
        place = page.more


@limited
async def test_the_list_is_newest_first_after_every_change_and_after_a_restart(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await filled(store, 4)
        assert listed(store) == [named(n) for n in (3, 2, 1, 0)]
        await store.update(named(1), lambda session: session.append(user("q"), at(10)))
        assert listed(store) == [named(n) for n in (1, 3, 2, 0)]
        await store.delete(named(3))
        assert listed(store) == [named(n) for n in (1, 2, 0)]
        before = store.page(9)
    async with opened(tmp_path) as store:
        assert store.page(9) == before


@limited
async def test_sessions_of_the_same_moment_are_all_listed(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        for number in range(5):
            await store.create(new_session(named(number)))
        assert sorted(chain.from_iterable(walked(store, 2))) == [named(n) for n in range(5)]


@limited
async def test_a_session_in_the_list_shows_what_its_file_says(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        saved = await store.create(conversation("hello", "good\nday").with_metadata(at(9), title="A title"))
        (summary,) = store.page(9).sessions
    assert summary == Summary(
        session_id=saved.metadata.session_id,
        model="tiny",
        title="A title",
        created_at=at(0),
        updated_at=at(9),
        message_count=2,
        summary=None,
        preview="good day",
    )


@pytest.mark.parametrize(("limit", "sizes"), [(1, [1, 1, 1, 1, 1]), (2, [2, 2, 1]), (4, [4, 1]), (5, [5]), (1000, [5])])
@limited
async def test_pages_hold_up_to_the_limit_and_the_last_one_says_so(
    limit: int, sizes: list[int], tmp_path: Path
) -> None:
    async with opened(tmp_path) as store:
        await filled(store, 5)
        pages = walked(store, limit)
        assert [len(page) for page in pages] == sizes
        assert list(chain.from_iterable(pages)) == listed(store)


@limited
async def test_of_one_model_only_its_sessions_are_listed_and_counted(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await filled(store, 7)
        assert walked(store, 2, "big") == [[named(5), named(3)], [named(1)]]
        assert walked(store, 2, "tiny") == [[named(6), named(4)], [named(2), named(0)]]
        assert walked(store, 2, "none") == [[]]
        totals = [store.page(1, None, of(model)).total for model in (None, "big", "tiny", "none")]
        assert totals == [7, 3, 4, 0]
        second = store.page(2, store.page(2, None, of("big")).more, of("big"))
        assert (second.total, second.more) == (3, None)


@limited
async def test_a_page_goes_on_where_the_session_it_ended_with_was_deleted(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await filled(store, 4)
        page = store.page(2)
        await store.delete(page.sessions[-1].session_id)
        assert [s.session_id for s in store.page(2, page.more).sessions] == [named(1), named(0)]


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
                page = store.page(limit, place)
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
    there = session_id in listed(store)
    if what == "create" and not there:
        await store.create(new_session(session_id, second=second))
    elif what == "update" and there:
        await store.update(session_id, lambda session: session.with_metadata(at(second), title="touched"))
    elif what == "delete" and there:
        await store.delete(session_id)


SUMMARIES = st.builds(
    Summary,
    session_id=st.integers(0, 5).map(named),
    model=st.just("tiny"),
    title=st.none(),
    created_at=st.just(at(0)),
    updated_at=st.integers(0, 3).map(at),
    message_count=st.just(0),
    summary=st.none(),
    preview=st.just(""),
)
STEPS = st.lists(SUMMARIES | st.tuples(st.sampled_from(["drop", "damage"]), st.integers(0, 5).map(named)), max_size=30)


@SOME
@given(STEPS)
def test_the_index_is_a_sorted_dictionary(steps: list[Summary | tuple[str, str]]) -> None:
    index, whole, bad = Index(), dict[str, Summary](), set[str]()
    for step in steps:
        session_id = step.session_id if isinstance(step, Summary) else step[1]
        whole.pop(session_id, None)
        bad.discard(session_id)
        match step:
            case Summary():
                index.put(step)
                whole[session_id] = step
            case ("drop", _):
                index.drop(session_id)
            case _:
                index.put_damaged(session_id, "because")
                bad.add(session_id)
        newest = sorted(whole.values(), key=lambda s: (s.updated_at, s.session_id), reverse=True)
        assert list(index.newest_first()) == newest
        assert [d.session_id for d in index.damaged()] == sorted(bad)
        assert [named(n) in index for n in range(6)] == [named(n) in whole or named(n) in bad for n in range(6)]
        for place, summary in enumerate(newest):
            assert list(index.newest_first((summary.updated_at, summary.session_id))) == newest[place + 1 :]
