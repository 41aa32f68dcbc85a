"""What an `Idempotency-Key` may look like, and that a request which was refused does not use its key up."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from mochi_server.ollama.standin import Behaviour, Gate
from tests.chat.clients import asked, generating, listens_no_more
from tests.chat.keyed import IN_A_SESSION, ONE_CALL, ask, heard, keys_file, new_key, refused
from tests.raw_http import RawClient
from tests.server import API, LIMIT, Server, told
from tests.standin_thread import StandInThread
from tests.tiny_models import HELLO

SAID = "".join(HELLO)
FORMS = {**{f"session, {name}": path for name, path in IN_A_SESSION.items()}, **ONE_CALL}


@pytest.fixture(scope="module")
def lonely(tmp_path_factory: pytest.TempPathFactory, standin: StandInThread) -> Iterator[Server]:
    """A server with room for one reply, and none to wait. It logs next to nothing."""
    arguments = ("--max-concurrent", "1", "--max-queue", "0", "--log-level", "error")
    with Server(tmp_path_factory.mktemp("lonely"), standin.url, *arguments) as server:
        yield server


@pytest.mark.parametrize("key", ["x", "x" * 255, 'say "hi", twice;\\ {}~!', "0f9d-4a?"])
def test_printable_ascii_is_a_key(server: Server, key: str) -> None:
    session = server.new_session()

    assert heard(ask(server, f"/chat/{session}", key)) == heard(ask(server, f"/chat/{session}", key))


@pytest.mark.parametrize(
    "keys",
    [[b""], [b"x" * 256], [b"a\tb"], ["é".encode()], [b"\xe9"], [b"one", b"one"], [b"one", b"two"]],
    ids=["empty", "too long", "tab", "UTF-8", "latin-1", "the same twice", "two"],
)
@pytest.mark.parametrize("path", FORMS.values(), ids=FORMS)
def test_anything_else_is_refused_and_nothing_done(
    server: Server, standin: StandInThread, path: str, keys: list[bytes]
) -> None:
    session, chats = server.new_session(), len(standin.chats)
    sessions = server.ok("GET", "/sessions")["total"]
    headers = [(b"Content-Type", b"application/json"), *[(b"Idempotency-Key", key) for key in keys]]

    response = server.client.post(API + path.format(session), content=b'{"message": "hi"}', headers=headers)

    status, code, details = told(response)
    assert (status, code, details["path"]) == (422, "validation_error", "Idempotency-Key")
    assert len(standin.chats) == chats
    assert server.contents(session) == []
    assert server.ok("GET", "/sessions")["total"] == sessions


def keys_kept(server: Server) -> set[str]:
    """The digests of all keys that are kept."""
    return {one["key"] for file in server.sessions.glob(".mochi/keys/*.json") for one in keys_file(server, file.stem)}


def check_unused(server: Server, path: str, key: str) -> None:
    """The key serves for other words: no request has used it."""
    assert heard(ask(server, path, key, message="Quite other words")).text == SAID


def test_a_busy_session_does_not_use_it_up(server: Server, standin: StandInThread) -> None:
    session, key, gate = server.new_session(), new_key(), Gate(1)
    standin.script(Behaviour(gate=gate))

    with asked(server, (f"/chat/{session}", {"message": "hi"})) as (reply,):
        generating(server, session)
        for path in IN_A_SESSION.values():
            assert refused(ask(server, path.format(session), key)) == (409, "session_busy")
        gate.open()
        assert reply.result().is_success

    check_unused(server, f"/chat/{session}", key)


REFUSALS: dict[str, tuple[dict[str, object], dict[str, str], tuple[int, str]]] = {
    "wrong shape": ({"think": "a lot"}, {}, (422, "validation_error")),
    "unknown field": ({"mesage": "hi"}, {}, (422, "validation_error")),
    "nothing to answer": ({"message": None}, {}, (400, "empty_history")),
    "no thinker": ({"think": True}, {}, (400, "capability_missing")),
    "too long": ({"message": "x" * 1_000_001}, {}, (413, "payload_too_large")),
    "another revision": ({}, {"if_match": '"0123456789abcdef"'}, (412, "revision_conflict")),
}


@pytest.mark.parametrize("path", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize(("body", "headers", "error"), REFUSALS.values(), ids=REFUSALS)
def test_a_wrong_request_does_not_use_it_up(
    server: Server, path: str, body: dict[str, object], headers: dict[str, str], error: tuple[int, str]
) -> None:
    path, key = path.format(server.new_session()), new_key()
    model = {} if path not in ONE_CALL.values() else {"model": "tiny"}

    response = server.call("POST", path, {"message": "hi", **model, **body}, idempotency_key=key, **headers)

    assert refused(response) == error
    check_unused(server, path, key)


@pytest.mark.parametrize("path", ONE_CALL.values())
def test_an_unknown_model_does_not_use_it_up(server: Server, path: str) -> None:
    key = new_key()

    assert refused(ask(server, path, key, model="nope")) == (400, "model_not_found")

    check_unused(server, path, key)


@pytest.mark.parametrize("path", FORMS.values(), ids=FORMS)
def test_a_full_queue_does_not_use_it_up(lonely: Server, standin: StandInThread, path: str) -> None:
    path, key, gate, other = path.format(lonely.new_session()), new_key(), Gate(1), lonely.new_session()
    standin.script(Behaviour(gate=gate))

    kept = keys_kept(lonely)

    with asked(lonely, (f"/chat/{other}", {"message": "hi"})) as (reply,):
        generating(lonely, other)
        assert refused(ask(lonely, path, key)) == (503, "queue_full")
        gate.open()
        assert reply.result().is_success

    assert keys_kept(lonely) == kept
    check_unused(lonely, path, key)


@contextmanager
def full_disk(server: Server, room: int) -> Iterator[None]:
    """While inside no file of the server's can grow beyond `room` bytes."""
    if sys.platform != "linux":
        pytest.skip("only there can a running process be given limits")
    process = psutil.Process(server.process.pid)
    process.rlimit(psutil.RLIMIT_FSIZE, (room, psutil.RLIM_INFINITY))
    try:
        yield
    finally:
        process.rlimit(psutil.RLIMIT_FSIZE, (psutil.RLIM_INFINITY, psutil.RLIM_INFINITY))


@pytest.mark.parametrize("room", [10, 20_000], ids=["for nothing", "for the key alone"])
@pytest.mark.parametrize("path", FORMS.values(), ids=FORMS)
def test_a_full_disk_does_not_use_it_up(lonely: Server, standin: StandInThread, path: str, room: int) -> None:
    session, key, one_call = lonely.new_session(), new_key(), path in ONE_CALL.values()
    path = path.format(session)
    sessions, kept = lonely.ok("GET", "/sessions")["total"], keys_kept(lonely)

    with full_disk(lonely, room):
        assert refused(ask(lonely, path, key, message="x" * 30_000)) == (507, "storage_full")
    assert (lonely.ok("GET", "/sessions")["total"], keys_kept(lonely)) == (sessions, kept)
    chats = len(standin.chats)

    check_unused(lonely, path, key)
    assert len(standin.chats) == chats + 1
    assert lonely.contents(session)[:1] == ([] if one_call else [("user", "Quite other words")])


@contextmanager
def begun(server: Server, path: str, key: str, body: bytes) -> Iterator[RawClient]:
    """A request whose head the server has, while its body is still to be sent."""
    with RawClient(server.url) as client:
        head = (
            f"POST {API}{path} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nContent-Type: application/json\r\n"
            f"Idempotency-Key: {key}\r\nContent-Length: {len(body)}\r\nExpect: 100-continue\r\n\r\n"
        )
        client.socket.sendall(head.encode())
        client.read_head()
        assert client.answer.status == 100
        yield client


@pytest.mark.parametrize("path", [IN_A_SESSION["stream"], ONE_CALL["whole"]])
def test_a_server_that_is_stopping_does_not_use_it_up(tmp_path: Path, standin: StandInThread, path: str) -> None:
    body = b'{"message": "hi"}'
    with Server(tmp_path, standin.url, environment={"MOCHI_SHUTDOWN_SECONDS": "300"}) as server:
        path, key = path.format(server.new_session()), new_key()

        with begun(server, path, key, body) as client:
            server.process.send_signal(signal.SIGTERM)
            listens_no_more(server)
            client.socket.sendall(body)
            client.read_head()
            assert client.answer.status == 503
        assert server.process.wait(LIMIT) == 0

        server.kill()
        server.start()
        check_unused(server, path, key)
