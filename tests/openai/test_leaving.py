"""Replies that are kept nowhere: they end with their client, wait for their turn as all others, and stay alive."""

from collections.abc import Callable
from pathlib import Path

import openai
import pytest
from openai import OpenAI

from mochi_server.ollama.standin import Behaviour, Gate
from tests.chat.clients import eventually, leave_with_a_reset
from tests.openai.clients import HELLO, ask, chunks_of, content, nothing_written, official, raw_stream, refused, stream
from tests.raw_http import RawClient
from tests.server import LIMIT, Server
from tests.standin_thread import StandInThread
from tests.tiny_models import HELLO as PIECES

ENVIRONMENT = {
    "MOCHI_MAX_CONCURRENT": "1",
    "MOCHI_MAX_QUEUE": "1",
    "MOCHI_DISCONNECT_GRACE": "3600",
    "MOCHI_HEARTBEAT_SECONDS": "0.1",
    "MOCHI_ON_DISCONNECT": "continue",
}
SAID = "".join(PIECES)


def begun(server: Server, raw: RawClient, **fields: object) -> None:
    """Ask for a stream and read until its first words."""
    raw_stream(server, raw, **{"stream": True, **fields})
    raw.read_head()
    assert raw.answer.status == 200
    while b'"content":"a"' not in raw.answer.body:
        assert raw.read_chunk()


@pytest.mark.parametrize("leave", [RawClient.leave, leave_with_a_reset])
def test_a_client_that_leaves_a_stream_ends_its_reply_at_once(
    server: Server, standin: StandInThread, leave: Callable[[RawClient], None]
) -> None:
    abandoned = standin.abandoned
    standin.script(Behaviour(pieces=("a", "b"), gate=Gate(1)))
    with RawClient(server.url) as raw:
        begun(server, raw)
        leave(raw)
        standin.wait_until(lambda s: s.abandoned == abandoned + 1)


@pytest.mark.parametrize("streamed", [True, False])
def test_a_client_that_leaves_before_the_first_token_or_a_whole_answer_ends_its_reply_too(
    server: Server, standin: StandInThread, *, streamed: bool
) -> None:
    abandoned, gate = standin.abandoned, Gate()
    standin.script(Behaviour(gate=gate))
    with RawClient(server.url) as raw:
        raw_stream(server, raw, stream=streamed)
        gate.wait()
    standin.wait_until(lambda s: s.abandoned == abandoned + 1)


def test_the_official_client_closing_its_stream_ends_the_reply(client: OpenAI, standin: StandInThread) -> None:
    abandoned = standin.abandoned
    standin.script(Behaviour(pieces=("a", "b"), gate=Gate(1)))
    with client.chat.completions.create(model="tiny", messages=HELLO, stream=True) as chunks:
        next(chunk for chunk in chunks if chunk.choices[0].delta.content == "a")
    standin.wait_until(lambda s: s.abandoned == abandoned + 1)


def test_heartbeats_keep_a_silent_stream_alive_and_no_client_minds(
    client: OpenAI, server: Server, standin: StandInThread
) -> None:
    gate = Gate(0, 2)
    standin.script(Behaviour(gate=gate))
    with RawClient(server.url) as raw:
        raw_stream(server, raw)
        raw.read_head()  # after a heartbeat's time, though there is no token
        while raw.answer.body.count(b": keep-alive\n") < 2:
            assert raw.read_chunk()
        gate.open(0)
        while b" there" not in raw.answer.body:
            assert raw.read_chunk()
        before = raw.answer.body.count(b": keep-alive\n")
        while raw.answer.body.count(b": keep-alive\n") < before + 2:
            assert raw.read_chunk()
        gate.open()
        chunks = chunks_of(raw.read_rest().body)
    assert "".join(c["choices"][0]["delta"].get("content", "") for c in chunks) == SAID

    standin.script(Behaviour(delay=0.3, interval=0.12, pieces=("a", "b", "c")))
    assert [c.choices[0].delta.content for c in stream(client)] == ["", "a", "b", "c", None]


def test_what_fails_after_a_heartbeat_is_an_error_chunk(client: OpenAI, standin: StandInThread) -> None:
    standin.script(Behaviour(delay=0.3, fault="reset"))
    with pytest.raises(openai.APIError) as caught:
        stream(client)
    assert not isinstance(caught.value, openai.APIStatusError)
    assert (caught.value.code, caught.value.param) == ("ollama_error", None)


def test_replies_wait_their_turn_with_all_others_and_a_full_queue_is_told(
    client: OpenAI, server: Server, standin: StandInThread
) -> None:
    gate = Gate(1)
    standin.script(Behaviour(pieces=("a", "b"), gate=gate))
    session = server.new_session()
    answers: list[str] = []
    with RawClient(server.url) as first, RawClient(server.url) as second:
        begun(server, first)
        chats = len(standin.chats)
        raw_stream(server, second)
        second.read_head()  # it waits: the head comes with the first heartbeat
        error = refused(client)
        assert isinstance(error, openai.InternalServerError)
        assert (error.status_code, error.code) == (503, "queue_full")
        assert int(error.response.headers["retry-after"]) > 0
        assert server.error("POST", f"/chat/{session}", {"message": "hi"})[:2] == (503, "queue_full")
        assert len(standin.chats) == chats
        gate.open()
        answers = [first.read_rest().body.decode(), second.read_rest().body.decode()]
    assert ['"finish_reason":"stop"' in answer for answer in answers] == [True, True]
    assert server.contents(session) == []


def test_one_that_leaves_the_queue_makes_room(client: OpenAI, server: Server, standin: StandInThread) -> None:
    gate = Gate(1)
    standin.script(Behaviour(pieces=("a", "b"), gate=gate))
    with RawClient(server.url) as first:
        begun(server, first)
        with RawClient(server.url) as second:
            raw_stream(server, second)
            second.read_head()

        def in_its_place() -> str | None:
            """What another one hears, once there is room."""
            try:
                with client.chat.completions.create(model="tiny", messages=HELLO, stream=True) as chunks:
                    gate.open()
                    return content(list(chunks))
            except openai.InternalServerError:
                return None

        assert eventually(in_its_place) == SAID


def test_a_stop_of_the_server_tells_who_could_not_wait(tmp_path: Path, standin: StandInThread) -> None:
    environment = {**ENVIRONMENT, "MOCHI_SHUTDOWN_SECONDS": "1"}
    standin.script(Behaviour(pieces=("a", "b"), gate=Gate(1)))
    with Server(tmp_path, standin.url, environment=environment) as server, RawClient(server.url) as raw:
        begun(server, raw)
        assert server.stop() == 0
        *_, last = chunks_of(raw.read_rest().body)
        assert last["error"]["code"] == "shutting_down"
    assert list(server.sessions.glob("*.json")) == []


def test_after_all_that_nothing_is_written(server: Server) -> None:
    for listed in server.ok("GET", "/sessions")["sessions"]:
        server.ok("DELETE", f"/sessions/{listed['session_id']}")
    assert nothing_written(server)


def test_a_reply_that_met_a_limit_of_ours_has_the_length_for_a_reason(tmp_path: Path, standin: StandInThread) -> None:
    environment = {"MOCHI_MAX_REPLY_CHARS": "5"}
    standin.script(Behaviour(pieces=("abc", "def", "ghi"), interval=0.05))
    with Server(tmp_path, standin.url, environment=environment) as server, official(server, timeout=LIMIT) as client:
        choice = ask(client).choices[0]
    assert (choice.message.content, choice.finish_reason) == ("abcdef", "length")
