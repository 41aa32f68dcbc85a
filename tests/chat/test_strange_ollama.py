"""An Ollama that answers in bytes of a test's own: what the stand-in does not say."""

import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from tests.server import LIMIT, Server, names
from tests.standin_thread import StandInThread

LINE = b'{"message":{"role":"assistant","content":"one"},"done":false}\n'
LAST = b'{"message":{"role":"assistant","content":""},"done":true,"done_reason":"stop"}\n'


@contextmanager
def canned(server: Server, standin: StandInThread, *answers: bytes) -> Iterator[str]:
    """Answer the coming requests with these bytes, one connection each, in the stand-in's place; a session's id."""
    session = server.new_session()
    address = ("127.0.0.1", int(standin.url.rpartition(":")[2]))
    standin.close()
    try:
        with closing(socket.create_server(address)) as listener:
            listener.settimeout(LIMIT)
            thread = threading.Thread(target=_answer, args=(listener, answers))
            thread.start()
            yield session
            thread.join(LIMIT)
    finally:
        standin.start()


def _answer(listener: socket.socket, answers: tuple[bytes, ...]) -> None:
    for answer in answers:
        connection, _ = listener.accept()
        with closing(connection), connection.makefile("rb") as request:
            length = 0
            while (line := request.readline().strip()) != b"":
                if line.lower().startswith(b"content-length:"):
                    length = int(line.partition(b":")[2])
            request.read(length)
            connection.sendall(answer)


@pytest.mark.parametrize(
    ("header", "told"),
    [("", "2"), ("Retry-After: 17\r\n", "17"), ("Retry-After: Wed, 21 Oct 2026 07:28:00 GMT\r\n", "2")],
)
def test_a_busy_ollama_is_told_with_when_to_try_again(
    server: Server, standin: StandInThread, header: str, told: str
) -> None:
    answer = f'HTTP/1.1 503 Service Unavailable\r\n{header}Content-Length: 16\r\n\r\n{{"error":"busy!"}}'.encode()

    with canned(server, standin, answer, answer) as session:
        response = server.call("POST", f"/chat/{session}", {"message": "hi"})
        events = server.events(f"/chat/{session}/stream", {"message": None})

    assert (response.status_code, response.headers["retry-after"]) == (503, told)
    assert response.json()["detail"]["error"]["code"] == "ollama_busy"
    assert (names(events), events[0].data["code"]) == (["error", "done"], "ollama_busy")


@pytest.mark.parametrize(
    "answer",
    {
        "not HTTP at all": b"SSH-2.0-OpenSSH_9.6\r\n",
        "half a head": b"HTTP/1.1 200 OK\r\nContent-",
        "a head alone": b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n",
        "no byte": b"",
        "a bad chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        "half a line": b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n" + LINE[:9],
        "bytes that are no text": b'HTTP/1.1 200 OK\r\n\r\n{"message":{"content":"\xff\xfe"}}\n',
        "a line nested too deep": b"HTTP/1.1 200 OK\r\n\r\n" + b'{"message":' + b"[" * 100_000 + b"\n",
        "an early hint, then nothing": b"HTTP/1.1 103 Early Hints\r\n\r\n",
        "an answer to no question": b"HTTP/1.1 204 No Content\r\n\r\n",
        "an upgrade": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    }.items(),
    ids=lambda item: str(item[0]),
)
def test_what_does_not_speak_the_protocol_is_an_error_of_ollamas(
    server: Server, standin: StandInThread, answer: tuple[str, bytes]
) -> None:
    with canned(server, standin, answer[1], answer[1]) as session:
        events = server.events(f"/chat/{session}/stream", {"message": "hi"})
        status, code, _ = server.error("POST", f"/chat/{session}", {"message": "hi"})

    assert (names(events), events[0].data["code"]) == (["error", "done"], "ollama_error")
    assert (status, code) == (502, "ollama_error")
    assert server.contents(session) == [("user", "hi")]


@pytest.mark.parametrize(
    "answer",
    {
        "ended by its length": b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(LINE + LAST), LINE + LAST),
        "ended by the connection's end": b"HTTP/1.0 200 OK\r\n\r\n" + LINE + LAST,
        "without its last line feed": b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b"
        % (len(LINE + LAST) - 1, LINE + LAST.rstrip()),
        "with blank lines between": b"HTTP/1.0 200 OK\r\n\r\n\n" + LINE + b"\r\n\n" + LAST,
        "with lines ended as in a file of Windows": b"HTTP/1.0 200 OK\r\n\r\n" + (LINE + LAST).replace(b"\n", b"\r\n"),
        "with more after its end": b"HTTP/1.0 200 OK\r\n\r\n" + LINE + LAST + LINE,
        "with fields that are new": b"HTTP/1.0 200 OK\r\n\r\n" + LINE.replace(b"{", b'{"new":[1],', 1) + LAST,
    }.items(),
    ids=lambda item: str(item[0]),
)
def test_a_reply_is_taken_however_it_is_framed(
    server: Server, standin: StandInThread, answer: tuple[str, bytes]
) -> None:
    with canned(server, standin, answer[1]) as session:
        message = server.ok("POST", f"/chat/{session}", {"message": "hi"})["message"]

    assert (message["content"], message["status"], message["done_reason"]) == ("one", "complete", "stop")
