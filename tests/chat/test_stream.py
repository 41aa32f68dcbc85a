"""A streamed reply: its events, their order and form, its headers, and what is on disk when each arrives."""

import re
from collections.abc import Iterator

import pytest

from mochi_server.ollama.standin import LOADING, Behaviour, ChatCall, Gate, Model, Reply, StandIn
from tests.chat.clients import parsed, raw_chat
from tests.server import Event, Server, joined, names
from tests.standin_thread import StandInThread
from tests.tiny_models import ANSWER, HELLO, THINKING

SAID = "".join(HELLO)
KEYS = {
    "content_delta": {"content", "role"},
    "thinking_delta": {"content"},
    "message_complete": {
        *("message_id", "model", "eval_count", "prompt_eval_count", "done_reason", "status", "stats"),
        *("context_window", "model_digest", "options", "context"),
    },
    "done": {"session_id", "generation_id", "status"},
}
STATS = {"ttft_ms", "total_ms", "load_ms", "tokens_per_second", "outgrew_window"}


@pytest.fixture
def session(server: Server) -> str:
    return server.new_session()


@pytest.fixture
def thinker(server: Server) -> str:
    return server.new_session(model="tiny-think")


def test_a_message_is_answered_in_deltas_and_both_are_kept(server: Server, session: str) -> None:
    events = server.events(f"/chat/{session}/stream", {"message": "hi"})

    assert names(events) == ["content_delta", "message_complete", "done"]
    assert joined(events) == SAID
    assert server.contents(session) == [("user", "hi"), ("assistant", SAID)]


def test_each_piece_that_ollama_sends_is_a_delta_of_its_own(server: Server, session: str) -> None:
    events = server.events(f"/chat/{session}/stream", {"message": "hi"})

    assert [e.data["content"] for e in events if e.name == "content_delta"] == [*HELLO]


def test_events_are_numbered_from_1_without_gaps_under_the_generations_id(server: Server, thinker: str) -> None:
    events = server.events(f"/chat/{thinker}/stream", {"message": "hi", "think": True})

    generation = events[-1].data["generation_id"]
    assert re.fullmatch(r"[0-9a-f]{10}", generation)
    assert [e.id for e in events] == [f"{generation}-{n}" for n in range(1, len(events) + 1)]


def test_each_event_has_the_keys_of_its_table_and_no_others(server: Server, thinker: str) -> None:
    events = server.events(f"/chat/{thinker}/stream", {"message": "hi", "think": True})

    assert names(events) == ["thinking_delta", "content_delta", "message_complete", "done"]
    for event in events:
        assert set(event.data) == KEYS[event.name]
    assert {e.data["role"] for e in events if e.name == "content_delta"} == {"assistant"}


def test_message_complete_tells_what_was_saved(server: Server, session: str) -> None:
    *_, complete, _done = server.events(f"/chat/{session}/stream", {"message": "hi"})

    saved = server.file(session)["messages"][-1]
    assert complete.name == "message_complete"
    told = {key: complete.data[key] for key in KEYS["message_complete"] - {"context_window"}}
    assert told == {key: saved[key] for key in told}
    assert (saved["model"], saved["status"], saved["done_reason"]) == ("tiny", "complete", "stop")
    assert (saved["eval_count"], saved["prompt_eval_count"]) == (len(HELLO) + 1, 5)
    assert set(saved["stats"]) == STATS
    assert 0 <= saved["stats"]["ttft_ms"] <= saved["stats"]["total_ms"]
    assert set(complete.data["context_window"]) == {"current_window", "usage_tokens", "reason"}
    assert complete.data["context_window"]["usage_tokens"] == len(HELLO) + 1 + 5


def test_done_names_the_session_and_how_the_reply_ended(server: Server, session: str) -> None:
    done = server.events(f"/chat/{session}/stream", {"message": "hi"})[-1]

    generation = done.id.partition("-")[0]
    assert done.data == {"session_id": session, "generation_id": generation, "status": "complete"}


def test_a_reply_without_a_word_is_complete(server: Server, standin: StandInThread, session: str) -> None:
    standin.script(Behaviour(pieces=()))

    events = server.events(f"/chat/{session}/stream", {"message": "hi"})

    assert names(events) == ["message_complete", "done"]
    assert server.contents(session) == [("user", "hi"), ("assistant", "")]


def test_the_limit_of_ollamas_own_is_told_as_the_reason(server: Server, session: str) -> None:
    events = server.events(f"/chat/{session}/stream", {"message": "hi", "options": {"num_predict": 3}})

    assert joined(events) == "".join(HELLO[:3])
    assert (events[-2].data["done_reason"], events[-2].data["status"]) == ("length", "complete")


def test_the_headers_are_those_of_a_stream_that_nobody_may_buffer(server: Server, session: str) -> None:
    response = server.call("POST", f"/chat/{session}/stream", {"message": "hi"}, x_correlation_id="mine.1")

    headers = response.headers
    assert headers["content-type"].partition(";")[0] == "text/event-stream"
    assert headers.get_list("cache-control") == ["no-store"]
    assert headers.get_list("x-accel-buffering") == ["no"]
    assert headers.get_list("x-correlation-id") == ["mine.1"]


def test_the_bytes_begin_with_retry_and_have_no_blank_line_before_the_first_event(server: Server, session: str) -> None:
    with raw_chat(server, f"/chat/{session}/stream", {"message": "hi"}) as client:
        answer = client.read_rest()

    assert answer.whole
    assert re.match(rb"retry: 1000\nid: [0-9a-f]{10}-1\nevent: content_delta\ndata: ", answer.body)
    assert answer.body.count(b"retry:") == 1
    assert joined(parsed(answer.body)) == SAID


def test_the_answer_begins_before_ollama_has_said_anything(
    server: Server, standin: StandInThread, session: str
) -> None:
    gate = Gate(LOADING)
    standin.script(Behaviour(gate=gate))

    with server.stream(f"/chat/{session}/stream", {"message": "hi"}) as events:
        gate.wait(LOADING)  # and the answer's head is here
        gate.open()
        assert joined([*events]) == SAID


def test_a_delta_comes_while_the_next_is_still_to_be_said(server: Server, standin: StandInThread, session: str) -> None:
    gate = Gate(1, 2)
    standin.script(Behaviour(gate=gate))

    with server.stream(f"/chat/{session}/stream", {"message": "hi"}) as events:
        assert next(events).data["content"] == HELLO[0]
        gate.open(1)
        assert next(events).data["content"] == HELLO[1]
        gate.open()
        assert names([*events]) == ["content_delta", "message_complete", "done"]


def test_the_reply_is_in_the_file_when_message_complete_arrives(server: Server, session: str) -> None:
    with server.stream(f"/chat/{session}/stream", {"message": "hi"}) as events:
        complete = next(e for e in events if e.name == "message_complete")
        saved = server.file(session)["messages"]
        rest = [*events]

    assert (saved[-1]["message_id"], saved[-1]["content"]) == (complete.data["message_id"], SAID)
    assert names(rest) == ["done"]


class Onlooker:
    """A model that notes what is in the session files at the moment it is asked."""

    def __init__(self) -> None:
        self.server: Server | None = None
        self.seen: list[str] = []

    def reply(self, _call: ChatCall) -> Reply:
        assert self.server is not None
        self.seen = [file.read_text("utf-8") for file in self.server.sessions.glob("*.json")]
        return Reply(pieces=HELLO)


@pytest.fixture
def onlooker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Onlooker]:
    looker = Onlooker()
    model = Model(name="tiny:latest", reply=looker.reply, digest="0" * 64)
    with StandInThread(StandIn([model])) as ollama, Server(tmp_path_factory.mktemp("seen"), ollama.url) as server:
        looker.server = server
        yield looker


@pytest.mark.parametrize("form", ["", "/stream"])
def test_the_users_message_is_in_the_file_before_ollama_is_asked(onlooker: Onlooker, form: str) -> None:
    assert onlooker.server is not None
    session = onlooker.server.new_session()

    for path, message in ((f"/chat/{session}{form}", "an old session"), (f"/chat{form}", "a new one")):
        onlooker.server.call("POST", path, {"message": message})

        assert [message in text for text in onlooker.seen].count(True) == 1


def test_thinking_is_streamed_apart_and_saved_apart(server: Server, thinker: str) -> None:
    events = server.events(f"/chat/{thinker}/stream", {"message": "hi", "think": True})

    assert joined(events, "thinking_delta") == "".join(THINKING)
    assert joined(events) == "".join(ANSWER)
    saved = server.file(thinker)["messages"][-1]
    assert (saved["thinking"], saved["content"]) == ("".join(THINKING), "".join(ANSWER))


def test_a_failures_event_and_the_answers_head_have_one_correlation_id(
    server: Server, standin: StandInThread, session: str
) -> None:
    standin.script(Behaviour(fault="status"))

    with raw_chat(server, f"/chat/{session}/stream", {"message": "hi"}) as client:
        answer = client.read_rest()

    error = parsed(answer.body)[0]
    assert set(error.data) == {"code", "message", "details", "correlation_id"}
    assert error.data["correlation_id"] == answer.headers["X-Correlation-Id"]


def test_a_stream_in_one_call_makes_a_session_and_names_it(server: Server) -> None:
    with raw_chat(server, "/chat/stream", {"message": "hi", "model": "tiny", "system_prompt": "Be kind."}) as client:
        answer = client.read_rest()

    events: list[Event] = parsed(answer.body)
    session = answer.headers["X-Session-Id"]
    assert events[-1].data["session_id"] == session
    assert server.contents(session) == [("system", "Be kind."), ("user", "hi"), ("assistant", joined(events))]


def test_a_client_that_reads_nothing_for_long_gets_all_of_it_in_the_end(server: Server, standin: StandInThread) -> None:
    pieces = tuple(f"{n} " * 2000 for n in range(500))
    standin.script(Behaviour(pieces=pieces))
    session = server.new_session()

    with raw_chat(server, f"/chat/{session}/stream", {"message": "hi"}) as client:
        standin.wait_for_chats(1)
        standin.wait_until_idle()  # the server has taken all of it by now
        answer = client.read_rest()

    assert joined(parsed(answer.body)) == "".join(pieces)
