"""Who may talk to Ollama, who waits for that, and who is told to come back: with room for two, and three that wait."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from mochi_server.ollama.standin import Behaviour, Gate
from tests.chat.clients import asked, eventually, idle, noticed_leaving, parsed, raw_chat
from tests.chat.keyed import IN_A_SESSION, ONE_CALL, messages_asked
from tests.chat.waiting import BOUNDED, generation, occupied, positions, queued, wait_for_positions
from tests.server import LIMIT, Server, names, told
from tests.standin_thread import StandInThread
from tests.tiny_models import HELLO

SAID = "".join(HELLO)
ENVIRONMENT = {"MOCHI_MAX_CONCURRENT": "2", "MOCHI_MAX_QUEUE": "3", "MOCHI_DISCONNECT_GRACE": "0.1", **BOUNDED}
FORMS = {**{f"session, {name}": path for name, path in IN_A_SESSION.items()}, **ONE_CALL}


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory, standin: StandInThread) -> Iterator[Server]:
    """A server with room for one, on which a client that has left is long waited for."""
    environment = {"MOCHI_MAX_CONCURRENT": "1", "MOCHI_DISCONNECT_GRACE": "3600", **BOUNDED}
    with Server(tmp_path_factory.mktemp("patient"), standin.url, environment=environment) as server:
        yield server


def sessions_of(server: Server, count: int) -> list[str]:
    return [server.new_session() for _ in range(count)]


def test_no_more_than_the_limit_are_at_ollama_and_the_others_wait_in_order(
    server: Server, standin: StandInThread
) -> None:
    sessions, chats = sessions_of(server, 3), len(standin.chats)

    with occupied(server, standin, 2) as gate, queued(server, *sessions) as clients:
        wait_for_positions(server, sessions, [1, 2, 3])
        assert (standin.active, len(standin.chats)) == (2, chats + 2)
        gate.open()
        ends = [parsed(client.read_rest().body)[-1] for client in clients]

    assert [end.data["status"] for end in ends] == ["complete"] * 3
    assert len(standin.chats) == chats + 5


def test_who_came_first_is_let_in_first(patient: Server, standin: StandInThread) -> None:
    sessions, chats, gates = sessions_of(patient, 4), len(standin.chats), [Gate() for _ in range(4)]

    with occupied(patient, standin) as gate, queued(patient, *sessions) as clients:
        wait_for_positions(patient, sessions, [1, 2, 3, 4])
        standin.script(*[Behaviour(gate=one) for one in gates])
        gate.open()
        for n, one in enumerate(gates):
            one.wait()
            left: list[int | None] = [*range(1, 4 - n)]
            assert positions(patient, *sessions[n:]) == [None, *left]
            assert standin.active == 1
            one.open()
        for client in clients:
            client.read_rest()

    assert messages_asked(standin)[chats + 1 :] == [f"hi from {session}" for session in sessions]


def told_positions(raw: bytes) -> list[int]:
    return [e.data["position"] for e in parsed(raw) if e.name == "status" and e.data["phase"] == "queued"]


def test_the_place_in_the_queue_is_told(patient: Server, standin: StandInThread) -> None:
    sessions = sessions_of(patient, 3)

    with occupied(patient, standin) as gate, queued(patient, *sessions) as clients:
        for client in clients:
            while b'"position"' not in client.answer.body:
                assert client.read_chunk()
        gate.open()
        told_to = [told_positions(client.read_rest().body) for client in clients]

    assert [positions[0] for positions in told_to] == [1, 2, 3]
    assert all(positions == sorted(positions, reverse=True) for positions in told_to)


def everything_saved(server: Server) -> dict[str, bytes]:
    """Each session's file, and the names of all journals and keys."""
    files = {file.name: file.read_bytes() for file in server.sessions.glob("*.json")}
    inner = {file.name: b"" for kind in ("journals", "keys") for file in server.sessions.glob(f".mochi/{kind}/*")}
    return files | inner


@pytest.mark.parametrize("path", FORMS.values(), ids=FORMS)
def test_beyond_the_queue_a_request_is_refused_at_once_and_nothing_saved(
    server: Server, standin: StandInThread, path: str
) -> None:
    sessions, beyond = sessions_of(server, 3), server.new_session()

    with occupied(server, standin, 2) as gate, queued(server, *sessions) as clients:
        wait_for_positions(server, sessions, [1, 2, 3])
        saved, listed = everything_saved(server), server.ok("GET", "/sessions")["total"]
        asked_of_ollama = len(standin.requests)

        for headers in ({}, {"idempotency_key": "mine"}):
            response = server.call("POST", path.format(beyond), {"message": "hi"}, **headers)
            assert told(response)[:2] == (503, "queue_full")
            assert int(response.headers["retry-after"]) > 0

        assert {request.path for request in standin.requests[asked_of_ollama:]} <= {"/api/ps"}
        assert everything_saved(server) == saved
        assert server.ok("GET", "/sessions")["total"] == listed
        assert server.contents(beyond) == []
        assert generation(server, beyond) is None
        gate.open()
        for client in clients:
            client.read_rest()

    assert server.call("POST", path.format(beyond), {"message": "hi"}).is_success


def test_a_session_holds_one_place_only(server: Server, standin: StandInThread) -> None:
    sessions = sessions_of(server, 2)

    with occupied(server, standin, 2) as gate, queued(server, *sessions) as clients:
        wait_for_positions(server, sessions, [1, 2])
        for _ in range(5):
            assert server.error("POST", f"/chat/{sessions[0]}", {"message": "and?"})[:2] == (409, "session_busy")
        assert positions(server, *sessions) == [1, 2]
        with queued(server, server.new_session()) as (third,):  # the queue has room for it
            gate.open()
            for client in (*clients, third):
                client.read_rest()


def test_a_queued_client_that_stays_away_frees_its_place(server: Server, standin: StandInThread) -> None:
    sessions, chats = sessions_of(server, 3), len(standin.chats)

    with occupied(server, standin, 2) as gate, queued(server, *sessions) as clients:
        wait_for_positions(server, sessions, [1, 2, 3])
        clients[0].leave()
        wait_for_positions(server, sessions, [None, 1, 2])
        assert generation(server, sessions[0]) is None
        gate.open()
        for client in clients[1:]:
            client.read_rest()

    assert len(standin.chats) == chats + 4
    assert server.contents(sessions[0]) == [("user", f"hi from {sessions[0]}")]
    assert server.ok("POST", f"/chat/{sessions[0]}", {"message": None})["message"]["content"] == SAID


def test_a_queued_client_that_drops_keeps_its_place_through_the_grace(patient: Server, standin: StandInThread) -> None:
    sessions = sessions_of(patient, 2)
    path = f"/chat/{sessions[0]}/stream"

    with occupied(patient, standin) as gate, queued(patient, *sessions) as (first, second):
        wait_for_positions(patient, sessions, [1, 2])
        first.leave()
        noticed_leaving(patient, path)
        assert positions(patient, *sessions) == [1, 2]
        gate.open()
        with patient.client.stream("GET", f"/api/v1{path}") as response:
            events = parsed(response.read())
        second.read_rest()

    assert names(events)[-3:] == ["content_delta", "message_complete", "done"]


def test_a_queued_reply_that_nobody_listens_to_makes_room_for_the_next_message(
    patient: Server, standin: StandInThread
) -> None:
    sessions, chats = sessions_of(patient, 2), len(standin.chats)
    path = f"/chat/{sessions[0]}/stream"

    with occupied(patient, standin) as gate, queued(patient, *sessions) as (first, second):
        wait_for_positions(patient, sessions, [1, 2])
        first.leave()
        noticed_leaving(patient, path)
        with asked(patient, (f"/chat/{sessions[0]}", {"message": "another"})) as (reply,):
            wait_for_positions(patient, sessions, [2, 1])
            gate.open()
            assert reply.result().json()["message"]["content"] == SAID
        second.read_rest()

    assert messages_asked(standin)[chats + 1 :] == [f"hi from {sessions[1]}", "another"]
    assert [content for _, content in patient.contents(sessions[0])] == [f"hi from {sessions[0]}", "another", SAID]


def test_a_queued_reply_can_be_stopped(patient: Server, standin: StandInThread) -> None:
    streamed, whole, other = sessions_of(patient, 3)
    chats = len(standin.chats)

    with (
        occupied(patient, standin) as gate,
        queued(patient, streamed) as (client,),
        asked(patient, (f"/chat/{whole}", {"message": "hi"})) as (reply,),
    ):
        wait_for_positions(patient, [streamed, whole], [1, 2])
        with queued(patient, other) as (last,):
            wait_for_positions(patient, [streamed, whole, other], [1, 2, 3])
            for session in (whole, streamed):
                stopped = patient.ok("POST", f"/chat/{session}/stop")
                assert (stopped["stopped"], stopped["message_id"]) == (True, None)
            assert positions(patient, other) == [1]
            events = parsed(client.read_rest().body)
            assert reply.result().json()["message"] is None
            gate.open()
            last.read_rest()

    assert [kind for kind in names(events) if kind != "status"] == ["done"]
    assert events[-1].data["status"] == "interrupted"
    assert len(standin.chats) == chats + 2
    assert patient.contents(whole) == [("user", "hi")]


def test_deleting_a_session_takes_its_reply_out_of_the_queue(patient: Server, standin: StandInThread) -> None:
    sessions, chats = sessions_of(patient, 2), len(standin.chats)

    with occupied(patient, standin) as gate, queued(patient, *sessions) as (client, last):
        wait_for_positions(patient, sessions, [1, 2])
        patient.ok("DELETE", f"/sessions/{sessions[0]}")
        assert positions(patient, sessions[1]) == [1]
        assert parsed(client.read_rest().body)[-1].name == "done"
        gate.open()
        last.read_rest()

    assert len(standin.chats) == chats + 2
    assert [*patient.sessions.rglob(f"*{sessions[0]}*")] == []


@pytest.fixture
def impatient(tmp_path: Path, standin: StandInThread) -> Iterator[Server]:
    """A server with room for one, on which nobody waits for longer than 0.3 s."""
    environment = {**BOUNDED, "MOCHI_MAX_CONCURRENT": "1", "MOCHI_QUEUE_TIMEOUT": "0.3"}
    with Server(tmp_path, standin.url, environment=environment) as server:
        yield server


def test_who_has_waited_too_long_is_told_and_the_question_stays(impatient: Server, standin: StandInThread) -> None:
    streamed, whole, chats = impatient.new_session(), impatient.new_session(), len(standin.chats)

    with occupied(impatient, standin) as gate:
        events = impatient.events(f"/chat/{streamed}/stream", {"message": "hi"})
        response = impatient.call("POST", f"/chat/{whole}", {"message": "hi"})
        gate.open()

    assert [kind for kind in names(events) if kind != "status"] == ["error", "done"]
    assert (events[-2].data["code"], events[-1].data["status"]) == ("queue_full", "error")
    assert told(response)[:2] == (503, "queue_full")
    assert int(response.headers["retry-after"]) > 0
    assert len(standin.chats) == chats + 1
    for session in (streamed, whole):
        assert impatient.contents(session) == [("user", "hi")]
        assert impatient.ok("POST", f"/chat/{session}", {"message": None})["message"]["content"] == SAID


RELOADS: dict[str, tuple[dict[str, object], dict[str, object]]] = {
    "num_ctx": ({"num_ctx": 512}, {"num_ctx": 1024}),
    "num_ctx and none": ({}, {"num_ctx": 1024}),
    "num_batch": ({}, {"num_batch": 64}),
    "num_gpu": ({"num_gpu": 0}, {"num_gpu": 1}),
}


@pytest.mark.parametrize(("one", "two"), RELOADS.values(), ids=RELOADS)
def test_what_would_have_the_model_loaded_anew_waits_for_the_others(
    server: Server, standin: StandInThread, one: dict[str, object], two: dict[str, object]
) -> None:
    gate, chats = Gate(1), len(standin.chats)
    standin.script(*[Behaviour(gate=gate)] * 2)
    sessions = [server.new_session(options=options) for options in (one, two)]

    with queued(server, *sessions) as clients:
        gate.wait(1)
        wait_for_positions(server, sessions, [None, 1])
        assert len(standin.chats) == chats + 1
        gate.open()
        ends = [parsed(client.read_rest().body)[-1] for client in clients]

    assert [end.data["status"] for end in ends] == ["complete"] * 2
    assert [request.json.get("options") for request in standin.chats[chats:]] == [one or None, two]


@pytest.mark.parametrize(
    "other",
    [
        {"model": "tiny", "options": {"num_ctx": 512, "seed": 7}},
        {"model": "tiny-unicode", "options": {"num_ctx": 1024}},
    ],
    ids=["the same window", "another model"],
)
def test_what_needs_no_reload_runs_at_the_same_time(
    server: Server, standin: StandInThread, other: dict[str, object]
) -> None:
    gate = Gate(1)
    standin.script(*[Behaviour(gate=gate)] * 2)
    sessions = [server.new_session(options={"num_ctx": 512}), server.new_session(**other)]

    with queued(server, *sessions) as clients:
        gate.wait(1, replies=2)
        assert positions(server, *sessions) == [None, None]
        gate.open()
        ends = [parsed(client.read_rest().body)[-1] for client in clients]

    assert [end.data["status"] for end in ends] == ["complete"] * 2


def test_no_more_wait_than_may_though_a_place_is_free_that_none_of_them_can_have(
    server: Server, standin: StandInThread
) -> None:
    gate = Gate(1)
    standin.script(Behaviour(gate=gate))
    sessions = [server.new_session(options={"num_ctx": 512 if n == 0 else 1024}) for n in range(4)]
    refused = server.new_session()

    with queued(server, *sessions) as clients:
        gate.wait(1)
        wait_for_positions(server, sessions, [None, 1, 2, 3])
        assert server.error("POST", f"/chat/{refused}", {"message": "hi"})[:2] == (503, "queue_full")
        gate.open()
        ends = [parsed(client.read_rest().body)[-1] for client in clients]

    assert [end.data["status"] for end in ends] == ["complete"] * 4
    assert server.contents(refused) == []


def test_a_failed_reply_gives_its_place_back(patient: Server, standin: StandInThread) -> None:
    session = patient.new_session()
    standin.script(*[Behaviour(fault="status")] * 3)

    for _ in range(3):
        assert patient.error("POST", f"/chat/{session}", {"message": "hi"})[:2] == (502, "ollama_error")

    assert patient.ok("POST", f"/chat/{session}", {"message": "hi"})["message"]["content"] == SAID


def test_a_refused_request_gives_its_place_back(server: Server) -> None:
    """Each is refused behind the door where places are given."""
    session = server.new_session()

    for _ in range(10):
        refused = server.error("POST", f"/chat/{session}", {"message": "hi"}, if_match='"0123456789abcdef"')
        assert refused[:2] == (412, "revision_conflict")
        assert server.error("POST", f"/chat/{session}", {"message": None})[:2] == (400, "empty_history")

    assert server.ok("POST", f"/chat/{session}", {"message": "hi"})["message"]["content"] == SAID


def test_at_the_servers_end_every_queued_client_gets_its_done(tmp_path: Path, standin: StandInThread) -> None:
    environment = {"MOCHI_SHUTDOWN_SECONDS": "1", "MOCHI_MAX_CONCURRENT": "1"}
    with Server(tmp_path, standin.url, environment=environment) as server:
        sessions, whole, chats = sessions_of(server, 3), server.new_session(), len(standin.chats)
        with (
            occupied(server, standin),
            queued(server, *sessions) as clients,
            asked(server, (f"/chat/{whole}", {"message": "hi"})) as (reply,),
        ):
            wait_for_positions(server, [*sessions, whole], [1, 2, 3, 4])
            server.process.terminate()
            answers = [client.read_rest() for client in clients]
            assert told(reply.result())[:2] == (503, "shutting_down")
            assert server.process.wait(LIMIT) == 0

    for session, answer in zip(sessions, answers, strict=True):
        *_, error, done = parsed(answer.body)
        assert (error.data["code"], done.data["status"]) == ("shutting_down", "error")
        assert [message["content"] for message in server.file(session)["messages"]] == [f"hi from {session}"]
    assert len(standin.chats) == chats + 1


def test_without_a_queue_nobody_waits(tmp_path: Path, standin: StandInThread) -> None:
    arguments = ("--max-concurrent", "1", "--max-queue", "0")
    with Server(tmp_path, standin.url, *arguments) as server:
        session = server.new_session()
        with occupied(server, standin):
            assert server.error("POST", f"/chat/{session}", {"message": "hi"})[:2] == (503, "queue_full")
        eventually(lambda: standin.active == 0 or None)

        assert server.ok("POST", f"/chat/{session}", {"message": "hi"})["message"]["content"] == SAID


def test_everything_else_is_answered_while_the_queue_is_full(server: Server, standin: StandInThread) -> None:
    sessions, other = sessions_of(server, 3), server.new_session()

    with occupied(server, standin, 2) as gate, queued(server, *sessions) as clients:
        wait_for_positions(server, sessions, [1, 2, 3])
        assert server.client.get("/health").status_code == 200
        server.ok("PATCH", f"/sessions/{sessions[0]}", {"title": "Meanwhile"})
        server.ok("DELETE", f"/sessions/{other}")
        gate.open()
        for client in clients:
            client.read_rest()

    idle(server, sessions[0])
    assert server.ok("GET", f"/sessions/{sessions[0]}")["title"] == "Meanwhile"
    with raw_chat(server, f"/chat/{sessions[0]}/stream", {"message": "and?"}) as client:
        assert names(parsed(client.read_rest().body)) == ["content_delta", "message_complete", "done"]
