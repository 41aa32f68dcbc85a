"""Every way in which Ollama can fail: told by its code, nothing that came is lost, and the next turn works."""

import socket
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from mochi_server.ollama.standin import Behaviour, Fault, Gate
from tests.chat.clients import asked, ending, generating, last_message
from tests.server import Event, Server, names, told
from tests.standin_thread import StandInThread
from tests.tiny_models import HELLO

SAID = "".join(HELLO)
FORMS = ("stream", "whole")
LIMIT_MS = 300
ENVIRONMENT = {"MOCHI_CONNECT_TIMEOUT": "0.5"}


class Failure(NamedTuple):
    """What a client is told; `status` is None in a stream."""

    status: int | None
    code: str
    message: str
    details: dict[str, Any]


def streamed(events: list[Event]) -> Failure:
    """The failure at the end of a stream: an error, then done, and no message_complete."""
    error, done = events[-2:]
    assert names(events)[-2:] == ["error", "done"]
    assert "message_complete" not in names(events)
    assert set(error.data) == {"code", "message", "details", "correlation_id"}
    assert done.data["status"] == "error"
    return Failure(None, error.data["code"], error.data["message"], error.data["details"])


def failed(server: Server, session: str, form: str, message: str | None = "hi") -> Failure:
    """The failure of a reply of which nothing came."""
    if form == "stream":
        events = server.events(f"/chat/{session}/stream", {"message": message})
        assert names(events) == ["error", "done"]
        return streamed(events)
    response = server.call("POST", f"/chat/{session}", {"message": message})
    status, code, details = told(response)
    return Failure(status, code, response.json()["detail"]["error"]["message"], details)


def check_question_stands_and_is_answered_on_null(server: Server, session: str) -> None:
    assert server.contents(session) == [("user", "hi")]
    assert server.file(session)["messages"][0]["content"] == "hi"
    server.ok("POST", f"/chat/{session}", {"message": None})
    assert server.contents(session) == [("user", "hi"), ("assistant", SAID)]
    assert len(server.ok("GET", f"/sessions/{session}/tree")["messages"]) == 2


def answered(status: int, error: str) -> Behaviour:
    return Behaviour(fault="status", status=status, error=error)


REFUSALS = {
    "400": (answered(400, "no such thing"), 400, "ollama_rejected", "no such thing"),
    "400 of thinking": (answered(400, '"tiny" does not support thinking'), 400, "capability_missing", "thinking"),
    "400 of the window": (answered(400, "the input length exceeds the context length"), 400, "context_overflow", ""),
    "401": (answered(401, "unauthorized"), 502, "ollama_error", "unauthorized"),
    "404 of the model": (answered(404, "model 'tiny' not found"), 400, "model_not_found", "ollama pull tiny"),
    "404 of anything else": (answered(404, "404 page not found"), 502, "ollama_error", "404 page not found"),
    "500": (answered(500, "llama runner has terminated"), 502, "ollama_error", "llama runner has terminated"),
    "500 of the format": (answered(500, 'invalid format: "x"'), 400, "ollama_rejected", 'invalid format: "x"'),
    "500 of the schema": (answered(500, "invalid JSON schema in format"), 400, "ollama_rejected", "in format"),
    "500 of an option": (
        answered(500, 'option "seed" must be of type integer'),
        400,
        "ollama_rejected",
        "must be of type integer",
    ),
    "500 without words": (Behaviour(fault="status", body=b""), 502, "ollama_error", "500"),
    "500 that is no JSON": (Behaviour(fault="status", body=b"<h1>oops</h1>\xff"), 502, "ollama_error", "oops"),
    "500 that never ends": (Behaviour(fault="status", body=b"no" * 500_000), 502, "ollama_error", "nono"),
    "503": (answered(503, "server busy, please try again"), 503, "ollama_busy", "please try again"),
    "a redirect": (Behaviour(fault="redirect"), 502, "ollama_error", "302"),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("behaviour", "status", "code", "words"), REFUSALS.values(), ids=REFUSALS)
def test_an_answer_that_is_no_reply_is_told_with_its_words(
    server: Server, standin: StandInThread, behaviour: Behaviour, status: int, code: str, words: str, form: str
) -> None:
    session = server.new_session()
    standin.script(behaviour)

    failure = failed(server, session, form)

    assert failure.code == code
    assert failure.status in {None, status}
    assert words in failure.message
    assert len(failure.message) < 1500
    assert "message_id" not in failure.details
    standin.wait_until_idle()
    check_question_stands_and_is_answered_on_null(server, session)


BREAKS: tuple[Fault, ...] = ("error_line", "reset", "early_end", "no_done", "garbage", "wrong_shape", "huge_line")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("fault", BREAKS)
def test_a_reply_broken_off_before_its_first_token_leaves_the_question(
    server: Server, standin: StandInThread, fault: Fault, form: str
) -> None:
    session = server.new_session()
    standin.script(Behaviour(fault=fault))

    failure = failed(server, session, form)

    assert (failure.status or 502, failure.code) == (502, "ollama_error")
    assert "message_id" not in failure.details
    standin.wait_until_idle()
    check_question_stands_and_is_answered_on_null(server, session)


def broken_off(server: Server, session: str, form: str, gate: Gate) -> Failure:
    """The failure of a reply that the gate lets go on once its first piece, "one", has arrived."""
    if form == "stream":
        with server.stream(f"/chat/{session}/stream", {"message": "hi"}) as events:
            first = next(events)
            gate.open()
            rest = [*events]
        assert (first.data["content"], names(rest)) == ("one", ["error", "done"])
        return streamed(rest)
    with asked(server, (f"/chat/{session}", {"message": "hi"})) as (reply,):
        generating(server, session)
        gate.open()
        response = reply.result()
    status, code, details = told(response)
    return Failure(status, code, response.json()["detail"]["error"]["message"], details)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("fault", BREAKS)
def test_what_came_of_a_reply_broken_off_is_saved_as_interrupted(
    server: Server, standin: StandInThread, fault: Fault, form: str
) -> None:
    session, gate = server.new_session(), Gate(1)
    standin.script(Behaviour(pieces=("one", "two"), gate=gate, fault=fault, after=1))

    failure = broken_off(server, session, form, gate)

    assert (failure.status or 502, failure.code) == (502, "ollama_error")
    partial = last_message(server, session)
    assert ending(partial) == ("one", "interrupted", "error")
    assert failure.details["message_id"] == partial["message_id"]
    standin.wait_until_idle()
    assert server.ok("POST", f"/chat/{session}", {"message": "and?"})["message"]["content"] == SAID
    assert [content for _, content in server.contents(session)] == ["hi", "one", "and?", SAID]


def test_a_partial_reply_is_answered_anew_on_null_and_stays_in_the_tree(server: Server, standin: StandInThread) -> None:
    session = server.new_session()
    standin.script(Behaviour(pieces=("one", "two"), fault="no_done", after=2))
    assert streamed(server.events(f"/chat/{session}/stream", {"message": "hi"})).code == "ollama_error"

    server.ok("POST", f"/chat/{session}", {"message": None})

    assert server.contents(session) == [("user", "hi"), ("assistant", SAID)]
    tree = server.ok("GET", f"/sessions/{session}/tree")["messages"]
    assert [m["content"] for m in tree] == ["hi", SAID, "onetwo"]


@pytest.mark.parametrize("form", FORMS)
def test_thoughts_of_a_reply_broken_off_are_kept(server: Server, standin: StandInThread, form: str) -> None:
    session = server.new_session(model="tiny-think")
    standin.script(Behaviour(thinking=("hm", " hm"), pieces=("one",), fault="no_done", after=2))

    response = server.call("POST", f"/chat/{session}{'/stream' if form == 'stream' else ''}", {"message": "hi"})

    partial = last_message(server, session)
    assert (partial["thinking"], *ending(partial)) == ("hm hm", "", "interrupted", "error")
    assert partial["message_id"] in response.text


def test_a_missing_model_is_told_with_the_models_there_are(server: Server, standin: StandInThread) -> None:
    session = server.new_session()
    standin.script(answered(404, "model 'tiny' not found"))

    failure = failed(server, session, "whole")

    assert failure.details["model"] == "tiny"
    assert {"tiny:latest", "tiny-think:latest"} <= set(failure.details["available"])


@pytest.mark.parametrize("form", FORMS)
def test_a_history_that_does_not_fit_is_told_with_its_place_and_can_be_edited(server: Server, form: str) -> None:
    session = server.new_session(system_prompt="Be kind.", options={"num_ctx": 60})
    server.ok("POST", f"/chat/{session}", {"message": "hi"})

    failure = failed(server, session, form, "long " * 100)

    assert (failure.status or 400, failure.code) == (400, "context_overflow")
    assert {"estimated_tokens", "window", "model_limit", "message_index"} <= set(failure.details)
    assert failure.details["message_index"] == 3
    assert (failure.details["model_limit"], failure.details["window"]) == (4096, 60)
    server.ok("PUT", f"/sessions/{session}/messages/3", {"content": "short"})
    assert server.ok("POST", f"/chat/{session}", {"message": None})["message"]["content"] == SAID


def test_nothing_follows_a_redirect(server: Server, standin: StandInThread) -> None:
    with StandInThread() as elsewhere:
        session = server.new_session()
        locations = (f"{elsewhere.url}/api/chat", "/redirected")
        standin.script(*(Behaviour(fault="redirect", location=location) for location in locations))

        for _ in locations:
            assert failed(server, session, "stream").code == "ollama_error"

        assert elsewhere.requests == []
        assert "/redirected" not in [request.path for request in standin.requests]


@pytest.mark.parametrize("form", FORMS)
def test_an_ollama_that_is_down_is_told_and_one_that_is_back_is_used(
    server: Server, standin: StandInThread, form: str
) -> None:
    session = server.new_session()
    standin.close()
    try:
        failure = failed(server, session, form)
        assert (failure.status or 502, failure.code) == (502, "ollama_unreachable")
    finally:
        standin.start()

    check_question_stands_and_is_answered_on_null(server, session)


def test_an_ollama_killed_in_mid_reply_leaves_what_came(server: Server, standin: StandInThread) -> None:
    session = server.new_session()
    standin.script(Behaviour(gate=Gate(2)))

    with server.stream(f"/chat/{session}/stream", {"message": "hi"}) as events:
        first = [next(events), next(events)]
        standin.close()
        failure = streamed([*events])
    standin.start()

    assert failure.code == "ollama_error"
    said = "".join(event.data["content"] for event in first)
    assert ending(last_message(server, session)) == (said, "interrupted", "error")


@pytest.fixture
def impatient(tmp_path: Path, standin: StandInThread) -> Iterator[Server]:
    """A server that waits 0.4 s for a first token, and 0.3 s for any other."""
    environment = {"MOCHI_FIRST_TOKEN_TIMEOUT": "0.4", "MOCHI_TOKEN_TIMEOUT": "0.3"}
    with Server(tmp_path, standin.url, environment=environment) as server:
        yield server


@pytest.mark.parametrize("form", FORMS)
def test_silence_is_a_timeout_and_closes_the_connection_to_ollama(
    impatient: Server, standin: StandInThread, form: str
) -> None:
    abandoned, session = standin.abandoned, impatient.new_session()
    standin.script(Behaviour(fault="silence"))
    failure = failed(impatient, session, form)
    assert (failure.status or 504, failure.code, failure.details) == (504, "ollama_timeout", {"limit_seconds": 0.4})
    standin.wait_until(lambda s: s.abandoned == abandoned + 1)
    check_question_stands_and_is_answered_on_null(impatient, session)

    session = impatient.new_session()
    standin.script(Behaviour(pieces=("one", "two"), fault="silence", after=1))
    failure = broken_off(impatient, session, form, Gate())
    partial = last_message(impatient, session)
    assert (failure.status or 504, failure.code) == (504, "ollama_timeout")
    assert failure.details == {"limit_seconds": 0.3, "message_id": partial["message_id"]}
    assert ending(partial) == ("one", "interrupted", "error")
    standin.wait_until(lambda s: s.abandoned == abandoned + 2)


def test_a_slow_reply_is_no_silent_one(impatient: Server, standin: StandInThread) -> None:
    session = impatient.new_session()
    standin.script(Behaviour(interval=0.06))

    assert impatient.ok("POST", f"/chat/{session}", {"message": "hi"})["message"]["content"] == SAID


@pytest.mark.skipif(sys.platform != "linux", reason="only there does a full queue leave a connection hanging")
def test_a_host_that_does_not_answer_a_connection_is_a_timeout(tmp_path: Path) -> None:
    with closing(socket.socket()) as hung, closing(socket.socket()) as queued:
        hung.bind(("127.0.0.1", 0))
        port = hung.getsockname()[1]
        with Server(tmp_path, f"http://127.0.0.1:{port}", environment=ENVIRONMENT) as server:
            session = server.new_session()  # a connection is refused until it listens, so the model is taken on trust
            hung.listen(0)
            queued.connect(("127.0.0.1", port))

            for form in FORMS:
                failure = failed(server, session, form)
                assert (failure.status or 504, failure.code) == (504, "ollama_timeout")
                assert failure.details == {"limit_seconds": 0.5}
            assert server.contents(session) == [("user", "hi")]
