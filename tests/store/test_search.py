"""Searches: a text among titles and messages, in whatever case, found as soon as it is there."""

import asyncio
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as how
from hypothesis import strategies as st

from mochi_server.domain.session import Session
from tests.domain.made_up import SOME
from tests.domain.talk import SESSION_ID, at, conversation, new_session, reply, system, user
from tests.store.by_files import found_in
from tests.store.opened import by_hand, file_of, limited, opened, saying, within

OTHER = "ffffffffff"
SEEN_WITHIN = 2.0
"""Seconds in which a list sees a change by hand."""

COMPOSED, DECOMPOSED = "caf\u00e9", "cafe\u0301"


@pytest.mark.parametrize(
    ("said", "looked_for"),
    [
        ("one two three", "two"),
        ("one two three", "one two three"),
        ("one two three", "e t"),
        ("one two three", "w"),
        ("x", "x"),
        ("One TWO", "oNE two"),
        ("die Straße", "STRASSE"),
        ("DIE STRASSE", "straße"),
        ("die STRAẞE", "strasse"),
        (COMPOSED, DECOMPOSED),
        (DECOMPOSED, COMPOSED),
        (DECOMPOSED, COMPOSED.upper()),
        (DECOMPOSED, DECOMPOSED.upper()),
        ("ΟΔΟΣ", "οδος"),
        ("οδός", "ΟΔΌΣ"),
        ("ﬁne", "FI"),
        ("300 \u212a", "300 k"),
        ("\u212bngström", "ångström"),
        ("日本語", "本"),
        ("\uac00", "\u1100\u1161"),
        ("\u03b1\u0345\u0301", "\u1fb4"),
        ("go 👩\u200d🚀 go", "👩\u200d🚀"),
        ("go 👩\u200d🚀 go", "🚀"),
        ("100 % sure", "0 % s"),
        ("snake_case", "e_c"),
        ("C:\\new", "\\n"),
        ("it's", "t's"),
        ('"so"', '"s'),
        ("a\x00b", "\x00b"),
        ("a\x85b\u2028c", "\x85b\u2028"),
        ("a\nb\tc", "\nb\t"),
        ("\ufeffbom\uffff", "\ufeffB"),
        ("x'); DROP TABLE words; --", "'); drop table words; --"),
        ("[a-z]*? NEAR AND", "*? near"),
        ("   ", " "),
        ("ÿ\u00ff", "\u0178"),
    ],
)
@limited
async def test_a_text_is_found_whatever_its_case_and_composition(said: str, looked_for: str, tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await store.create(new_session().append(user("q", said), at(1)))
        await store.create(conversation("another thing", session_id=OTHER))
        assert SESSION_ID in await saying(store, looked_for)
    async with opened(tmp_path) as store:
        assert await saying(store, looked_for) == found_in(tmp_path, looked_for)


@pytest.mark.parametrize(
    ("said", "looked_for"),
    [
        ("one two", "two one"),
        ("one", "o%"),
        ("one", "%"),
        ("one", "o_e"),
        ("one", "_"),
        ("one", "*"),
        ("one", "o?e"),
        ("one", ".n."),
        ("one", "\\o"),
        ("one", "one "),
        ("one", "\x00"),
        ("one\x00two", "onetwo"),
        ("one", "one\x00"),
        (COMPOSED, "cafe"),
        ("J\u030c", "j"),
        ("\u00fe\u00ff", "\u00c3"),
        ("日", "\u65e6"),
        ("o\u200dne", "one"),
        ("one", "' OR 1=1 --"),
    ],
)
@limited
async def test_a_text_that_was_not_said_is_not_found(said: str, looked_for: str, tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await store.create(new_session().append(user("q", said), at(1)))
        assert await saying(store, looked_for) == []
    async with opened(tmp_path) as store:
        assert await saying(store, looked_for) == []


@limited
async def test_the_title_and_the_system_prompt_are_searched_and_what_left_the_path_is_not(tmp_path: Path) -> None:
    session = new_session().with_metadata(at(1), title="Entitled").with_system(system("Prompted"), at(1))
    session = session.append(user("q", "asked"), at(2)).append(reply("a", "replied"), at(3))
    session = session.edit(1, "edited", "q2", at(4)).with_system(system("prompted anew"), at(5))
    async with opened(tmp_path) as store:
        await store.create(session)
    for _ in range(2):
        async with opened(tmp_path) as store:
            found = {text: bool(await saying(store, text)) for text in ("entitled", "ANEW", "Edited", "asked", "repl")}
            assert found == {"entitled": True, "ANEW": True, "Edited": True, "asked": False, "repl": False}
            # Not what else a file says: ids, names of fields, models.
            for word in ("metadata", "content", "q2", "tiny", SESSION_ID, "2.0", "user"):
                assert (word, await saying(store, word)) == (word, [])


@limited
async def test_nothing_is_found_across_two_messages_or_a_message_and_the_title(tmp_path: Path) -> None:
    between = ["", " ", "\n", "\x00", "\u00ff", "\ufffd", "\uffff"]
    session = conversation("ab", "cd").with_metadata(at(9), title="ef")
    async with opened(tmp_path) as store:
        await store.create(session)
        for text in ("ab", "cd", "ef"):
            assert await saying(store, text) == [SESSION_ID]
        for gap in between:
            for first, second in (("b", "c"), ("d", "e"), ("f", "a"), ("ab", "cd"), ("d", "a")):
                assert await saying(store, first + gap + second) == []


@limited
async def test_a_search_is_paged_and_counted_and_narrowed_like_a_list(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        for number in range(6):
            session = new_session(f"{number:010x}", "big" if number % 2 else "tiny", number)
            await store.create(session.append(user("q", "yes" if number < 5 else "no"), at(number)))
        first = await store.page(2, saying="YES")
        second = await store.page(2, first.more, saying="YES")
        third = await store.page(2, second.more, saying="YES")
        pages = [[int(one.session_id) for one in page.sessions] for page in (first, second, third)]
        assert pages == [[4, 3], [2, 1], [0]]
        assert [page.total for page in (first, second, third)] == [5, 5, 5]
        assert third.more is None
        big = await store.page(9, saying="yes", matches=lambda one: one.model == "big")
        assert ([int(one.session_id) for one in big.sessions], big.total) == ([3, 1], 2)
        assert (await store.page(9, saying="")).total == 6


# As soon as it is there

CHANGES: list[tuple[Callable[[Session], Session], bool]] = [
    (lambda s: s.append(user("q2", "a needle in it"), at(5)), True),
    (lambda s: s.answered("q", reply("a", "NEEDLES"), at(5)), True),
    (lambda s: s.edit(0, "the needle", "q2", at(5)), True),
    (lambda s: s.with_metadata(at(5), title="Needle"), True),
    (lambda s: s.with_system(system("needle"), at(5)), True),
    (lambda s: s.append(user("q2", "needle"), at(5)).truncate(1, at(6)), False),
    (lambda s: s.append(user("q2", "needle"), at(5)).truncate(1, at(6)).with_head("q2", at(7)), True),
]


@pytest.mark.parametrize(("change", "is_found"), CHANGES)
@limited
async def test_a_search_knows_each_change_at_once_and_after_a_restart(
    change: Callable[[Session], Session], is_found: bool, tmp_path: Path
) -> None:
    expected = [SESSION_ID] if is_found else []
    async with opened(tmp_path) as store:
        await store.create(conversation("q"))
        assert await saying(store, "needle") == []
        await store.update(SESSION_ID, change)
        assert await saying(store, "needle") == expected == found_in(tmp_path, "needle")
    async with opened(tmp_path) as store:
        assert await saying(store, "needle") == expected
        await store.update(SESSION_ID, lambda s: s.with_system(None, at(8)).truncate(0, at(9)))
        await store.update(SESSION_ID, lambda s: s.with_metadata(at(9), title="hay"))
        assert await saying(store, "needle") == []
    async with opened(tmp_path) as store:
        assert await saying(store, "needle") == []


@limited
async def test_a_deleted_session_is_not_found_and_its_id_begins_anew(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await store.create(conversation("needle"))
        assert await saying(store, "needle") == [SESSION_ID]
        await store.delete(SESSION_ID)
        assert await saying(store, "needle") == []
        await store.create(conversation("hay"))
        assert (await saying(store, "needle"), await saying(store, "hay")) == ([], [SESSION_ID])
    async with opened(tmp_path) as store:
        assert (await saying(store, "needle"), await saying(store, "hay")) == ([], [SESSION_ID])


@limited
async def test_words_changed_by_hand_are_found_in_two_seconds_and_the_old_ones_no_more(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        saved = await store.create(conversation("hay"))
        assert await saying(store, "hay") == [SESSION_ID]
        by_hand(file_of(tmp_path, saved), lambda file: file["messages"][0].update(content="a needle"))

        async def is_seen() -> bool:
            return await saying(store, "needle") == [SESSION_ID] and await saying(store, "hay") == []

        await within(SEEN_WITHIN, is_seen)


@limited
async def test_sessions_at_rest_are_found_by_searches_while_others_come_and_go(tmp_path: Path) -> None:
    at_rest = [f"{number:010x}" for number in range(40)]
    async with opened(tmp_path) as store:
        for name in at_rest:
            # Long enough for a search to take its time.
            await store.create(conversation("needle " + "x" * 30_000, session_id=name))

        async def come_and_go(first: int) -> None:
            for number in range(first, first + 40, 10):
                names = [f"{n:010x}" for n in range(number, number + 10)]
                await asyncio.gather(*(store.create(conversation("other", session_id=name)) for name in names))
                # Has the index file written.
                await saying(store, "other")
                await asyncio.gather(*(store.delete(name) for name in names[::2]))

        async def search() -> None:
            while not all(task.done() for task in coming):
                assert sorted(await saying(store, "needle")) == at_rest

        async with asyncio.TaskGroup() as tasks:
            coming = [tasks.create_task(come_and_go(number)) for number in (1000, 2000)]
            for _ in range(3):
                tasks.create_task(search())


# Any text


FOLDING = "aAbsS\u00df\u1e9e\u00e9\u00c9e\u0301\ufb01i\u0130\u0131kK\u212a\u03a3\u03c3\u03c2\u0345"
ALPHABET = FOLDING + "%_\\'\"\x00 \n👩\u200d🚀"
SAID = st.text(ALPHABET, max_size=8)
TALKS = st.lists(st.tuples(st.none() | SAID, st.lists(SAID, max_size=3)), min_size=1, max_size=4)
LOOKED_FOR = st.lists(st.text(ALPHABET, min_size=1, max_size=3), min_size=1, max_size=6)


@how(SOME, max_examples=40)
@given(TALKS, LOOKED_FOR)
@limited
async def test_a_search_finds_what_one_through_all_files_finds(
    talks: list[tuple[str | None, list[str]]], looked_for: list[str]
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # What was said is looked for too, as a whole and in part.
        queries = {*looked_for, *(text for title, said in talks for text in (title or "", *said))}
        queries |= {text[1:4] for text in queries} | {text.upper() for text in queries}
        async with opened(folder) as store:
            for number, (title, said) in enumerate(talks):
                session = new_session(f"{number:010x}").with_metadata(at(number), title=title)
                for place, text in enumerate(said):
                    session = session.append(user(str(place), text), at(number))
                await store.create(session)
            for query in queries - {""}:
                assert (query, await saying(store, query)) == (query, found_in(folder, query))
        async with opened(folder) as store:
            for query in queries - {""}:
                assert (query, await saying(store, query)) == (query, found_in(folder, query))
