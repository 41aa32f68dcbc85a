"""Where a request ends: bytes that two servers could understand in two ways are refused, and never answered twice."""

import json
import re

import pytest

from tests.api.wire import connect, read_answer
from tests.attacks.raw import GET, HEAD_LIMIT, POST, asked, assert_serves, refused, statuses
from tests.server import Server

HIDDEN = b"DELETE /api/v1/sessions/0123456789 HTTP/1.1\r\nHost: localhost\r\n\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
BAD = (400, "bad_request")


@pytest.mark.parametrize(
    "framing",
    [
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
        *(b"Content-Length:%b\r\n\r\n{}" % length for length in (b"-1", b"+2", b"2, 2", b"2 2", b"0x2", b"2_0", b"")),
        *(b"Content-Length:%b\r\n\r\n{}" % length for length in (b"\xb2", b"2\x0b", b"2;", b"9" * 30, b"1e1")),
        *(b"Content-Length%b: 2\r\n\r\n{}" % odd for odd in (b" ", b"\t", b"\x00")),
        b"Content-Length: 2\r\n \r\n\r\n{}",
        *(b"Transfer-Encoding: %b\r\n\r\n0\r\n\r\n" % coding for coding in (b"xchunked", b"chunked, identity")),
        *(b"Transfer-Encoding: %b\r\n\r\n0\r\n\r\n" % coding for coding in (b"identity", b"gzip, chunked", b"x;q=1")),
        *(b"Transfer-Encoding: %b\r\n\r\n0\r\n\r\n" % coding for coding in (b"\x0bchunked", b"chunked, chunked", b"")),
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding\x20: chunked\r\n\r\n0\r\n\r\n",
        b"X: y\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"X: y\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"X: y\x00\r\nContent-Length: 2\r\n\r\n{}",
    ],
)  # fmt: skip
def test_a_length_that_can_be_read_in_two_ways_is_refused(hasty: Server, framing: bytes) -> None:
    assert refused(hasty, POST + framing + HIDDEN) == BAD


@pytest.mark.parametrize(
    "chunk",
    [
        *(b"%b\r\n{}\r\n0\r\n\r\n" % size for size in (b"-2", b"+2", b" 2", b"2 ", b"0x2", b"g", b"", b"2_", b"\t2")),
        b"f" * 17 + b"\r\n{}\r\n",
        b"2\n{}\r\n0\r\n\r\n",
        b"2\r\n{}\n0\r\n\r\n",
        b"2\r\n{}x\r\n0\r\n\r\n",
        b"2\r\n{}0\r\n\r\n",
        b"2;\x01\r\n{}\r\n0\r\n\r\n",
        b"0\r\nContent-Length: 5\r\n\r\n",
        b"0\r\nTransfer-Encoding : x\r\n\r\n",
    ],
)
def test_a_chunk_that_can_be_read_in_two_ways_is_refused(hasty: Server, chunk: bytes) -> None:
    assert refused(hasty, CHUNKED + chunk + HIDDEN) == BAD


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\x00" * 100,
        b"GET\r\n\r\n",
        b"GET / HTTP/1.2\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/3.0\r\nHost: localhost\r\n\r\n",
        b"GET / ICE/1.0\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\nHost: localhost\n\n",
        b"get / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"BREW / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        GET + b" folded: x\r\n\r\n",
        GET + b"X: y\r\n folded\r\n\r\n",
        GET + b": x\r\n\r\n",
        GET + b"X(y): x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"CONNECT localhost:22 HTTP/1.1\r\nHost: localhost\r\n\r\nSSH-2.0",
        b"POST /api/v1/sessions HTTP/1.0\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        GET + b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\r\n\x81\x05hello",
        GET + b"Connection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n\r\n",
    ],
)
def test_what_is_no_http_1_request_is_refused_and_the_connection_closed(hasty: Server, sent: bytes) -> None:
    assert refused(hasty, sent) == BAD


def test_a_refusal_shows_nothing_of_what_was_sent(hasty: Server) -> None:
    for sent in (b"GET /xyzzy\x01 HTTP/1.1\r\n\r\n", GET + b"xyz(zy: xyzzy\r\n\r\n", b"XYZZY /xyzzy HTTP/1.1\r\n\r\n"):
        assert b"xyzzy" not in asked(hasty, sent).lower()


@pytest.mark.parametrize("length", [b" 17", b"17 ", b"\t17\t", b"0017"])
def test_white_space_and_zeros_around_a_length_change_nothing(hasty: Server, length: bytes) -> None:
    answers = asked(hasty, POST + b"Content-Length:" + length + b'\r\n\r\n{"model": "tiny"}' + GET + b"\r\n")
    assert statuses(answers) == [201, 200]


def test_a_wish_for_http_2_is_passed_over_and_its_body_is_read(hasty: Server) -> None:
    # As Java's own client asks with each first request.
    wish = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAA\r\n"
    first = POST + wish + b'Content-Length: 17\r\n\r\n{"model": "tiny"}'
    assert statuses(asked(hasty, first + GET + wish + b"\r\n", GET + wish + b"\r\n")) == [201, 200, 200]
    assert statuses(asked(hasty, GET + wish + b"Connection: close\r\n\r\n", GET + b"\r\n")) == [200]


def test_a_trailer_is_no_header(hasty: Server) -> None:
    trailer = b"If-Match: nonsense\r\nHost: evil.com\r\nIdempotency-Key: \x7e\r\nX: " + b"y" * HEAD_LIMIT * 4
    with connect(hasty.port) as connection:
        connection.sendall(CHUNKED + b'11\r\n{"model": "tiny"}\r\n0\r\n' + trailer + b"\r\n\r\n")
        assert read_answer(connection).status_code == 201


@pytest.mark.parametrize(
    "head",
    [
        GET + b"X: " + b"y" * HEAD_LIMIT + b"\r\n\r\n",
        GET + b"y" * HEAD_LIMIT + b": x\r\n\r\n",
        GET + b"X: y\r\n" * 250 + b"\r\n",
        GET + b"X: yyyyyyyyyyyyyyyyyyyyyyyyyy\r\n" * 150 + b"\r\n",
        b"GET /" + b"y" * HEAD_LIMIT + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /?" + b"y" * HEAD_LIMIT + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\r\n" * HEAD_LIMIT + GET + b"\r\n",
    ],
    ids=["value", "name", "headers", "lines", "path", "query", "blank lines"],
)
@pytest.mark.parametrize("at_once", [True, False])
def test_a_head_over_the_limit_is_refused_whole_or_not(hasty: Server, head: bytes, at_once: bool) -> None:
    parts = [head] if at_once else [head[: HEAD_LIMIT // 2], head[HEAD_LIMIT // 2 : -2]]
    if at_once and head.startswith(b"\r\n"):
        return  # which the parser passes over within one read: a bound of its own
    if head.count(b"X: y\r\n") == 250 and not at_once:
        return  # it is its number of lines, which is known at its end
    assert refused(hasty, *parts) == (431, "headers_too_large")


def test_openais_clients_are_refused_in_their_own_envelope(hasty: Server) -> None:
    sent = b"GET /v1/models?x HTTP/1.1\r\nHost: localhost\r\n"
    for rest, code in (
        (b"X: " + b"y" * HEAD_LIMIT + b"\r\n\r\n", b"headers_too_large"),
        (b": x\r\n\r\n", b"bad_request"),
    ):
        _, _, body = asked(hasty, sent + rest).partition(b"\r\n\r\n")
        error = json.loads(body)["error"]
        assert (error["type"], error["code"].encode()) == ("invalid_request_error", code)


def test_an_endless_head_is_refused_while_it_still_comes(hasty: Server) -> None:
    with connect(hasty.port) as connection:
        connection.sendall(GET)
        for _ in range(500):
            connection.sendall(b"X: " + b"y" * 10_000 + b"\r\n")
        assert read_answer(connection).status_code == 431


def test_a_head_of_just_under_the_limit_is_taken_however_many_came_before(hasty: Server) -> None:
    with connect(hasty.port) as connection:
        for _ in range(4):
            connection.sendall(GET + b"X: " + b"y" * (HEAD_LIMIT - 100) + b"\r\n\r\n")
            assert read_answer(connection).status_code == 200


def test_requests_ahead_of_their_answers_are_answered_in_order(hasty: Server) -> None:
    requests = [b"GET /%d HTTP/1.1\r\nHost: localhost\r\nX-Correlation-Id: n%d\r\n\r\n" % (n, n) for n in range(8)]
    answers = asked(hasty, b"".join(requests))
    assert re.findall(rb"x-correlation-id: (\S+)", answers) == [b"n%d" % n for n in range(8)]


def test_of_too_many_requests_ahead_the_first_are_answered_and_the_rest_are_not(hasty: Server) -> None:
    answers = asked(hasty, (GET + b"\r\n") * 500)
    assert 8 <= len(statuses(answers)) < 20
    assert set(statuses(answers)) == {200}


def test_what_comes_behind_a_last_request_is_not_read(hasty: Server) -> None:
    answers = asked(hasty, GET + b"Connection: close\r\n\r\n" + HIDDEN + HIDDEN)
    assert statuses(answers) == [200]


def test_nonsense_behind_a_request_breaks_nothing_of_its_answer(hasty: Server) -> None:
    assert statuses(asked(hasty, GET + b"\r\n" + b"\x00nonsense\r\n\r\n")) == [200]


def test_the_server_is_well_after_all_that(hasty: Server) -> None:
    assert_serves(hasty)
    assert not [line for line in hasty.log_lines() if line["level"] in {"warning", "error"}]
