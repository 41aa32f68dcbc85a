"""What keeping running replies safe from a power cut costs: a sync for each of a few, one for all of many."""

import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from mochi_server.ollama.standin import Behaviour, Gate
from tests.chat.clients import parsed, raw_chat, read_events
from tests.costs.one_by_one import watched
from tests.crash.traced import Trace
from tests.server import LIMIT, Server, joined
from tests.standin_thread import StandInThread

FEW, MANY = 3, 40
CALLS = "/^f(data)?sync,syncfs"


def test_the_journals_of_a_few_replies_are_synced_each(tmp_path: Path, standin: StandInThread) -> None:
    trace = synced(tmp_path, standin, FEW)

    assert sum(call.syncs(".running") for call in trace.calls) >= FEW
    assert not any(call.name == "syncfs" for call in trace.calls)


@pytest.mark.skipif(sys.platform != "linux", reason="no other system has the call")
def test_the_journals_of_many_replies_are_synced_in_one_go(tmp_path: Path, standin: StandInThread) -> None:
    trace = synced(tmp_path, standin, MANY)

    assert any(call.name == "syncfs" for call in trace.calls)
    # While the tokens come in, a few replies may have theirs before the others.
    assert sum(call.syncs(".running") for call in trace.calls) < MANY


def synced(tmp_path: Path, standin: StandInThread, count: int) -> Trace:
    """What is synced between two tokens of so many replies that run at a time."""
    said = ("one ", "two ", "three ")
    gate = Gate(1, 2)
    standin.script(*[Behaviour(pieces=said, gate=gate)] * count)
    with (
        Server(tmp_path, standin.url, "--max-concurrent", str(count)) as server,
        ExitStack() as stack,
    ):
        paths = [f"/chat/{server.new_session()}/stream" for _ in range(count)]
        clients = [stack.enter_context(raw_chat(server, path, {"message": "hi"})) for path in paths]
        for client in clients:
            read_events(client, 1)
        with watched(server, tmp_path, CALLS) as trace:
            gate.open(1)
            for client in clients:
                read_events(client, 2)
            _wait_until_synced(tmp_path / "trace", count)
        gate.open()
        for client in clients:
            assert joined(parsed(client.read_rest().body)) == "".join(said)
    return trace


def _wait_until_synced(trace: Path, count: int) -> None:
    end = time.monotonic() + LIMIT
    while "syncfs(" not in (text := trace.read_text("utf-8")) and text.count(".running>") < count:
        assert time.monotonic() < end, "nothing is synced"
        time.sleep(0.05)
