"""Each fault that a test can script is seen on the wire as described, and a client that leaves is noticed."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from mochi_server.ollama.standin import HUGE_LINE, LOADING, Behaviour, Fault, Gate
from tests.raw_http import LIMIT, RawAnswer, RawClient, chat, chatting, exchange
from tests.standin_thread import StandInThread
from tests.tiny_models import HELLO

PIECES = ("a", "b", "c")


@pytest.fixture
def ollama() -> Iterator[StandInThread]:
    with StandInThread() as running:
        yield running


def said(answer: RawAnswer) -> list[str]:
    """The pieces of a streamed answer, up to the first line that is not one."""
    pieces: list[str] = []
    for raw in answer.body.splitlines():
        try:
            line = json.loads(raw)
        except ValueError:
            break
        if "error" in line or line["done"] is not False:
            break
        pieces.append(line["message"]["content"])
    return pieces


def loaded(ollama: StandInThread) -> dict[str, int]:
    models = exchange(ollama.url, "GET", "/api/ps").lines[0]["models"]
    return {model["name"]: model["context_length"] for model in models}


def test_scripted_pieces_replace_the_models_own_for_one_call(ollama: StandInThread) -> None:
    ollama.script(Behaviour(pieces=PIECES, prompt_eval_count=70, eval_count=0, done_reason="length"))

    answer = chat(ollama.url)

    last = answer.lines[-1]
    assert said(answer) == [*PIECES]
    assert (last["done"], last["done_reason"], last["prompt_eval_count"]) == (True, "length", 70)
    assert "eval_count" not in last
    assert said(chat(ollama.url)) == [*HELLO]


def test_scripted_thinking_comes_before_the_pieces(ollama: StandInThread) -> None:
    ollama.script(Behaviour(thinking=("hm",), pieces=PIECES))

    messages = [line["message"] for line in chat(ollama.url).lines]

    assert messages[0] == {"role": "assistant", "content": "", "thinking": "hm"}
    assert [message["content"] for message in messages[1:]] == [*PIECES, ""]


def test_a_status_comes_before_the_first_token(ollama: StandInThread) -> None:
    ollama.script(Behaviour(fault="status", status=503, error="busy"), Behaviour(fault="status", body=b"<oops>"))

    busy, raw = chat(ollama.url), chat(ollama.url)

    assert (busy.status, busy.body) == (503, b'{"error":"busy"}')
    assert (raw.status, raw.body) == (500, b"<oops>")


def test_a_redirect_names_another_address(ollama: StandInThread) -> None:
    ollama.script(Behaviour(fault="redirect"))

    answer = chat(ollama.url)

    assert (answer.status, answer.headers["Location"]) == (302, "/redirected")


@pytest.mark.parametrize("fault", ["status", "redirect"])
def test_what_needs_a_status_line_cannot_be_scripted_for_later(fault: Fault) -> None:
    with pytest.raises(ValueError, match="before the first piece"):
        Behaviour(fault=fault, after=1)


@pytest.mark.parametrize("after", [0, 2, 3])
def test_an_error_line_is_the_last_and_the_body_ends_properly(ollama: StandInThread, after: int) -> None:
    ollama.script(Behaviour(pieces=PIECES, fault="error_line", error="out of memory", after=after))

    answer = chat(ollama.url)

    assert (answer.status, answer.whole) == (200, True)
    assert said(answer) == [*PIECES[:after]]
    assert answer.lines[-1] == {"error": "out of memory"}


@pytest.mark.parametrize("after", [0, 2, 3])
def test_a_reset_breaks_the_connection(ollama: StandInThread, after: int) -> None:
    gate = Gate(after)
    ollama.script(Behaviour(pieces=PIECES, fault="reset", after=after, gate=gate))

    with chatting(ollama.url) as client:
        gate.wait(after)
        if after:
            client.read_head()
        for _ in range(after):
            client.read_chunk()
        gate.open()
        answer = client.read_rest()

    assert (answer.reset, answer.whole) == (True, False)
    assert said(answer) == [*PIECES[:after]]


@pytest.mark.parametrize("after", [0, 2, 3])
def test_an_early_end_has_no_last_chunk(ollama: StandInThread, after: int) -> None:
    ollama.script(Behaviour(pieces=PIECES, fault="early_end", after=after))

    answer = chat(ollama.url)

    assert answer.status == (200 if after else 0)
    assert (answer.reset, answer.whole) == (False, False)
    assert said(answer) == [*PIECES[:after]]


def test_no_done_is_a_proper_end_without_the_done_line(ollama: StandInThread) -> None:
    ollama.script(Behaviour(pieces=PIECES, fault="no_done", after=9))

    answer = chat(ollama.url)

    assert answer.whole
    assert said(answer) == [*PIECES]
    assert len(answer.lines) == len(PIECES)


@pytest.mark.parametrize("after", [0, 2])
def test_silence_lasts_until_the_client_leaves(ollama: StandInThread, after: int) -> None:
    ollama.script(Behaviour(pieces=PIECES, fault="silence", after=after))

    with chatting(ollama.url) as client:
        if after:
            client.read_head()
        for _ in range(after):
            client.read_chunk()
        client.socket.settimeout(0.05)
        with pytest.raises(TimeoutError):
            client.socket.recv(1)
        assert (ollama.active, ollama.abandoned) == (1, 0)

    ollama.wait_until(lambda standin: (standin.active, standin.abandoned) == (0, 1))
    assert said(client.answer) == [*PIECES[:after]]


@pytest.mark.parametrize(("fault", "is_json"), [("garbage", False), ("wrong_shape", True)])
def test_a_line_that_is_no_chunk_is_slipped_in(ollama: StandInThread, fault: Fault, *, is_json: bool) -> None:
    ollama.script(Behaviour(pieces=PIECES, fault=fault, after=2))

    answer = chat(ollama.url)

    slipped = answer.body.splitlines().pop(2)
    assert said(answer) == [*PIECES[:2]]
    assert answer.whole
    assert len(answer.body.splitlines()) == len(PIECES) + 2
    if is_json:
        assert isinstance(json.loads(slipped)["message"], list)
    else:
        with pytest.raises(ValueError, match="Expecting value"):
            json.loads(slipped)


def test_a_huge_line_has_no_end(ollama: StandInThread) -> None:
    ollama.script(Behaviour(pieces=PIECES, fault="huge_line", after=1))

    answer = chat(ollama.url)

    line = answer.body.partition(b"\n")[2]
    assert len(line) >= HUGE_LINE
    assert b"\n" not in line
    assert not answer.whole


def test_a_dribbled_body_is_one_byte_a_chunk_and_otherwise_the_same(ollama: StandInThread) -> None:
    ollama.script(Behaviour(pieces=("é", "\u2028"), dribble=True))

    answer = chat(ollama.url)

    assert {len(chunk) for chunk in answer.chunks} == {1}
    assert said(answer) == ["é", "\u2028"]
    assert answer.whole


def test_coalesced_lines_come_in_one_chunk_up_to_a_hold(ollama: StandInThread) -> None:
    gate = Gate(2)
    ollama.script(Behaviour(pieces=PIECES, coalesce=True, gate=gate))

    with chatting(ollama.url) as client:
        client.read_head()
        assert client.read_chunk().count(b"\n") == 2
        gate.open()
        answer = client.read_rest()

    assert [chunk.count(b"\n") for chunk in answer.chunks] == [2, 2]
    assert said(answer) == [*PIECES]


def test_nothing_is_sent_before_the_first_token(ollama: StandInThread) -> None:
    gate = Gate()
    ollama.script(Behaviour(gate=gate))

    with chatting(ollama.url) as client:
        gate.wait()
        client.socket.settimeout(0.05)
        with pytest.raises(TimeoutError):
            client.socket.recv(1)
        gate.open()
        client.socket.settimeout(LIMIT)
        assert client.socket.recv(12) == b"HTTP/1.1 200"


def test_a_delay_passes_before_the_first_byte_and_an_interval_between_pieces(ollama: StandInThread) -> None:
    ollama.script(Behaviour(pieces=PIECES, delay=0.02, interval=0.01))

    last = chat(ollama.url).lines[-1]

    assert last["prompt_eval_duration"] >= 0.019e9
    assert 0.019e9 <= last["eval_duration"] < 1e9


def test_a_model_is_listed_once_it_is_loaded(ollama: StandInThread) -> None:
    gate = Gate(LOADING, 0)
    ollama.script(Behaviour(gate=gate))

    with chatting(ollama.url) as client:
        gate.wait(LOADING)
        while_loading = loaded(ollama)
        gate.open(LOADING)
        gate.wait(0)
        while_reading_the_prompt = loaded(ollama)
        gate.open()
        assert client.read_rest().whole

    assert while_loading == {}
    assert while_reading_the_prompt == {"tiny:latest": 4096}


def test_a_call_that_needs_another_window_waits_for_every_running_reply(ollama: StandInThread) -> None:
    first, second = Gate(1), Gate()
    ollama.script(Behaviour(gate=first), Behaviour(gate=second))

    with chatting(ollama.url) as holder:
        first.wait(1)
        with chatting(ollama.url, options={"num_ctx": 256}) as waiting:
            ollama.wait_until(lambda standin: standin.active == 2)
            assert loaded(ollama) == {"tiny:latest": 4096}
            first.open()
            second.wait(0)
            assert loaded(ollama) == {"tiny:latest": 256}
            second.open()
            assert (holder.read_rest().whole, waiting.read_rest().whole) == (True, True)


@pytest.mark.parametrize("place", [LOADING, 0, 2])
def test_a_leaving_client_is_noticed_wherever_the_reply_is(ollama: StandInThread, place: int) -> None:
    gate = Gate(place)
    ollama.script(Behaviour(pieces=PIECES, gate=gate))

    with chatting(ollama.url):
        gate.wait(place)
        assert (ollama.active, ollama.abandoned) == (1, 0)

    ollama.wait_until(lambda standin: (standin.active, standin.abandoned) == (0, 1))
    gate.open()


def test_a_client_that_reads_to_the_end_has_not_left(ollama: StandInThread) -> None:
    for _ in range(20):
        with chatting(ollama.url) as client:
            client.read_head()
            while b'"done":true' not in client.read_chunk():
                pass

    ollama.wait_until_idle()
    assert ollama.abandoned == 0


def test_faults_of_a_reply_that_is_not_streamed(ollama: StandInThread) -> None:
    faults: list[Fault] = ["error_line", "early_end", "no_done", "garbage", "wrong_shape"]
    ollama.script(*(Behaviour(fault=fault, after=2) for fault in faults))

    error, early, no_done, garbage, wrong = (chat(ollama.url, stream=False) for _ in faults)

    assert (error.status, list(error.lines[0])) == (500, ["error"])
    assert (early.status, early.body) == (0, b"")
    assert (no_done.lines[0]["done"], no_done.lines[0]["message"]["content"]) == (False, "Hello there")
    assert garbage.body.startswith(b"<html>")
    assert isinstance(wrong.lines[0]["message"], list)


def test_one_gate_holds_several_replies(ollama: StandInThread) -> None:
    gate = Gate(1)
    ollama.script(Behaviour(gate=gate), Behaviour(gate=gate))

    with chatting(ollama.url) as one, chatting(ollama.url) as other:
        gate.wait(1, replies=2)
        assert ollama.active == 2
        gate.open()
        assert (one.read_rest().whole, other.read_rest().whole) == (True, True)


def test_a_wait_that_is_not_met_says_so(ollama: StandInThread) -> None:
    with pytest.raises(TimeoutError):
        Gate().wait(limit=0.01)
    with pytest.raises(TimeoutError):
        ollama.wait_until(lambda standin: standin.active == 1, limit=0.01)


def test_refused_and_empty_calls_take_nothing_from_the_script(ollama: StandInThread) -> None:
    ollama.script(Behaviour(pieces=PIECES))

    refused: list[dict[str, Any]] = [{"model": "nope"}, {"think": True}, {"messages": []}, {"options": {"top_k": "x"}}]
    statuses = [chat(ollama.url, **body).status for body in refused]

    assert statuses == [404, 400, 200, 500]
    assert said(chat(ollama.url)) == [*PIECES]
    assert [request.json["model"] for request in ollama.chats] == ["nope", "tiny", "tiny", "tiny", "tiny"]


def test_what_reached_it_can_be_looked_at(ollama: StandInThread) -> None:
    chat(ollama.url, options={"seed": 7})
    exchange(ollama.url, "POST", "/api/chat?x=1", b"{nonsense")

    fine, broken = ollama.requests
    assert (fine.method, fine.path, fine.json["options"]) == ("POST", "/api/chat", {"seed": 7})
    assert fine.headers["connection"] == "close"
    assert (broken.path, broken.body, broken.json) == ("/api/chat", b"{nonsense", None)


def test_a_head_request_is_answered_without_a_body(ollama: StandInThread) -> None:
    answer = exchange(ollama.url, "HEAD", "/api/version")

    assert (answer.status, answer.headers["Content-Length"], answer.body) == (200, "20", b"")


def test_a_chunked_request_body_is_read(ollama: StandInThread) -> None:
    with RawClient(ollama.url) as client:
        head = b"POST /api/show HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        client.socket.sendall(head + b'9\r\n{"model":\r\n8;x=y\r\n "tiny"}\r\n0\r\nTrailer: z\r\n\r\n')
        assert client.read_rest().lines[0]["capabilities"] == ["completion"]


@pytest.mark.parametrize("raw", [b"\x16\x03\x01\r\n\r\n", b"GET / SPDY/1\r\n\r\n", b"GET / HTTP/1.1\r\nnope\r\n\r\n"])
def test_what_is_no_http_request_is_told_so(ollama: StandInThread, raw: bytes) -> None:
    with RawClient(ollama.url) as client:
        client.socket.sendall(raw)
        assert client.read_rest().status == 400


def test_it_can_be_killed_in_mid_reply_and_started_again_on_the_same_port(ollama: StandInThread) -> None:
    gate, url = Gate(1), ollama.url
    ollama.script(Behaviour(gate=gate))

    with chatting(url) as client:
        gate.wait(1)
        ollama.close()
        answer = client.read_rest()
    with pytest.raises(ConnectionRefusedError):
        chat(url)
    ollama.start()

    assert not answer.whole
    assert (ollama.url, ollama.abandoned, loaded(ollama)) == (url, 0, {})
    assert chat(url).whole


def test_a_model_is_unloaded_when_its_time_is_over(ollama: StandInThread) -> None:
    chat(ollama.url, keep_alive=0)
    at_once = loaded(ollama)
    chat(ollama.url, keep_alive=-1, options={"num_ctx": 512})
    for_ever = loaded(ollama)
    chat(ollama.url, messages=[], keep_alive="0s")

    assert (at_once, for_ever, loaded(ollama)) == ({}, {"tiny:latest": 512}, {})
