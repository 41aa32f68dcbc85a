"""A running reply's events in memory: what is packed is what was put in."""

from hypothesis import given
from hypothesis import strategies as st

from mochi_server.domain.event_log import SEGMENT, EventLog
from mochi_server.domain.events import ContentDelta, Done, Entry, StatusEvent, ThinkingDelta, entry

WORDS = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from('\n\r"\\ \x00\x85\u2028\U0001f600'))
EVENTS = st.one_of(
    WORDS.map(ContentDelta),
    WORDS.map(ThinkingDelta),
    st.just(StatusEvent("queued", 1000, 2)),
    st.just(Done(session_id="00000000aa", generation_id="00000000ab", status="complete")),
)
BATCHES = st.lists(st.lists(EVENTS.map(entry), max_size=3 * SEGMENT), max_size=8)


@given(BATCHES, st.integers(0, 10 * SEGMENT), st.integers(1, 3 * SEGMENT))
def test_what_was_put_in_comes_out(batches: list[list[Entry]], seen: int, most: int) -> None:
    log, plain = EventLog(), list[Entry]()
    for batch in batches:
        log.extend(batch)
        plain += batch

        assert len(log) == len(plain)
        assert log.behind(seen, most) == plain[seen : seen + most]
    assert list(log) == plain


@given(BATCHES, st.integers(1, 3 * SEGMENT))
def test_who_reads_on_misses_nothing(batches: list[list[Entry]], most: int) -> None:
    log, plain, read = EventLog(), list[Entry](), list[Entry]()
    for batch in batches:
        log.extend(batch)
        plain += batch
    while part := log.behind(len(read), most):
        read += part

    assert read == plain
