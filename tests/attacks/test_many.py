"""Connections in great number: none keeps others out, and all of them cost little."""

import resource
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from mochi_server.ollama.standin import Behaviour, Gate
from tests.api.wire import connect, read_answer
from tests.attacks.raw import (
    CONNECTIONS,
    GET,
    MEGABYTE,
    POST,
    SOON,
    assert_serves,
    descriptors,
    memory,
    refusal,
    rest,
)
from tests.chat.clients import eventually, raw_chat, read_events
from tests.server import Server
from tests.standin_thread import StandInThread

IDLE = 2000


@contextmanager
def opened(server: Server, count: int, sent: bytes = b"") -> Iterator[list[socket.socket]]:
    """That many connections which have sent this."""
    with ExitStack() as stack:
        connections = []
        for _ in range(count):
            connection = stack.enter_context(connect(server.port))
            if sent:
                connection.sendall(sent)
            connections.append(connection)
        yield connections


@pytest.mark.parametrize(
    "sent",
    [b"", b"GET /", GET + b"X: ", POST + b"Content-Length: 100000\r\n\r\n{", GET + b"\r\n"],
    ids=["nothing", "a line", "headers", "a body", "an idle one"],
)
def test_connections_that_wait_for_more_make_way_for_new_ones(hasty: Server, sent: bytes) -> None:
    before = descriptors(hasty)
    with opened(hasty, CONNECTIONS * 3, sent):
        assert_serves(hasty)
        assert descriptors(hasty) <= before + CONNECTIONS + 5
    eventually(lambda: descriptors(hasty) <= before + 5 or None)


def test_who_is_being_answered_stays_and_a_stranger_is_told_to_come_back(
    hasty: Server, shared_standin: StandInThread
) -> None:
    session, gate = hasty.new_session(), Gate(1)
    shared_standin.script(Behaviour(pieces=("a", "b"), gate=gate))
    listen = f"GET /api/v1/chat/{session}/stream HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    with raw_chat(hasty, f"/chat/{session}/stream", {"message": "hi"}) as client, ExitStack() as stack:
        read_events(client, 1)
        listeners: list[socket.socket] = []
        while len(listeners) < CONNECTIONS - 1:  # those that wait are evicted for each of these
            listener = stack.enter_context(connect(hasty.port))
            listener.sendall(listen)
            assert listener.recv(65_536).startswith(b"HTTP/1.1 200 ")
            listeners.append(listener)
        for _ in range(3):
            with connect(hasty.port) as stranger:
                answer = read_answer(stranger)
                assert refusal(answer) == (503, "too_many_connections")
                assert answer.headers["retry-after"]
        gate.open()
        assert all(b"event: done" in rest(listener) for listener in listeners)
        assert b"event: done" in client.read_rest().body
    assert_serves(hasty)


def test_two_thousand_idle_connections_neither_use_the_server_up_nor_keep_others_out(
    tmp_path: Path, standin: StandInThread
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < IDLE + 1000:
        pytest.skip(f"no more than {hard} files may be open here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, IDLE + 1000), hard))
    try:
        # With no more descriptors than most systems give at first; the server asks for more by itself.
        few = ("sh", "-c", 'ulimit -S -n 256; exec "$@"', "sh")
        with Server(tmp_path, standin.url, through=few, environment={"MOCHI_MAX_CONNECTIONS": "1900"}) as server:
            before = memory(server)
            with opened(server, IDLE):
                assert_serves(server)
                assert 1850 < descriptors(server) < 1950
                grown = memory(server) - before
            assert grown < 60 * MEGABYTE
            eventually(lambda: descriptors(server) < 50 or None)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_where_the_system_has_fewer_descriptors_there_are_fewer_connections_and_a_warning(
    tmp_path: Path, standin: StandInThread
) -> None:
    few = ("sh", "-c", 'ulimit -n 512; exec "$@"', "sh")
    with Server(tmp_path, standin.url, through=few) as server:
        (warning,) = [line for line in server.log_lines() if line["level"] == "warning"]
        assert warning["limit"] < 400
        with opened(server, 600):
            assert_serves(server)
        server.new_session()


def test_a_server_stops_in_time_with_all_of_them_open(tmp_path: Path, standin: StandInThread) -> None:
    with Server(tmp_path, standin.url) as server, ExitStack() as stack:
        for sent in (
            b"",
            b"GET /",
            POST + b"Content-Length: 9\r\n\r\n{",
            GET + b"\r\n",
            b"\x00",
            POST + b"Content-Length: 99999999\r\n\r\n",
        ):
            stack.enter_context(opened(server, 10, sent))
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < SOON


def test_the_server_is_well_after_all_that(hasty: Server) -> None:
    assert_serves(hasty)
    assert not [line for line in hasty.log_lines() if line["level"] in {"warning", "error"}]
