"""How long a reply may take, and how long it may be. Silence is in `test_failures.py`, streams too long in
`test_stop.py`, the queue in `test_admission.py`; here are the ways around them.
"""

import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from mochi_server.ollama.standin import Behaviour, Gate
from tests.chat.clients import asked, ending, generating, last_message, parsed
from tests.chat.waiting import occupied, queued, wait_for_positions
from tests.server import LIMIT, Server, joined, names, told
from tests.standin_thread import StandInThread
from tests.tiny_models import HELLO

SAID = "".join(HELLO)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nX-Padding: " + b"x" * 400
LINE = b'HTTP/1.1 200 OK\r\n\r\n{"message":{"role":"assistant","content":"' + b"x" * 400


class Dribbler:
    """Refuses connections until it is told to listen; then it answers every request with these bytes, one by one, for
    longer than anybody waits.
    """

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self.left = threading.Event()
        """Set once a client has closed its connection in mid-answer."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def listen(self) -> None:
        self._listener.listen()
        self._thread.start()

    def close(self) -> None:
        self._over.set()
        self._listener.close()

    def _serve(self) -> None:
        while not self._over.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._dribble, args=(connection,), daemon=True).start()

    def _dribble(self, connection: socket.socket) -> None:
        with closing(connection):
            connection.recv(65536)
            try:
                for n in range(len(self._answer)):
                    connection.sendall(self._answer[n : n + 1])
                    if self._over.wait(0.05):
                        return
            except OSError:
                self.left.set()


@pytest.mark.parametrize("answer", [HEAD, LINE], ids=["a head", "a line"])
def test_bytes_without_a_token_do_not_extend_the_time_for_the_first(tmp_path: Path, answer: bytes) -> None:
    environment = {"MOCHI_FIRST_TOKEN_TIMEOUT": "0.5", "MOCHI_TOKEN_TIMEOUT": "0.3"}
    with closing(Dribbler(answer)) as ollama, Server(tmp_path, ollama.url, environment=environment) as server:
        session = server.new_session()  # nothing listens yet, so the model is taken on trust
        ollama.listen()

        events = server.events(f"/chat/{session}/stream", {"message": "hi"})
        status, code, details = server.error("POST", f"/chat/{session}", {"message": None})

        assert names(events) == ["error", "done"]
        assert (events[0].data["code"], events[0].data["details"]) == ("ollama_timeout", {"limit_seconds": 0.5})
        assert (status, code, details) == (504, "ollama_timeout", {"limit_seconds": 0.5})
        assert ollama.left.wait(LIMIT)
        assert server.contents(session) == [("user", "hi")]


def test_a_reply_that_falls_silent_is_given_up_however_long_its_first_token_might_have_taken(
    tmp_path: Path, standin: StandInThread
) -> None:
    environment = {"MOCHI_FIRST_TOKEN_TIMEOUT": "600", "MOCHI_TOKEN_TIMEOUT": "0.3", "MOCHI_HEARTBEAT_SECONDS": "600"}
    standin.script(Behaviour(pieces=("one", " two"), fault="silence", after=2))

    with Server(tmp_path, standin.url, environment=environment) as server:
        session = server.new_session()
        *said, error, done = server.events(f"/chat/{session}/stream", {"message": "hi"})

        assert joined(said) == "one two"
        assert (error.data["code"], error.data["details"]["limit_seconds"]) == ("ollama_timeout", 0.3)
        assert done.data["status"] == "error"
        assert server.contents(session)[-1] == ("assistant", "one two")


@pytest.fixture
def strict(tmp_path: Path, standin: StandInThread) -> Iterator[Server]:
    """A server with room for one reply, of 20 characters and one second, that waits 0.4 s for its first token."""
    environment = {
        "MOCHI_MAX_CONCURRENT": "1",
        "MOCHI_MAX_REPLY_CHARS": "20",
        "MOCHI_MAX_REPLY_SECONDS": "1",
        "MOCHI_FIRST_TOKEN_TIMEOUT": "0.4",
        "MOCHI_HEARTBEAT_SECONDS": "600",
    }
    with Server(tmp_path, standin.url, environment=environment) as server:
        yield server


def test_the_time_in_the_queue_is_no_time_at_ollama(strict: Server, standin: StandInThread) -> None:
    """The first takes its whole second: the other one has waited for longer than it would be let at Ollama."""
    session = strict.new_session()

    with occupied(strict, standin), queued(strict, session) as (client,):
        wait_for_positions(strict, [session], [1])
        standin.script(Behaviour(pieces=("short",)))
        events = parsed(client.read_rest().body)

    assert [kind for kind in names(events) if kind != "status"] == ["content_delta", "message_complete", "done"]
    assert ending(last_message(strict, session)) == ("short", "complete", "stop")


def test_a_reply_that_is_just_as_long_as_it_may_be_is_whole(strict: Server, standin: StandInThread) -> None:
    session = strict.new_session()
    standin.script(Behaviour(pieces=("0123456789", "0123456789")))

    assert strict.ok("POST", f"/chat/{session}", {"message": "hi"})["message"]["done_reason"] == "stop"


def test_thoughts_count_as_well_and_what_ollama_still_says_is_not_waited_for(
    strict: Server, standin: StandInThread
) -> None:
    session, abandoned = strict.new_session(model="tiny-think"), standin.abandoned
    standin.script(Behaviour(thinking=("0123456789", "0123456789"), pieces=("x",) * 10, interval=0.05))

    message = strict.ok("POST", f"/chat/{session}", {"message": "hi", "think": True})["message"]

    assert (message["thinking"], message["done_reason"]) == ("01234567890123456789", "length")
    assert message["content"] in {"x" * n for n in range(1, 10)}
    standin.wait_until(lambda s: s.abandoned == abandoned + 1)


def test_a_whole_reply_over_its_time_is_answered_as_far_as_it_came(strict: Server, standin: StandInThread) -> None:
    session, abandoned = strict.new_session(), standin.abandoned
    standin.script(Behaviour(pieces=("a", "b"), gate=Gate(1)))

    with asked(strict, (f"/chat/{session}", {"message": "hi"})) as (reply,):
        generating(strict, session)
        message = reply.result().json()["message"]

    assert ending(message) == ("a", "complete", "length")
    assert message == last_message(strict, session)
    standin.wait_until(lambda s: s.abandoned == abandoned + 1)


@pytest.mark.parametrize("form", ["", "/stream"])
def test_after_a_timeout_the_next_reply_has_its_place_at_once(
    strict: Server, standin: StandInThread, form: str
) -> None:
    session, other = strict.new_session(), strict.new_session()
    standin.script(Behaviour(fault="silence"))
    response = strict.call("POST", f"/chat/{session}{form}", {"message": "hi"})
    if not form:
        assert told(response)[:2] == (504, "ollama_timeout")

    assert strict.ok("POST", f"/chat/{other}", {"message": "hi", "options": {"num_predict": 2}})["message"]
    standin.wait_until_idle()
