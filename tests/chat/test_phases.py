"""What a client is told while nothing can flow yet, and how little Ollama is asked for it.

Each takes a second or more: nothing is told before, and no more often.
"""

import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mochi_server.ollama.standin import LOADING, Behaviour, Gate, StandIn
from tests.chat.clients import asked, eventually, parsed, read_events
from tests.chat.listeners import listening
from tests.chat.waiting import BOUNDED, generation, occupied, queued, wait_for_positions
from tests.raw_http import RawClient, chatting
from tests.server import Event, Server, names
from tests.standin_thread import StandInThread
from tests.tiny_models import HELLO, tiny_models

SAID = "".join(HELLO)
ENVIRONMENT = {"MOCHI_MAX_CONCURRENT": "3", **BOUNDED}


@pytest.fixture(scope="module")
def standin() -> Iterator[StandInThread]:
    """One that has `tiny` under another name, too."""
    tiny = next(model for model in tiny_models() if model.name == "tiny:latest")
    with StandInThread(StandIn([*tiny_models(), msgspec.structs.replace(tiny, name="other-name:latest")])) as standin:
        yield standin


@pytest.fixture
def single(tmp_path: Path, standin: StandInThread) -> Iterator[Server]:
    """A server with room for one reply at a time."""
    with Server(tmp_path, standin.url, "--max-concurrent", "1", environment=BOUNDED) as server:
        yield server


@pytest.fixture(autouse=True)
def nothing_loaded(standin: StandInThread) -> None:
    """Each test finds Ollama as it is right after its start, and in good health."""
    standin.close()
    standin.start()
    standin.standin.ps_status, standin.standin.ps_delay = 200, 0


def looks(standin: StandInThread) -> int:
    """How often `/api/ps` was asked for."""
    return sum(request.path == "/api/ps" for request in standin.requests)


def told(client: RawClient) -> list[Event]:
    """The status events so far, or in all."""
    body = client.answer.body
    return [event for event in parsed(body[: body.rindex(b"\n\n") + 2]) if event.name == "status"]


def read_phase(client: RawClient, phase: str) -> Event:
    """Read on until this phase is told."""
    while f'"phase":"{phase}"'.encode() not in client.answer.body:
        assert client.read_chunk(), f"the stream ended without {phase}"
    return next(event for event in told(client) if event.data["phase"] == phase)


def check_pace(events: list[Event]) -> None:
    """At most one a second, none in the first, each later than the one before, and in the stream without a gap."""
    elapsed = [event.data["elapsed_ms"] for event in events]
    assert elapsed[0] >= (100 if events[0].data["phase"] == "queued" else 1000)
    assert all(later - earlier >= 990 for earlier, later in pairwise(elapsed))
    assert [event.id.rpartition("-")[2] for event in events] == [str(n) for n in range(1, len(events) + 1)]


def test_loading_and_prefill_are_told_as_ollama_shows_them(server: Server, standin: StandInThread) -> None:
    session, gate = server.new_session(), Gate(LOADING, 0)
    standin.script(Behaviour(gate=gate))

    with queued(server, session) as (client,):
        loading = read_phase(client, "loading")
        assert (generation(server, session) or {})["phase"] == "loading"
        gate.open(LOADING)
        prefill = read_phase(client, "prefill")
        assert (generation(server, session) or {})["phase"] == "prefill"
        gate.open()
        events = parsed(client.read_rest().body)

    check_pace(told(client))
    assert prefill.data["elapsed_ms"] > loading.data["elapsed_ms"]
    assert set(loading.data) == set(prefill.data) == {"phase", "elapsed_ms"}
    assert names(events) == ["status", "content_delta", "message_complete", "done"]


def test_a_loaded_model_is_not_said_to_be_loading(server: Server, standin: StandInThread) -> None:
    session, gate = server.new_session(), Gate(0)
    server.ok("POST", f"/chat/{session}", {"message": "first"})
    standin.script(Behaviour(gate=gate))

    with queued(server, session) as (client,):
        read_phase(client, "prefill")
        gate.open()
        client.read_rest()

    assert {event.data["phase"] for event in told(client)} == {"prefill"}


def test_a_model_that_is_loaded_under_another_name_is_not_said_to_be_loading(
    server: Server, standin: StandInThread
) -> None:
    server.ok("POST", "/chat", {"message": "first", "model": "tiny"})
    session, gate = server.new_session(model="other-name"), Gate(0)
    standin.script(Behaviour(gate=gate))

    with queued(server, session) as (client,):
        read_phase(client, "prefill")
        gate.open()
        client.read_rest()

    assert {event.data["phase"] for event in told(client)} == {"prefill"}


def test_behind_another_reply_of_its_model_a_reply_waits_and_then_it_does_not(
    server: Server, standin: StandInThread
) -> None:
    session, gate = server.new_session(), Gate(0)

    with occupied(server, standin) as first:
        standin.script(Behaviour(gate=gate))
        with queued(server, session) as (client,):
            read_phase(client, "waiting")
            first.open()
            read_phase(client, "prefill")
            gate.open()
            client.read_rest()

    check_pace(told(client))


def test_a_reply_waits_for_whoever_has_its_model_loaded_otherwise(server: Server, standin: StandInThread) -> None:
    session, theirs = server.new_session(options={"num_ctx": 512}), Gate(1)
    standin.script(Behaviour(gate=theirs))

    with chatting(standin.url, options={"num_ctx": 256}) as somebody_else:
        theirs.wait(1)
        with queued(server, session) as (client,):
            read_phase(client, "waiting")
            theirs.open()
            client.read_rest()
        somebody_else.read_rest()

    assert {event.data["phase"] for event in told(client)} == {"waiting"}


def test_where_ollama_does_not_tell_a_reply_is_said_to_wait(server: Server, standin: StandInThread) -> None:
    session, gate = server.new_session(), Gate(LOADING)
    standin.script(Behaviour(gate=gate))
    standin.standin.ps_status = 500

    with queued(server, session) as (client,):
        read_phase(client, "waiting")
        gate.open()
        events = parsed(client.read_rest().body)

    assert names(events) == ["status", "content_delta", "message_complete", "done"]


def test_in_the_queue_the_place_is_told_and_then_what_ollama_shows(single: Server, standin: StandInThread) -> None:
    sessions, gate = [single.new_session() for _ in range(2)], Gate(0)

    with occupied(single, standin) as first, queued(single, *sessions) as clients:
        assert [read_phase(client, "queued").data["position"] for client in clients] == [1, 2]
        assert (generation(single, sessions[1]) or {}).keys() == {"generation_id", "phase", "age_ms", "position"}
        standin.script(Behaviour(gate=gate))
        first.open()
        wait_for_positions(single, sessions, [None, 1])
        prefill = read_phase(clients[0], "prefill")
        gate.open()
        for client in clients:
            client.read_rest()

    assert "position" not in prefill.data
    for client in clients:
        check_pace(told(client))


def test_while_all_wait_here_ollama_is_not_asked(single: Server, standin: StandInThread) -> None:
    session, before = single.new_session(), looks(standin)

    with occupied(single, standin) as gate, queued(single, session) as (client,):
        read_events(client, 3)
        asked = looks(standin) - before
        gate.open()
        client.read_rest()

    assert {event.data["phase"] for event in told(client)} == {"queued"}
    assert asked <= 1  # once the first had begun, for the window that it is in


def test_where_replies_begin_at_once_nothing_is_told_and_ollama_asked_for_its_window_at_most_once_a_second(
    server: Server, standin: StandInThread
) -> None:
    before, began = looks(standin), time.monotonic()

    for n in range(20):
        events = server.events("/chat/stream", {"message": f"hi {n}"})
        assert names(events) == ["content_delta", "message_complete", "done"]

    assert looks(standin) - before <= time.monotonic() - began + 1


def test_ollama_is_not_asked_in_a_replys_first_second(single: Server, standin: StandInThread) -> None:
    eventually(lambda: looks(standin) or None)  # the one at the start
    session, gate, before = single.new_session(), Gate(LOADING), looks(standin)
    standin.script(Behaviour(gate=gate))

    def look() -> dict[str, Any] | None:
        if looks(standin) == before:
            return None
        running = generation(single, session)  # looked at later, so its age is at least what it was then
        assert running is not None
        assert running["age_ms"] >= 1000
        return running

    with queued(single, session) as (client,):
        eventually(look)
        gate.open()
        client.read_rest()


@pytest.mark.parametrize("delay", [0, 0.3])
def test_many_that_wait_are_told_from_one_look_a_second(tmp_path: Path, standin: StandInThread, delay: float) -> None:
    gate, before = Gate(LOADING), looks(standin)
    standin.script(*[Behaviour(gate=gate)] * 3)
    standin.standin.ps_delay = delay

    with Server(tmp_path, standin.url) as server, queued(server, *[server.new_session() for _ in range(3)]) as clients:
        for client in clients:
            read_events(client, 2)
        gate.open()
        for client in clients:
            client.read_rest()

    assert [event.data["phase"] for client in clients for event in told(client)[:2]] == ["loading"] * 6
    assert 2 <= looks(standin) - before <= 4  # one of them when the server started


def test_behind_the_first_token_nothing_is_told_and_ollama_asked_only_for_the_window(
    server: Server, standin: StandInThread
) -> None:
    sessions, first, second = [server.new_session() for _ in range(2)], Gate(0, 1), Gate(LOADING)
    standin.script(Behaviour(gate=first))

    with queued(server, sessions[0]) as (client,):
        read_phase(client, "prefill")
        first.open(0)
        read_events(client, len(told(client)) + 1)
        before = looks(standin)
        standin.script(Behaviour(gate=second))
        with queued(server, sessions[1]) as (other,):
            read_events(other, 2)  # and so more than two seconds have passed
            second.open()
            other.read_rest()
        asked_for = looks(standin) - before
        first.open()
        events = parsed(client.read_rest().body)

    assert names(events) == ["status", "content_delta", "message_complete", "done"]
    assert asked_for <= len(told(other)) + 1


def test_the_whole_form_waits_without_a_word_and_its_status_is_told(server: Server, standin: StandInThread) -> None:
    session, gate = server.new_session(), Gate(LOADING)
    standin.script(Behaviour(gate=gate))

    with asked(server, (f"/chat/{session}", {"message": "hi"})) as (reply,):
        eventually(lambda: (generation(server, session) or {}).get("phase") == "loading" or None)
        gate.open()
        assert reply.result().json()["message"]["content"] == SAID


def test_who_joins_later_is_told_the_phases_of_before(server: Server, standin: StandInThread) -> None:
    session, gate = server.new_session(), Gate(LOADING)
    standin.script(Behaviour(gate=gate))

    with queued(server, session) as (client,):
        read_phase(client, "loading")
        with listening(server, session) as other:
            read_events(other, 1)
            assert told(other) == told(client)
            gate.open()
            assert other.read_rest().body == client.read_rest().body


def test_a_reply_stopped_while_it_waits_is_told_no_more(server: Server, standin: StandInThread) -> None:
    session, gate = server.new_session(), Gate(LOADING)
    standin.script(Behaviour(gate=gate))

    with queued(server, session) as (client,):
        read_phase(client, "loading")
        server.ok("POST", f"/chat/{session}/stop")
        events = parsed(client.read_rest().body)

    assert names(events) == ["status", "done"]
    assert events[-1].data["status"] == "interrupted"
    standin.wait_until_idle()
