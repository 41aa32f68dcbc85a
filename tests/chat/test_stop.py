"""Stop: what had come is kept, nothing else changes, and Ollama is told at once."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from mochi_server.ollama.standin import LOADING, Behaviour, Gate
from tests.chat.clients import asked, ending, generating, last_message
from tests.server import Server, joined, names
from tests.standin_thread import StandInThread
from tests.tiny_models import HELLO

SAID = "".join(HELLO)


def test_a_stop_in_mid_reply_keeps_what_had_come(server: Server, standin: StandInThread) -> None:
    session, abandoned = server.new_session(), standin.abandoned
    standin.script(Behaviour(pieces=("a", "b", "c"), gate=Gate(2)))

    with server.stream(f"/chat/{session}/stream", {"message": "hi"}) as events:
        first = [next(events), next(events)]
        stopped = server.ok("POST", f"/chat/{session}/stop")
        at_once = last_message(server, session)
        complete, done = [*events]

    generation = first[0].id.rpartition("-")[0]
    assert stopped == {"stopped": True, "generation_id": generation, "message_id": at_once["message_id"]}
    assert ending(at_once) == ("ab", "interrupted", "stopped")
    assert (complete.name, complete.data["message_id"]) == ("message_complete", at_once["message_id"])
    assert (complete.data["status"], complete.data["done_reason"]) == ("interrupted", "stopped")
    assert done.data == {"session_id": session, "generation_id": generation, "status": "interrupted"}
    standin.wait_until(lambda s: s.abandoned == abandoned + 1)


def test_a_stopped_whole_reply_is_answered_with_what_had_come(server: Server, standin: StandInThread) -> None:
    session = server.new_session()
    standin.script(Behaviour(pieces=("a", "b"), gate=Gate(1)))

    with asked(server, (f"/chat/{session}", {"message": "hi"})) as (reply,):
        generation = generating(server, session)
        stopped = server.ok("POST", f"/chat/{session}/stop", {"generation_id": generation})
        response = reply.result()

    assert response.status_code == 200
    message = response.json()["message"]
    assert message == last_message(server, session)
    assert ending(message) == ("a", "interrupted", "stopped")
    assert stopped["message_id"] == message["message_id"]


@pytest.mark.parametrize("place", [LOADING, 0])
def test_a_stop_before_the_first_token_saves_nothing(server: Server, standin: StandInThread, place: int) -> None:
    session, abandoned, gate = server.new_session(), standin.abandoned, Gate(place)
    standin.script(Behaviour(gate=gate))

    with server.stream(f"/chat/{session}/stream", {"message": "hi"}) as events:
        gate.wait(place)
        stopped = server.ok("POST", f"/chat/{session}/stop", {})
        (done,) = [*events]

    assert (done.name, done.data["status"]) == ("done", "interrupted")
    assert done.id == f"{done.data['generation_id']}-1"
    assert stopped == {"stopped": True, "generation_id": done.data["generation_id"], "message_id": None}
    assert server.contents(session) == [("user", "hi")]
    standin.wait_until(lambda s: s.abandoned == abandoned + 1)
    server.ok("POST", f"/chat/{session}", {"message": None})
    assert server.contents(session) == [("user", "hi"), ("assistant", SAID)]


def test_a_whole_reply_stopped_before_its_first_token_is_no_message(server: Server, standin: StandInThread) -> None:
    session, gate = server.new_session(), Gate()
    standin.script(Behaviour(gate=gate))

    with asked(server, (f"/chat/{session}", {"message": "hi"})) as (reply,):
        gate.wait()
        server.ok("POST", f"/chat/{session}/stop")
        response = reply.result()

    assert response.status_code == 200
    answer = response.json()
    assert (answer["session_id"], answer["message"]) == (session, None)
    assert set(answer) == {"session_id", "message", "tool_calls_executed", "context_window"}
    assert server.contents(session) == [("user", "hi")]


def test_a_stale_id_stops_nothing(server: Server, standin: StandInThread) -> None:
    session, gate = server.new_session(), Gate(1)
    earlier = server.events(f"/chat/{session}/stream", {"message": "one"})[-1].data["generation_id"]
    standin.script(Behaviour(gate=gate))

    with server.stream(f"/chat/{session}/stream", {"message": "two"}) as events:
        next(events)
        for generation in (earlier, "0123456789"):
            assert server.ok("POST", f"/chat/{session}/stop", {"generation_id": generation})["stopped"] is False
        gate.open()
        assert [*events][-1].data["status"] == "complete"


def test_where_nothing_runs_nothing_is_stopped(server: Server) -> None:
    session = server.new_session()
    nothing = {"stopped": False, "generation_id": None, "message_id": None}

    assert server.ok("POST", f"/chat/{session}/stop") == nothing
    server.ok("POST", f"/chat/{session}", {"message": "hi"})
    assert server.ok("POST", f"/chat/{session}/stop", {"generation_id": None}) == nothing
    assert server.error("POST", "/chat/0123456789/stop")[:2] == (404, "session_not_found")
    assert server.contents(session) == [("user", "hi"), ("assistant", SAID)]


def test_two_stops_at_once_are_one(server: Server, standin: StandInThread) -> None:
    session = server.new_session()
    standin.script(Behaviour(pieces=("a", "b"), gate=Gate(1)))

    with server.stream(f"/chat/{session}/stream", {"message": "hi"}) as events:
        next(events)
        path = f"/chat/{session}/stop"
        with asked(server, *[(path, {})] * 4) as stops:
            told = [stop.result().json() for stop in stops]
        complete, _ = [*events]

    ids = {stop["message_id"] for stop in told if stop["stopped"]}
    assert ids == {complete.data["message_id"]}
    assert [m["role"] for m in server.file(session)["messages"]] == ["user", "assistant"]


def test_after_a_stop_the_session_goes_on(server: Server, standin: StandInThread) -> None:
    session = server.new_session()
    standin.script(Behaviour(pieces=("a", "b"), gate=Gate(1)))
    with server.stream(f"/chat/{session}/stream", {"message": "hi"}) as events:
        next(events)
        server.ok("POST", f"/chat/{session}/stop")
        assert names([*events]) == ["message_complete", "done"]

    server.ok("POST", f"/chat/{session}", {"message": "and?"})

    assert [m["content"] for m in standin.chats[-1].json["messages"]] == ["hi", "a", "and?"]


def test_deleting_a_session_stops_its_reply_first(server: Server, standin: StandInThread) -> None:
    session, abandoned = server.new_session(), standin.abandoned
    standin.script(Behaviour(gate=Gate(1)))

    with server.stream(f"/chat/{session}/stream", {"message": "hi"}) as events:
        next(events)
        server.ok("DELETE", f"/sessions/{session}")
        assert [*events][-1].name == "done"

    standin.wait_until(lambda s: s.abandoned == abandoned + 1)
    assert not (server.sessions / f"{session}.json").exists()
    assert server.error("GET", f"/sessions/{session}")[:2] == (404, "session_not_found")


@pytest.fixture
def strict(tmp_path: Path, standin: StandInThread) -> Iterator[Server]:
    """A server on which a reply may have 20 characters and take a second."""
    environment = {"MOCHI_MAX_REPLY_CHARS": "20", "MOCHI_MAX_REPLY_SECONDS": "1"}
    with Server(tmp_path, standin.url, environment=environment) as server:
        yield server


@pytest.mark.parametrize("way", [{"pieces": ("12345",) * 50_000}, {"pieces": ("12345", "6"), "gate": Gate(1)}])
def test_a_reply_over_a_limit_of_ours_ends_and_says_so(
    strict: Server, standin: StandInThread, way: dict[str, object]
) -> None:
    session = strict.new_session()
    standin.script(Behaviour(**way))  # type: ignore[arg-type]

    events = strict.events(f"/chat/{session}/stream", {"message": "hi"})

    assert names(events) == ["content_delta", "message_complete", "done"]
    complete, done = events[-2:]
    saved = last_message(strict, session)
    assert (complete.data["done_reason"], saved["done_reason"]) == ("length", "length")
    assert complete.data["status"] == saved["status"] == done.data["status"]
    assert saved["content"] == joined(events)
    assert len(saved["content"]) < 100_000
    standin.wait_until_idle()


def test_a_reply_that_had_no_token_in_all_its_time_is_a_timeout(strict: Server, standin: StandInThread) -> None:
    session = strict.new_session()
    standin.script(Behaviour(gate=Gate()))

    assert strict.error("POST", f"/chat/{session}", {"message": "hi"})[:2] == (504, "ollama_timeout")

    assert strict.contents(session) == [("user", "hi")]
    standin.wait_until_idle()


@pytest.mark.parametrize("damaged", [True, False], ids=["damaged", "removed"])
def test_a_reply_whose_file_is_gone_can_be_stopped(server: Server, standin: StandInThread, damaged: bool) -> None:
    session, file = server.new_session(), b"{"
    standin.script(Behaviour(pieces=("a", "b"), gate=Gate(1)))
    path = server.sessions / f"{session}.json"

    with server.stream(f"/chat/{session}/stream", {"message": "hi"}) as events:
        next(events)
        if damaged:
            path.write_bytes(file)
        else:
            path.unlink()
            assert server.error("POST", "/sessions", {"session_id": session})[:2] == (409, "session_exists")
        refused = server.error("POST", f"/chat/{session}/stop")
        error, done = [*events]

    told = (409, "session_damaged") if damaged else (404, "session_not_found")
    assert refused[:2] == told
    assert (error.data["code"], done.data["status"]) == (told[1], "error")
    standin.wait_until_idle()
    assert path.exists() == damaged
    if damaged:
        assert path.read_bytes() == file
        path.unlink()
