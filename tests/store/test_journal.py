"""The journal of a reply: what was written whole is read again, whatever became of its end."""

import os
import stat
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mochi_server.domain.events import ContentDelta, Done, ErrorEvent, Event, ThinkingDelta, entry, said
from mochi_server.domain.messages import AssistantMessage
from mochi_server.store.journal import ENDED, RUNNING, Head, Journal, Journals, Kept
from tests.domain.made_up import JSON_VALUES, OBJECTS, SOME, TEXT
from tests.domain.talk import SESSION_ID, conversation, reply
from tests.store.opened import LIMIT, child, damaged, everything_in, file_of, limited, opened, syncs

OTHER = "ffffffffff"
HEAD = Head(session_id=SESSION_ID, generation_id="a" * 10, question_id="q", reply=reply("a", ""))
SAID: list[Event] = [
    ThinkingDelta("hm\x85\u2028\n"),
    ContentDelta("a\x00b\n"),
    ContentDelta("é 👩\u200d🚀"),
    ContentDelta(""),
]
DONE = Done(session_id=SESSION_ID, generation_id="a" * 10, status="complete")
ENTRIES = [entry(event) for event in (*SAID, DONE)]
ENDING = msgspec.structs.replace(HEAD.reply, done_reason="stop", eval_count=3)

EVENTS: st.SearchStrategy[Event] = st.one_of(
    st.builds(ContentDelta, TEXT),
    st.builds(ThinkingDelta, TEXT),
    st.builds(ErrorEvent, code=TEXT, message=TEXT, details=OBJECTS, correlation_id=TEXT),
)
REPLIES = st.builds(
    AssistantMessage,
    content=TEXT,
    message_id=TEXT,
    timestamp=TEXT,
    model=st.none() | TEXT,
    thinking=st.none() | TEXT,
    tool_calls=st.none() | st.lists(JSON_VALUES, max_size=2),
    options=st.none() | OBJECTS,
)


def last(journals: Journals, session_id: str) -> Kept | None:
    """What is kept of the session's last reply, be it in its file or not."""
    return journals.kept(session_id, RUNNING) or journals.kept(session_id, ENDED)


def journals_in(folder: Path) -> Journals:
    return Journals(folder / "journals", folder / "quarantine")


@pytest.fixture
def journals(tmp_path: Path) -> Journals:
    return journals_in(tmp_path)


@contextmanager
def writing(journals: Journals, session_id: str = SESSION_ID, *, settled: bool = False) -> Iterator[Journal]:
    """A new journal with its head; ended afterwards."""
    journal = journals.open(session_id)
    journal.begin(msgspec.structs.replace(HEAD, session_id=session_id))
    yield journal
    journals.end(journal, settled=settled)


def write(journals: Journals, session_id: str = SESSION_ID, *, settled: bool = False) -> Path:
    """A reply's journal from its head to its `done`; where it is."""
    with writing(journals, session_id, settled=settled) as journal:
        journal.append(ENTRIES[:-1])
        journal.ending(ENDING)
        journal.saved()
        journal.append(ENTRIES[-1:])
    return journal.path.with_suffix(ENDED) if settled else journal.path


# What is written is what is read


@SOME
@given(st.lists(st.lists(EVENTS, max_size=4), max_size=4), REPLIES, st.sampled_from(["saved", "not saved"]))
@example([SAID], ENDING, "saved")
def test_what_is_written_is_what_is_read(batches: list[list[Event]], ending: AssistantMessage, then: str) -> None:
    head = msgspec.structs.replace(HEAD, reply=ending)
    entries = [entry(event) for batch in batches for event in batch]
    with tempfile.TemporaryDirectory() as folder:
        journals = journals_in(Path(folder))
        journal = journals.open(SESSION_ID)
        journal.begin(head)
        for batch in batches:
            journal.append([entry(event) for event in batch])
        before = last(journals, SESSION_ID)
        journal.ending(ending)
        if then == "saved":
            journal.saved()
        journal.append([entry(DONE)])
        journals.end(journal, settled=True)
        after = last(journals, SESSION_ID)
        size = journal.path.with_suffix(ENDED).stat().st_size
    assert before is not None
    assert after is not None
    assert (before.head, before.entries, before.ending, before.saved, before.ended) == (
        head,
        entries,
        None,
        False,
        False,
    )
    assert (after.head, after.entries, after.ended, after.size) == (head, [*entries, entry(DONE)], True, size)
    assert after.ending == msgspec.structs.replace(ending, content="", thinking=None)
    assert after.saved == (then == "saved")
    events = [event for batch in batches for event in batch]
    assert said(after.entries) == (
        "".join(event.content for event in events if isinstance(event, ContentDelta)),
        "".join(event.content for event in events if isinstance(event, ThinkingDelta)),
    )


def test_a_journal_is_its_owners_alone_and_so_is_its_folder(tmp_path: Path, journals: Journals) -> None:
    path = write(journals)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "journals").stat().st_mode) == 0o700


def test_where_there_is_no_journal_nothing_is_kept(journals: Journals) -> None:
    assert (last(journals, SESSION_ID), journals.unsettled(), journals.writing) == (None, [], False)
    journals.clean([])
    journals.drop(SESSION_ID)
    journals.set_aside(SESSION_ID)


# What is torn


def test_of_a_journal_cut_off_anywhere_all_is_read_that_was_written_whole(journals: Journals) -> None:
    path = write(journals)
    data = path.read_bytes()
    for length in range(len(data) + 1):
        path.write_bytes(data[:length])
        lines = data[:length].split(b"\n")[1:-1]
        kept = last(journals, SESSION_ID)
        assert (kept is None) == (b"\n" not in data[:length])
        if kept is not None:
            events = [line for line in lines if not line.startswith((b"ending ", b"saved "))]
            assert kept.entries == ENTRIES[: len(events)]
            assert kept.head == HEAD
            assert kept.size == data.rfind(b"\n", 0, length) + 1
            assert kept.ending == (ENDING if len(lines) > len(SAID) else None)
            assert kept.saved == (len(lines) > len(SAID) + 1)
            assert kept.ended == (length == len(data))


def test_a_journal_cut_off_anywhere_is_settled_without_a_trace_of_the_cut(journals: Journals) -> None:
    path = write(journals)
    data = path.read_bytes()
    for length in range(data.index(b"\n") + 1, len(data)):
        path.write_bytes(data[:length])
        kept = journals.kept(SESSION_ID, RUNNING)
        assert kept is not None
        journals.settle(SESSION_ID, kept, ENDING, ENTRIES[len(kept.entries) :])
        assert not path.exists()
        ended = last(journals, SESSION_ID)
        assert ended is not None
        assert (ended.entries, ended.ending, ended.saved, ended.ended) == (ENTRIES, ENDING, True, True)
        assert ended.size == path.with_suffix(ENDED).stat().st_size


RUBBISH = [
    *(b"\x00", b"\x00" * 5000, b"\x00" * 50 + b"\n", b"\n", b"\n\n", b" 0\n", b"\xff\xfe\xfd\n", b"rubbish\n"),
    *(b"rubbish {}\n", b"\x00 {}\n", b"{}\n", b'"\n', b"head {}\n", b"head\n", b"ending {}\n", b"saved\n"),
    *(b"saved \x00\x00\n", b"content_delta\n", b"content_delta 5\n", b'content_delta {"content":5}\n'),
    *(b'content_delta {"content":"\xff"}\n', b'content_delta {"content":"\xed\xa0\x80"}\n', b"content_delta {}{}\n"),
    *(b"content_delta " + b"[" * 100_000 + b"\n", b"error " + b'{"details":' * 100_000 + b"\n", b"done {}\n"),
]


@pytest.mark.parametrize("rubbish", RUBBISH, ids=lambda rubbish: repr(rubbish[:40]))
@pytest.mark.parametrize("then", [b"", b"saved {}\n"], ids=["at the end", "before a line that is sound"])
def test_rubbish_behind_a_journal_is_not_read(rubbish: bytes, then: bytes, journals: Journals) -> None:
    with writing(journals) as journal:
        journal.append(ENTRIES[:2])
    size = journal.path.stat().st_size
    with journal.path.open("ab") as file:
        file.write(rubbish + then)
    kept = last(journals, SESSION_ID)
    assert kept is not None
    assert (kept.head, kept.entries, kept.ending, kept.saved) == (HEAD, ENTRIES[:2], None, False)
    assert kept.size == size


@SOME
@given(st.binary(max_size=40))
def test_no_tail_of_any_bytes_hides_or_changes_what_was_written(tail: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        journals = journals_in(Path(folder))
        with write(journals).open("ab") as file:
            file.write(tail)
        kept = last(journals, SESSION_ID)
    assert kept is not None
    assert (kept.head, kept.entries, kept.ending, kept.saved) == (HEAD, ENTRIES, ENDING, True)


@pytest.mark.parametrize("data", [b"", b"\x00" * 100, b"head {}\n", b"rubbish", b"content_delta {}\n"], ids=repr)
def test_a_journal_of_which_nothing_can_be_read_is_put_away_and_its_name_is_free(
    data: bytes, tmp_path: Path, journals: Journals
) -> None:
    path = write(journals)
    path.write_bytes(data)
    assert last(journals, SESSION_ID) is None
    assert journals.unsettled() == [SESSION_ID]
    journals.set_aside(SESSION_ID)
    kept = [found.read_bytes() for found in (tmp_path / "quarantine").glob(f"{SESSION_ID}.*")]
    assert kept == ([data] if data else [])
    assert journals.unsettled() == []
    write(journals)


def test_what_a_full_disk_cut_off_is_not_in_the_journal_and_it_can_be_written_again(tmp_path: Path) -> None:
    with child("append_to_a_full_disk", tmp_path) as process:
        told, _ = process.communicate(timeout=LIMIT)
    assert (told.split(), process.returncode) == ([b"refused"] * 100, 0)
    for path in (tmp_path / "journals").iterdir():
        kept = last(journals_in(tmp_path), path.stem)
        assert kept is not None
        assert said(kept.entries) == ("before, after", "")
        assert kept.size == path.stat().st_size


# Which journals there are


def whole(kept: Kept | None) -> Kept:
    """What is kept; there is to be something."""
    assert kept is not None
    return kept


def test_a_session_has_one_running_journal_at_most(journals: Journals) -> None:
    with writing(journals) as journal:
        with pytest.raises(FileExistsError):
            journals.open(SESSION_ID)
        journal.append(ENTRIES)
    with pytest.raises(FileExistsError):
        journals.open(SESSION_ID)
    assert whole(last(journals, SESSION_ID)).entries == ENTRIES


def test_of_two_journals_the_running_one_is_the_last_where_it_can_be_read(journals: Journals) -> None:
    write(journals, settled=True)
    with writing(journals) as journal:
        journal.append(ENTRIES[:1])
    assert whole(journals.kept(SESSION_ID, RUNNING)).entries == ENTRIES[:1]
    assert whole(journals.kept(SESSION_ID, ENDED)).entries == ENTRIES
    assert whole(last(journals, SESSION_ID)).entries == ENTRIES[:1]
    journal.path.write_bytes(b"head")
    assert whole(last(journals, SESSION_ID)).entries == ENTRIES


def test_a_settled_journal_takes_the_place_of_the_sessions_last(tmp_path: Path, journals: Journals) -> None:
    write(journals, settled=True)
    with writing(journals, settled=True) as journal:
        journal.append(ENTRIES[:1])
    assert whole(last(journals, SESSION_ID)).entries == ENTRIES[:1]
    assert [path.name for path in (tmp_path / "journals").iterdir()] == [f"{SESSION_ID}.ended"]


def test_a_reply_of_which_nothing_was_said_is_settled_without_a_message(journals: Journals) -> None:
    with writing(journals):
        pass
    journals.settle(SESSION_ID, whole(last(journals, SESSION_ID)), None, [entry(DONE)])
    ended = whole(journals.kept(SESSION_ID, ENDED))
    assert (ended.entries, ended.ending, ended.saved, ended.ended) == ([entry(DONE)], None, False, True)
    assert journals.unsettled() == []


def test_a_journal_that_is_being_written_is_not_unsettled_and_one_that_was_left_is(
    tmp_path: Path, journals: Journals
) -> None:
    write(journals, OTHER, settled=True)
    with writing(journals):
        assert (journals.writing, journals.unsettled()) == (True, [])
        assert journals_in(tmp_path).unsettled() == [SESSION_ID]
    assert (journals.writing, journals.unsettled()) == (False, [SESSION_ID])


def test_a_discarded_journal_leaves_nothing_and_its_name_is_free(tmp_path: Path, journals: Journals) -> None:
    journal = journals.open(SESSION_ID)
    journal.begin(HEAD)
    journals.discard(journal)
    assert list((tmp_path / "journals").iterdir()) == []
    assert not journals.writing
    write(journals)


# What goes


def fill(journals: Journals, session_id: str) -> None:
    """A journal of each kind, and one in quarantine."""
    path = write(journals, session_id)
    path.write_bytes(b"rubbish")
    journals.set_aside(session_id)
    write(journals, session_id, settled=True)
    write(journals, session_id)


def test_dropped_journals_leave_nothing_and_others_stay(tmp_path: Path, journals: Journals) -> None:
    fill(journals, OTHER)
    others = everything_in(tmp_path)
    fill(journals, SESSION_ID)
    assert len(everything_in(tmp_path)) == len(others) + 3
    journals.drop(SESSION_ID)
    assert everything_in(tmp_path) == others
    journals.drop(SESSION_ID)


def test_only_the_journals_of_sessions_that_are_gone_are_cleaned_away(tmp_path: Path, journals: Journals) -> None:
    write(journals, OTHER, settled=True)
    write(journals, OTHER)
    (tmp_path / "journals" / "notes.txt").write_bytes(b"mine")
    others = everything_in(tmp_path)
    (tmp_path / "journals" / f"{SESSION_ID}.running").write_bytes(b"rubbish")
    journals.set_aside(SESSION_ID)
    write(journals, SESSION_ID, settled=True)
    write(journals, SESSION_ID)
    journals.clean({OTHER})
    assert everything_in(tmp_path) == {**others, "quarantine": None}


@limited
async def test_a_start_cleans_the_journals_of_sessions_removed_by_hand_but_not_of_damaged_ones(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        gone, broken = [await store.create(conversation("q", session_id=name)) for name in (SESSION_ID, OTHER)]
        write(store.journals, SESSION_ID)
        write(store.journals, OTHER)
    file_of(tmp_path, gone).unlink()
    file_of(tmp_path, broken).write_bytes(b"{")
    async with opened(tmp_path) as store:
        assert list(await damaged(store)) == [OTHER]
        assert last(store.journals, SESSION_ID) is None
        assert whole(last(store.journals, OTHER)).entries == ENTRIES


@limited
async def test_a_deleted_sessions_journals_are_gone(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await store.create(conversation("q"))
        fill(store.journals, SESSION_ID)
        await store.delete(SESSION_ID)
    assert [name for name in everything_in(tmp_path) if SESSION_ID in name] == []


# What is made durable


def test_journals_are_synced_while_others_are_begun_and_ended(journals: Journals) -> None:
    over = threading.Event()

    def sync() -> int:
        times = 0
        while not over.is_set():
            journals.sync()
            times += 1
        return times

    def replies(number: int) -> None:
        for _ in range(60):
            write(journals, f"{number:010x}", settled=True)

    with ThreadPoolExecutor(6) as pool:
        syncing = [pool.submit(sync) for _ in range(3)]
        try:
            for done in [pool.submit(replies, number) for number in range(3)]:
                done.result(LIMIT)
        finally:
            over.set()
        assert min(one.result(LIMIT) for one in syncing) > 0
    assert [whole(last(journals, f"{number:010x}")).entries for number in range(3)] == [ENTRIES] * 3
    assert not journals.writing


def test_a_journal_is_synced_as_far_as_it_is_written_and_not_again(journals: Journals) -> None:
    with syncs(lambda descriptor: os.fstat(descriptor).st_size) as seen:
        journal = journals.open(SESSION_ID)
        journal.begin(HEAD)
        sizes = []
        for one in ENTRIES:
            journal.append([one])
            journals.sync()
            journals.sync()
            sizes.append(journal.path.stat().st_size)
        journal.append(ENTRIES)
        journals.end(journal, settled=True)
        journals.sync()
        journal.sync()
    assert seen == sizes
    assert sizes == sorted(set(sizes))
