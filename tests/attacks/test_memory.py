"""What each attack costs the server in memory, at the limits that a server has by default."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.api.wire import connect, read_answer
from tests.attacks.raw import GET, MEGABYTE, POST, memory
from tests.server import Server
from tests.standin_thread import StandInThread

KEY = "a-key-of-this-test"
PIECE = b"x" * 65_536
CHUNK = b"%x\r\n%b\r\n" % (len(PIECE), PIECE)
KEYED = POST + b"X-API-Key: %b\r\n" % KEY.encode()

Attack = Callable[[int], None]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, shared_standin: StandInThread) -> Iterator[Server]:
    """A server with a key, and no other setting."""
    folder: Path = tmp_path_factory.mktemp("memory")
    with Server(folder, shared_standin.url, environment={"MOCHI_API_KEY": KEY}) as server:
        for _ in range(50):  # what it takes to serve at all
            server.call("GET", "/sessions", X_API_Key=KEY)
        yield server


def endless(head: bytes, piece: bytes, pieces: int) -> Attack:
    """One connection that sends and sends, and reads nothing."""

    def attack(port: int) -> None:
        with connect(port) as connection, suppress(ConnectionError):
            connection.sendall(head)
            for _ in range(pieces):
                connection.sendall(piece)

    return attack


def many(connections: int, sent: bytes) -> Attack:
    """So many connections at a time, each with this much to say, and no more."""

    def attack(port: int) -> None:
        with ExitStack() as stack:
            for _ in range(connections):
                connection = stack.enter_context(connect(port))
                with suppress(ConnectionError):
                    connection.sendall(sent)

    return attack


ATTACKS: dict[str, tuple[Attack, int]] = {
    "an endless header": (endless(GET + b"X: ", PIECE, 800), 5),
    "endless headers": (endless(GET, b"X: y\r\n" * 10_000, 800), 5),
    "an endless line": (endless(b"GET /", PIECE, 800), 5),
    "a declared body of 200 MB": (endless(KEYED + b"Content-Length: 200000000\r\n\r\n", PIECE, 3000), 5),
    "an endless body": (endless(KEYED + b"Transfer-Encoding: chunked\r\n\r\n", CHUNK, 3000), 80),
    "an endless body of a stranger": (endless(POST + b"Transfer-Encoding: chunked\r\n\r\n", CHUNK, 3000), 5),
    "an endless body that no handler reads": (endless(GET + b"Transfer-Encoding: chunked\r\n\r\n", CHUNK, 3000), 5),
    "endless chunk extensions": (endless(KEYED + b"Transfer-Encoding: chunked\r\n\r\n1;", PIECE, 800), 5),
    "endless trailers": (endless(KEYED + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X: y\r\n" * 9_000, 800), 5),
    "endless requests": (endless(b"", (GET + b"\r\n") * 1_000, 200), 15),
    "500 heads of 30 KB that do not end": (many(500, GET + b"X: " + b"y" * 30_000), 60),
    "200 connections of 1,000 requests": (many(200, (GET + b"\r\n") * 1_000), 60),
    "500 bodies of strangers of 300 KB": (many(500, POST + b"Content-Length: 9000000\r\n\r\n" + PIECE * 5), 60),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_costs_little_memory_and_keeps_nobody_out(server: Server, name: str) -> None:
    attack, megabytes = ATTACKS[name]
    before, over, most = memory(server), threading.Event(), [0]

    def watch() -> None:
        while not over.wait(0.005):
            most[0] = max(most[0], memory(server))

    with_watch = threading.Thread(target=watch)
    with_watch.start()
    try:
        attack(server.port)
    finally:
        over.set()
        with_watch.join()
    grown = (max(most[0], memory(server)) - before) / MEGABYTE
    assert grown < megabytes, f"{name} costs {grown:.1f} MB"
    with connect(server.port) as connection:
        connection.sendall(GET + b"X-API-Key: %b\r\n\r\n" % KEY.encode())
        assert read_answer(connection).status_code == 200
