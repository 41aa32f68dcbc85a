"""A reply in which no token meets another: the next is said once everybody who listens has the last."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from mochi_server.ollama.standin import Behaviour, Gate
from tests.chat.clients import parsed, raw_chat
from tests.chat.listeners import listening
from tests.crash.traced import Call, CannotTrace, Trace, traced
from tests.raw_http import RawClient
from tests.server import Server, joined
from tests.standin_thread import StandInThread


def pieces(count: int) -> tuple[str, ...]:
    """So many tokens, none of which is part of another."""
    return tuple(f"piece-{number} " for number in range(count))


def say_one_by_one(
    server: Server,
    standin: StandInThread,
    said: tuple[str, ...],
    listeners: int = 1,
    heard: Callable[[int], object] = lambda _number: None,
) -> None:
    """Have this said in a new session to so many listeners. `heard` is called when they have one more token."""
    session = server.new_session()
    gate = Gate(*range(1, len(said) + 1))
    standin.script(Behaviour(pieces=said, gate=gate))
    with ExitStack() as stack:
        clients = [stack.enter_context(raw_chat(server, f"/chat/{session}/stream", {"message": "say it"}))]
        clients[0].read_head()
        clients += [stack.enter_context(listening(server, session)) for _ in range(listeners - 1)]
        for number, piece in enumerate(said, 1):
            for client in clients:
                _read_until(client, piece)
            heard(number)
            gate.open(number)
        for client in clients:
            assert joined(parsed(client.read_rest().body)) == "".join(said)


def _read_until(client: RawClient, piece: str) -> None:
    while piece.encode() not in client.answer.body:
        assert client.read_chunk(), "the stream ended"


def warm(server: Server) -> None:
    """Have done what a server does but once: the model looked up, the window found, threads begun."""
    server.ok("POST", f"/chat/{server.new_session()}", {"message": "hello"})


@contextmanager
def watched(server: Server, tmp_path: Path, calls: str = "all") -> Iterator[Trace]:
    """The server's system calls, or no test where they cannot be seen."""
    try:
        with traced(server, tmp_path / "trace", calls) as trace:
            yield trace
    except CannotTrace as error:
        pytest.skip(str(error))


def to_a_client(server: Server, call: Call) -> bool:
    """Whether it sends something over a connection that the server was asked on."""
    return call.sends(f"<TCP:[127.0.0.1:{server.port}->")
