"""What a turn costs in requests to Ollama."""

import time

from mochi_server.ollama.standin import Behaviour, Gate
from tests.chat.clients import asked
from tests.costs.one_by_one import warm
from tests.server import Server
from tests.standin_thread import StandInThread

LOOKS_APART = 0.9
"""Seconds between two looks at what Ollama has loaded: once a second, less what a timer may be early."""

LISTS_APART = 30
"""Seconds between two looks at which models it has."""

LOADING = 100
"""Milliseconds in which Ollama is taken to have loaded the model anew, which is looked at, too."""


def test_a_turn_asks_ollama_for_its_reply_and_for_nothing_before(server: Server, standin: StandInThread) -> None:
    session = server.new_session()
    warm(server)
    server.ok("GET", "/models")  # they are known now, and for a while
    before = len(standin.requests)
    gate = Gate()
    standin.script(Behaviour(gate=gate))

    with asked(server, (f"/chat/{session}", {"message": "hi"})) as (answer,):
        standin.wait_for_chats(2)
        asked_for = [request.path for request in standin.requests[before:]]
        gate.open()
        assert answer.result().status_code == 200

    assert asked_for[0] == "/api/chat"
    # One that waits for a second is told why, for which Ollama is looked at.
    assert set(asked_for[1:]) <= {"/api/ps"}


def test_many_turns_ask_ollama_once_each_and_look_at_it_once_a_second(server: Server, standin: StandInThread) -> None:
    sessions = [server.new_session() for _ in range(4)]
    warm(server)
    server.ok("GET", "/models")
    before, began = len(standin.requests), time.monotonic()

    replies = [server.ok("POST", f"/chat/{session}", {"message": "hi"})["message"] for session in sessions * 10]

    took = time.monotonic() - began
    paths = [request.path for request in standin.requests[before:]]
    slow = sum(reply["stats"]["load_ms"] > LOADING for reply in replies)
    assert paths.count("/api/chat") == len(replies)
    assert paths.count("/api/ps") <= took / LOOKS_APART + 1 + slow
    assert paths.count("/api/tags") <= took / LISTS_APART
    assert set(paths) <= {"/api/chat", "/api/ps", "/api/tags", "/api/show"}
