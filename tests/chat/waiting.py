"""Replies that wait for their turn: held at Ollama by gates, queued behind each other, and looked at while they are."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from mochi_server.ollama.standin import Behaviour, Gate
from tests.chat.clients import eventually, raw_chat
from tests.raw_http import RawClient
from tests.server import Server
from tests.standin_thread import StandInThread

# A reply that wrongly never goes on ends a test soon: each status event keeps the client's own limit from doing so.
BOUNDED = {
    "MOCHI_QUEUE_TIMEOUT": "20",
    "MOCHI_FIRST_TOKEN_TIMEOUT": "20",
    "MOCHI_TOKEN_TIMEOUT": "20",
    "MOCHI_HEARTBEAT_SECONDS": "600",
}


def generation(server: Server, session: str) -> dict[str, Any] | None:
    """What the status tells of the session's running reply."""
    told: dict[str, Any] | None = server.ok("GET", f"/sessions/{session}/status")["generation"]
    return told


def positions(server: Server, *sessions: str) -> list[int | None]:
    """The place in the queue of each session's reply; None at Ollama, and where none runs."""
    return [(generation(server, session) or {}).get("position") for session in sessions]


def wait_for_positions(server: Server, sessions: list[str], wanted: list[int | None]) -> None:
    """Wait until these are the places of the sessions' replies."""
    eventually(lambda: positions(server, *sessions) == wanted or None)


@contextmanager
def queued(server: Server, *sessions: str, **body: object) -> Iterator[list[RawClient]]:
    """A stream asked for in each of the sessions, in this order: the answers have begun."""
    with ExitStack() as stack:
        clients = []
        for session in sessions:
            message = {"message": f"hi from {session}", **body}
            client = stack.enter_context(raw_chat(server, f"/chat/{session}/stream", message))
            client.read_head()
            assert client.answer.status == 200
            clients.append(client)
        yield clients


@contextmanager
def occupied(server: Server, standin: StandInThread, count: int = 1) -> Iterator[Gate]:
    """That many replies of the model `tiny` at Ollama, all held in the middle until the gate is opened."""
    gate, sessions = Gate(1), [server.new_session() for _ in range(count)]
    standin.script(*[Behaviour(gate=gate)] * count)
    with queued(server, *sessions) as clients:
        try:
            gate.wait(1, replies=count)
            yield gate
        finally:
            gate.open()
            for client in clients:
                client.read_rest()
