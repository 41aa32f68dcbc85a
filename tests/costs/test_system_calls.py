"""What a token costs in system calls: those of a reply whose tokens come alone, and of one whose come together."""

import itertools
from collections import Counter
from pathlib import Path
from statistics import median

import pytest

from mochi_server.ollama.standin import Behaviour, Gate
from tests.costs.one_by_one import pieces, say_one_by_one, to_a_client, warm, watched
from tests.crash.traced import Call, Trace
from tests.server import Server, joined
from tests.standin_thread import StandInThread

TOKENS = 25
WAIT_AND_READ = 2
"""Calls in which a token comes in: the event loop waits for it, and reads it."""

_OF_FILES = (
    *("open", "creat", "access", "faccess", "stat", "lstat", "fstat", "newfstat", "getdents", "readlink", "ftruncate"),
    *("fsync", "fdatasync", "rename", "link", "unlink", "mkdir", "rmdir", "flock"),
)


@pytest.mark.parametrize("listeners", [1, 3])
def test_a_token_is_written_once_to_its_journal_and_once_to_each_listener(
    server: Server, standin: StandInThread, tmp_path: Path, listeners: int
) -> None:
    gaps = between_all_tokens(server, standin, tmp_path, listeners)
    assert [sum(call.writes(".running") for call in gap) for gap in gaps] == [1] * len(gaps)
    assert [sum(to_a_client(server, call) for call in gap) for gap in gaps] == [listeners] * len(gaps)


@pytest.mark.parametrize("listeners", [1, 3])
def test_a_token_costs_four_system_calls_and_one_for_each_further_listener(
    server: Server, standin: StandInThread, tmp_path: Path, listeners: int
) -> None:
    gaps = between_all_tokens(server, standin, tmp_path, listeners)
    # The middle: what is done every half second, such as the journal's sync, may fall between any two tokens.
    usual = median(len(gap) for gap in gaps)
    assert usual <= WAIT_AND_READ + 1 + listeners, told(gaps)


def test_while_tokens_flow_the_event_loop_opens_reads_and_syncs_nothing(
    server: Server, standin: StandInThread, tmp_path: Path
) -> None:
    warm(server)
    said = pieces(TOKENS)

    with watched(server, tmp_path) as trace:
        say_one_by_one(server, standin, said)

    calls = [call for gap in between_tokens(trace, said) for call in gap if call.thread == server.process.pid]
    assert calls
    assert [call.text for call in calls if waits_for_a_disk(call)] == []


def test_tokens_that_come_together_are_one_write(server: Server, standin: StandInThread, tmp_path: Path) -> None:
    warm(server)
    session = server.new_session()
    said = pieces(60)
    gate = Gate(10)
    standin.script(Behaviour(pieces=said, coalesce=True, gate=gate))

    with watched(server, tmp_path) as trace, server.stream(f"/chat/{session}/stream", {"message": "say it"}) as events:
        first = [next(events) for _ in range(10)]
        gate.open()
        assert joined([*first, *events]) == "".join(said)

    deltas = [call for call in trace.calls if call.writes(".running", "content_delta")]
    assert len(deltas) == 2, "the ten, and the fifty"
    sent = [call for call in trace.calls if to_a_client(server, call) and "event: content_delta" in call.text]
    assert len(sent) == 2


def between_all_tokens(server: Server, standin: StandInThread, tmp_path: Path, listeners: int) -> list[list[Call]]:
    """What a warm server calls between the tokens of one reply that so many listen to."""
    warm(server)
    said = pieces(TOKENS)
    with watched(server, tmp_path) as trace:
        say_one_by_one(server, standin, said, listeners)
    return between_tokens(trace, said)


def between_tokens(trace: Trace, said: tuple[str, ...]) -> list[list[Call]]:
    """What was done for each token but the first: the calls behind those for the one before, up to the last for it."""
    ends = [
        max(call.ended for call in trace.calls if call.sends(piece) or call.writes(".running", piece)) for piece in said
    ]
    return [[call for call in trace.all if start < call.ended <= end] for start, end in itertools.pairwise(ends)]


def waits_for_a_disk(call: Call) -> bool:
    """Whether it has to do with a file, but for the one write to the journal."""
    if call.name in {"read", "pread64", "readv"} or call.name.startswith("write"):
        return "</" in call.text.partition(",")[0] and not call.writes(".running")
    return call.name.startswith(_OF_FILES)


def told(gaps: list[list[Call]]) -> str:
    """The names of the calls for a token, the most usual first."""
    return str(Counter(" ".join(sorted(call.name for call in gap)) for gap in gaps).most_common(3))
