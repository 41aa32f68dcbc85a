"""Clients that take their time: each is cut, and what is only slow is not."""

import json
import select
import time
from contextlib import ExitStack

import pytest

from mochi_server.api.http import LARGE_BODIES, SMALL_BODY
from mochi_server.ollama.standin import Behaviour, Gate
from tests.api.wire import connect, read_answer
from tests.attacks.raw import (
    BODY,
    BODY_LIMIT,
    GET,
    HEADER,
    KEEP_ALIVE,
    POST,
    SOON,
    asked,
    assert_serves,
    refusal,
    rest,
)
from tests.chat.clients import raw_chat, read_events
from tests.server import API, Server
from tests.standin_thread import StandInThread

SESSION = b'{"model": "tiny"}'


def test_a_connection_that_says_nothing_is_ended_in_silence(hasty: Server) -> None:
    began = time.monotonic()
    assert asked(hasty) == b""
    assert HEADER - 0.1 < time.monotonic() - began < SOON


@pytest.mark.parametrize("sent", [b"G", GET, GET + b"X-Slow: "])
def test_a_head_that_does_not_end_is_answered_408_and_cut(hasty: Server, sent: bytes) -> None:
    began = time.monotonic()
    with connect(hasty.port) as connection:
        connection.sendall(sent)
        assert refusal(read_answer(connection)) == (408, "request_timeout")
        assert rest(connection) == b""
    assert HEADER - 0.1 < time.monotonic() - began < SOON


def test_a_head_that_comes_byte_by_byte_has_no_more_time_than_another(hasty: Server) -> None:
    began = time.monotonic()
    with connect(hasty.port) as connection:
        connection.sendall(GET)
        connection.settimeout(HEADER / 10)
        answer = b""
        while not answer:
            assert time.monotonic() - began < SOON
            connection.sendall(b"X: y\r\n")
            try:
                answer = connection.recv(65_536)
            except TimeoutError:
                continue
    assert answer.startswith(b"HTTP/1.1 408 ")


def test_the_head_of_a_later_request_has_a_limit_of_its_own(hasty: Server) -> None:
    with connect(hasty.port) as connection:
        connection.sendall(GET + b"\r\n")
        assert read_answer(connection).status_code == 200
        connection.sendall(b"GET /")
        assert refusal(read_answer(connection)) == (408, "request_timeout")


def test_blank_lines_keep_no_connection_alive(hasty: Server) -> None:
    began = time.monotonic()
    with connect(hasty.port) as connection:
        connection.settimeout(HEADER / 10)
        while time.monotonic() - began < SOON:
            try:
                connection.sendall(b"\r\n")
                if connection.recv(1) == b"":
                    break
            except TimeoutError:
                continue
            except ConnectionError:
                break
    assert time.monotonic() - began < SOON


@pytest.mark.parametrize("framing", [b"Content-Length: 5000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n5\r\n"])
def test_a_body_that_does_not_come_is_answered_408_and_cut(hasty: Server, framing: bytes) -> None:
    began = time.monotonic()
    with connect(hasty.port) as connection:
        connection.sendall(POST + framing + b'{"a"')
        assert refusal(read_answer(connection)) == (408, "request_timeout")
        assert rest(connection) == b""
    assert BODY - 0.1 < time.monotonic() - began < SOON


@pytest.mark.parametrize(
    ("framing", "piece"),
    [
        (b"Content-Length: 500000\r\n\r\n", b" "),
        (b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
        (b"Transfer-Encoding: chunked\r\n\r\n1", b";x=" + b"y" * 500),
        (b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X-Trailer: " + b"y" * 500 + b"\r\n"),
    ],
    ids=["declared", "chunked", "chunk extensions", "trailers"],
)
def test_a_byte_now_and_then_holds_no_connection_for_ever(hasty: Server, framing: bytes, piece: bytes) -> None:
    began = time.monotonic()
    answer = b""
    with connect(hasty.port) as connection:
        connection.sendall(POST + framing)
        connection.settimeout(BODY / 10)
        while not answer:
            assert time.monotonic() - began < SOON
            connection.sendall(piece)
            try:
                answer = connection.recv(65_536)
            except TimeoutError:
                continue
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert time.monotonic() - began > BODY - 0.1


@pytest.mark.parametrize("chunked", [False, True], ids=["declared", "chunked"])
def test_a_body_that_is_slow_but_comes_is_taken_however_long_it_takes(hasty: Server, chunked: bool) -> None:
    body = SESSION + b" " * 60_000
    pieces = [body[at : at + 5_000] for at in range(0, len(body), 5_000)]
    with connect(hasty.port) as connection:
        connection.sendall(POST + (b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % len(body)))
        connection.sendall(b"\r\n\r\n")
        began = time.monotonic()
        for piece in pieces:
            connection.sendall(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
            time.sleep(BODY / 6)
        if chunked:
            connection.sendall(b"0\r\n\r\n")
        assert time.monotonic() - began > BODY * 1.5
        assert read_answer(connection).status_code == 201


def test_who_waits_until_others_have_sent_their_large_bodies_is_not_cut(hasty: Server) -> None:
    body = SESSION + b" " * 400_000
    head = POST + b"Content-Length: %d\r\n\r\n" % len(body)
    with ExitStack() as stack:
        slow = [stack.enter_context(connect(hasty.port)) for _ in range(LARGE_BODIES)]
        sent = SMALL_BODY * 2
        for connection in slow:
            connection.sendall(head + body[:sent])
        quick = [stack.enter_context(connect(hasty.port)) for _ in range(4)]
        for connection in quick:
            connection.sendall(head + body)
        began = time.monotonic()
        while time.monotonic() - began < BODY * 2.5:
            for connection in slow:
                connection.sendall(body[sent : sent + 1_000])
            sent += 1_000
            time.sleep(BODY / 8)
        assert_serves(hasty)
        assert not select.select(quick, (), (), 0)[0]
        for connection in slow:
            connection.sendall(body[sent:])
        assert [read_answer(connection).status_code for connection in (*slow, *quick)] == [201] * (LARGE_BODIES + 4)


def test_an_idle_connection_is_kept_for_a_while_and_then_closed(hasty: Server) -> None:
    with connect(hasty.port) as connection:
        for _ in range(3):
            connection.sendall(GET + b"\r\n")
            assert read_answer(connection).status_code == 200
            time.sleep(KEEP_ALIVE / 4)
        began = time.monotonic()
        assert rest(connection) == b""
        assert KEEP_ALIVE / 2 < time.monotonic() - began < SOON


def test_no_limit_cuts_a_stream_or_what_its_client_sends_meanwhile(
    hasty: Server, shared_standin: StandInThread
) -> None:
    session, gate = hasty.new_session(), Gate(1)
    shared_standin.script(Behaviour(pieces=("a", "b"), gate=gate))
    with raw_chat(hasty, f"/chat/{session}/stream", {"message": "hi"}) as client:
        read_events(client, 1)
        client.socket.sendall(b"GET /half")
        time.sleep(max(HEADER, BODY, KEEP_ALIVE) * 1.5)
        gate.open()
        answer = client.read_rest()
    assert answer.whole
    assert b"event: done" in answer.body
    assert answer.body.count(b"HTTP/1.1") == 0


def test_no_limit_cuts_a_whole_reply_that_is_waited_for(hasty: Server, shared_standin: StandInThread) -> None:
    session, gate = hasty.new_session(), Gate(1)
    shared_standin.script(Behaviour(pieces=("a", "b"), gate=gate))
    body = json.dumps({"message": "hi"}).encode()
    head = f"POST {API}/chat/{session} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with connect(hasty.port) as connection:
        connection.sendall(head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        time.sleep(max(HEADER, BODY, KEEP_ALIVE) * 1.5)
        gate.open()
        assert read_answer(connection).json()["message"]["content"] == "ab"


PIECE = b"x" * 65_536


@pytest.mark.parametrize("close", [b"", b"Connection: close\r\n"], ids=["kept", "closing"])
@pytest.mark.parametrize(
    ("target", "framing", "status"),
    [
        (b"POST /api/v1/sessions", b"Content-Length: 9000000\r\n", 413),
        (b"POST /api/v1/sessions", b"Transfer-Encoding: chunked\r\n", 413),
        (b"GET /api/v1/sessions", b"Content-Length: 9000000\r\n", 413),
        (b"GET /api/v1/sessions", b"Transfer-Encoding: chunked\r\n", 200),
        (b"POST /nowhere", b"Content-Length: 9000000\r\n", 413),
        (b"POST /api/v1/sessions", b"Content-Length: 1000000\r\nOrigin: http://evil.com\r\n", 403),
    ],
)
def test_the_answer_can_be_read_while_a_body_that_nobody_wants_still_comes(
    hasty: Server, target: bytes, framing: bytes, status: int, close: bytes
) -> None:
    head = target + b" HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n" + framing + close
    piece = b"%x\r\n%b\r\n" % (len(PIECE), PIECE) if b"chunked" in framing else PIECE
    with connect(hasty.port) as connection:
        connection.sendall(head + b"\r\n")
        for _ in range(120 if status != 403 else 10):
            connection.sendall(piece)
        assert read_answer(connection).status_code == status
    assert 120 * len(PIECE) > BODY_LIMIT


@pytest.mark.parametrize("close", [b"", b"Connection: close\r\n"], ids=["kept", "closing"])
def test_the_rest_of_a_refused_body_is_waited_for_only_so_long(hasty: Server, close: bytes) -> None:
    with connect(hasty.port) as connection:
        connection.sendall(POST + close + b"Content-Length: 9000000\r\n\r\n")
        assert read_answer(connection).status_code == 413
        began = time.monotonic()
        connection.settimeout(0.05)
        while time.monotonic() - began < SOON:
            try:
                connection.sendall(b"x")
                if not close and connection.recv(1) == b"":
                    break
                time.sleep(0.05 if close else 0)
            except TimeoutError:
                continue
            except ConnectionError:
                break
    assert BODY - 0.2 < time.monotonic() - began < SOON


def test_a_connection_goes_on_behind_a_refused_body_that_did_end(hasty: Server) -> None:
    with connect(hasty.port) as connection:
        connection.sendall(b"POST /nowhere HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n")
        assert read_answer(connection).status_code == 415
        connection.sendall(b"x" * 100_000 + GET + b"\r\n")
        assert read_answer(connection).status_code == 200


def test_a_body_that_waits_for_leave_is_not_confused_with_the_next_request(hasty: Server) -> None:
    with connect(hasty.port) as connection:
        connection.sendall(POST + b"Expect: 100-continue\r\nContent-Length: 17\r\n\r\n")
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(SESSION)
        assert read_answer(connection).status_code == 201
    answer = asked(
        hasty,
        b"POST /nowhere HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 300\r\n\r\n",
        GET + b"\r\n",
    )
    assert answer.startswith(b"HTTP/1.1 415 ")
    assert answer.count(b"HTTP/1.1") == 1
    assert b"connection: close" in answer  # so that the client knows, too


def test_the_server_is_well_after_all_that(hasty: Server) -> None:
    assert_serves(hasty)
    assert not [line for line in hasty.log_lines() if line["level"] in {"warning", "error"}]
