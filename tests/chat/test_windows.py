"""The context window: nothing is cut in silence, it grows when a history needs it, and one serves all sessions."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from mochi_server.ollama.standin import Behaviour, Gate, StandIn
from tests.chat.clients import eventually
from tests.server import Server, names
from tests.standin_thread import StandInThread
from tests.tiny_models import HELLO, tiny_models

USUAL, LENGTH = 1024, 8192
TOKENS_OF_A_REPLY = len(HELLO) + 1


@pytest.fixture
def standin() -> Iterator[StandInThread]:
    """An Ollama whose own window is small, and whose models have longer ones."""
    models = [msgspec.structs.replace(model, context_length=LENGTH) for model in tiny_models()]
    with StandInThread(StandIn(models, window=USUAL)) as standin:
        yield standin


@pytest.fixture
def server(tmp_path: Path, standin: StandInThread) -> Iterator[Server]:
    with Server(tmp_path, standin.url) as server:
        yield server


def asked_windows(standin: StandInThread) -> list[int | None]:
    """The `num_ctx` of each chat request, None where it had none."""
    return [(chat.json.get("options") or {}).get("num_ctx") for chat in standin.chats]


def windows_loaded(standin: StandInThread) -> list[int]:
    return [window for _, window in standin.standin.loads]


def reply_to(server: Server, session: str, message: str | None, **body: object) -> dict[str, Any]:
    message_saved: dict[str, Any] = server.ok("POST", f"/chat/{session}", {"message": message, **body})["message"]
    return message_saved


def window_of(server: Server, session: str) -> dict[str, Any]:
    window: dict[str, Any] = server.ok("GET", f"/sessions/{session}/status")["context_window"]
    return window


def load_by_hand(standin: StandInThread, model: str, window: int) -> None:
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "options": {"num_ctx": window}}
    httpx.post(f"{standin.url}/api/chat", json=body, trust_env=False).raise_for_status()


def wait_for_a_look(standin: StandInThread, before: int = 0) -> None:
    """Until the server has asked what is loaded, and made something of it."""
    looks = [request for request in standin.requests if request.path == "/api/ps"]
    if len(looks) <= before:
        standin.wait_until(lambda s: sum(r.path == "/api/ps" for r in s.requests) > before)


def test_a_conversation_of_200_turns_is_sent_whole_or_refused_and_loads_the_model_once_a_step(
    server: Server, standin: StandInThread
) -> None:
    session = server.new_session(system_prompt="Be kind.")
    refused = 0

    for turn in range(200):
        words = f"{turn} " + "x" * 40
        response = server.call("POST", f"/chat/{session}", {"message": words})
        sent = [(m["role"], m["content"]) for m in standin.chats[-1].json["messages"]]
        history = server.contents(session)
        if response.is_success:
            assert sent == history[:-1]
            assert response.json()["message"]["context"]["messages_left_out"] == 0
        else:
            refused += 1
            assert response.json()["detail"]["error"]["code"] == "context_overflow"
            assert history[-1] == ("user", words)
            server.ok("DELETE", f"/sessions/{session}/messages/{len(history) - 1}")

    assert windows_loaded(standin) == [1024, 2048, 4096, 8192]
    assert all(chat.json["truncate"] is False for chat in standin.chats)
    assert refused > 0
    assert [w for w in (None, 2048, 4096, 8192) if w in asked_windows(standin)] == [None, 2048, 4096, 8192]


def test_sessions_that_take_turns_on_one_model_cause_no_reload(server: Server, standin: StandInThread) -> None:
    long, short = server.new_session(), server.new_session()
    reply_to(server, short, "hi")
    reply_to(server, long, "x" * 1500)
    before = standin.standin.loads.copy()

    for _ in range(4):
        assert reply_to(server, short, "hi")["context"]["window"] == 2048
        assert reply_to(server, long, "more")["context"]["window"] == 2048

    assert standin.standin.loads == before
    assert asked_windows(standin)[-8:] == [2048] * 8


def test_a_refusal_is_followed_by_one_step_and_one_retry(server: Server, standin: StandInThread) -> None:
    session = server.new_session()

    # A token a character: four times what is estimated of a model that was never heard of.
    message = reply_to(server, session, "x" * 1500)

    assert asked_windows(standin) == [None, 2048]
    assert message["context"] == {"window": 2048, "messages_sent": 1, "messages_left_out": 0, "reason": "dynamic"}
    assert message["options"] == {"num_ctx": 2048}
    assert window_of(server, session)["reason"] == "dynamic"


@pytest.mark.parametrize("form", ["whole", "stream"])
def test_after_one_retry_an_overflow_is_told_with_its_sizes(server: Server, standin: StandInThread, form: str) -> None:
    session = server.new_session()
    body = {"message": "x" * 3000}

    if form == "whole":
        status, code, details = server.error("POST", f"/chat/{session}", body)
        assert status == 400
    else:
        events = server.events(f"/chat/{session}/stream", body)
        assert names(events) == ["error", "done"]
        code, details = events[0].data["code"], events[0].data["details"]

    assert code == "context_overflow"
    assert asked_windows(standin) == [None, 2048]
    assert (details["window"], details["model_limit"], details["message_index"]) == (2048, LENGTH, 0)
    assert details["estimated_tokens"] > 0
    assert server.contents(session) == [("user", "x" * 3000)]
    # What was learned of the model's tokens serves the next try.
    assert reply_to(server, session, None)["context"]["window"] == 4096


def test_what_no_window_of_the_model_can_hold_is_refused_without_loading_it_anew(
    server: Server, standin: StandInThread
) -> None:
    session = server.new_session()
    reply_to(server, session, "hi")

    status, code, details = server.error("POST", f"/chat/{session}", {"message": "word " * 30_000})

    assert (status, code, details["model_limit"]) == (400, "context_overflow", LENGTH)
    assert details["estimated_tokens"] > LENGTH
    assert windows_loaded(standin) == [USUAL]
    assert asked_windows(standin) == [None, None]


@pytest.mark.parametrize(
    ("fields", "change", "body"),
    [
        ({"options": {"num_ctx": 512}}, None, {}),
        ({}, None, {"options": {"num_ctx": 512}}),
        ({}, {"context_window_config": {"current_window": 512, "manual_override": True}}, {}),
        ({"options": {"num_ctx": 4096}}, None, {"options": {"num_ctx": 512}}),
    ],
)
def test_a_window_that_somebody_fixed_never_grows(
    server: Server, standin: StandInThread, fields: dict[str, Any], change: dict[str, Any] | None, body: dict[str, Any]
) -> None:
    session = server.new_session(**fields)
    if change:
        server.ok("PATCH", f"/sessions/{session}", change)

    assert server.error("POST", f"/chat/{session}", {"message": "x" * 600, **body})[1] == "context_overflow"
    server.ok("PUT", f"/sessions/{session}/messages/0", {"content": "hi"})
    message = reply_to(server, session, None, **body)

    assert set(asked_windows(standin)) == {512}
    assert message["context"] == {"window": 512, "messages_sent": 1, "messages_left_out": 0}
    # And no other session is asked to go with it.
    reply_to(server, server.new_session(), "hi")
    assert asked_windows(standin)[-1] is None


def test_a_session_whose_window_is_not_to_be_dynamic_is_refused_instead(server: Server, standin: StandInThread) -> None:
    session = server.new_session()
    server.ok("PATCH", f"/sessions/{session}", {"context_window_config": {"dynamic_enabled": False}})

    assert server.error("POST", f"/chat/{session}", {"message": "x" * 1500})[1] == "context_overflow"

    assert asked_windows(standin) == [None]


def test_after_a_restart_the_window_that_is_loaded_is_kept(tmp_path: Path, standin: StandInThread) -> None:
    with Server(tmp_path, standin.url) as server:
        session = server.new_session()
        reply_to(server, session, "x" * 1500)
        looks = sum(request.path == "/api/ps" for request in standin.requests)
        server.stop()
        server.start()
        wait_for_a_look(standin, looks)
        eventually(lambda: window_of(server, session)["current_window"] == 2048 or None)

        assert reply_to(server, server.new_session(), "hi")["context"]["window"] == 2048

    assert windows_loaded(standin) == [USUAL, 2048]


def test_a_reply_whose_server_was_killed_tells_what_it_was_asked_with(tmp_path: Path, standin: StandInThread) -> None:
    gate = Gate(2)
    with Server(tmp_path, standin.url) as server:
        session = server.new_session()
        reply_to(server, session, "x" * 1500)
        standin.script(Behaviour(gate=gate))
        with server.stream(f"/chat/{session}/stream", {"message": "hi", "history_limit": 1}) as events:
            next(events)
            gate.wait(2)
            server.kill()
        gate.open()
        server.start()
        message = server.ok("GET", f"/sessions/{session}/messages")["messages"][-1]

    assert (message["done_reason"], message["options"]) == ("crashed", {"num_ctx": 2048})
    assert message["context"] == {"window": 2048, "messages_sent": 1, "messages_left_out": 2, "reason": "dynamic"}


def test_a_window_that_somebody_else_has_the_model_loaded_with_is_taken_over(
    server: Server, standin: StandInThread
) -> None:
    session = server.new_session()
    load_by_hand(standin, "tiny", 512)
    eventually(lambda: window_of(server, session)["current_window"] == 512 or None)

    reply_to(server, session, "hi")
    reply_to(server, session, "x" * 500)

    assert asked_windows(standin)[1:] == [512, 512, 1024]  # the second was refused once
    assert windows_loaded(standin) == [512, 1024]


def test_once_it_is_unloaded_the_model_is_loaded_as_ollama_likes(server: Server, standin: StandInThread) -> None:
    long, short = server.new_session(), server.new_session()
    reply_to(server, long, "x" * 1500, keep_alive=0)
    eventually(lambda: window_of(server, short)["reason"] == "ollama_default" or None)

    reply_to(server, short, "hi")

    assert asked_windows(standin)[-1] is None


def test_who_waited_goes_with_the_window_that_was_chosen_meanwhile(server: Server, standin: StandInThread) -> None:
    running, long, short = (server.new_session() for _ in range(3))
    reply_to(server, short, "hi")
    gate = Gate(0)
    standin.script(Behaviour(gate=gate))

    with server.stream(f"/chat/{running}/stream", {"message": "hi"}) as first:
        gate.wait(0)
        with (
            server.stream(f"/chat/{long}/stream", {"message": "x" * 1500}) as second,
            server.stream(f"/chat/{short}/stream", {"message": "hi"}) as third,
        ):
            gate.open()
            for events in (first, second, third):
                assert names(list(events))[-1] == "done"

    assert asked_windows(standin)[-2:] == [2048, 2048]
    assert windows_loaded(standin) == [USUAL, 2048]


def test_a_turn_asks_ollama_for_nothing_else_before_its_first_token(server: Server, standin: StandInThread) -> None:
    session = server.new_session()
    reply_to(server, session, "hi")
    eventually(lambda: window_of(server, session)["current_window"] == USUAL or None)

    for _ in range(5):
        gate = Gate(0)
        standin.script(Behaviour(gate=gate))
        before = len(standin.requests)
        with server.stream(f"/chat/{session}/stream", {"message": "hi", "think": False}) as events:
            gate.wait(0)
            asked = [request.path for request in standin.requests[before:]]
            gate.open()
            list(events)
        assert asked == ["/api/chat"]


def test_a_reply_tells_what_it_was_made_with(server: Server) -> None:
    session = server.new_session(system_prompt="Be kind.", options={"temperature": 0.5, "seed": 1})
    reply_to(server, session, "hi")

    events = server.events(f"/chat/{session}/stream", {"message": "and?", "options": {"seed": 2}})

    saved, complete = server.file(session)["messages"][-1], events[-2].data
    tiny = next(model for model in tiny_models() if model.name == "tiny:latest")
    assert (saved["model"], saved["model_digest"]) == ("tiny", tiny.digest)
    assert saved["options"] == {"temperature": 0.5, "seed": 2}
    assert saved["context"] == {"window": USUAL, "messages_sent": 4, "messages_left_out": 0}
    assert saved["eval_count"] == complete["eval_count"] == TOKENS_OF_A_REPLY
    assert saved["prompt_eval_count"] == complete["prompt_eval_count"]
    for name in ("model", "model_digest", "options", "context", "stats"):
        assert complete[name] == saved[name]
    assert saved["stats"]["outgrew_window"] is False
    assert all(saved["stats"][name] >= 0 for name in ("ttft_ms", "total_ms", "load_ms"))
    used = saved["eval_count"] + saved["prompt_eval_count"]
    assert complete["context_window"] == {"current_window": USUAL, "usage_tokens": used, "reason": "ollama_default"}


def test_a_reply_that_outgrew_its_window_says_so(server: Server) -> None:
    session = server.new_session(model="tiny-loop", options={"num_ctx": 64, "num_predict": 100})
    assert reply_to(server, session, "hi")["stats"]["outgrew_window"] is True


def test_the_status_tells_the_window_what_is_used_of_it_and_what_the_next_turn_begins_with(server: Server) -> None:
    session = server.new_session(system_prompt="Be kind.")
    message = reply_to(server, session, "hello " * 20)
    window = window_of(server, session)

    assert (window["current_window"], window["model_max_context"]) == (USUAL, LENGTH)
    assert window["usage_tokens"] == message["prompt_eval_count"] + message["eval_count"]
    assert window["remaining_tokens"] == USUAL - window["estimated_tokens"]
    before = reply_to(server, session, "!")["prompt_eval_count"]
    assert 0.5 < window["estimated_tokens"] / before < 2


def test_ollama_that_does_not_say_what_is_loaded_holds_nothing_up(server: Server, standin: StandInThread) -> None:
    standin.standin.ps_status = 500
    session = server.new_session()
    message = reply_to(server, session, "hi")
    assert (message["status"], message["context"]["window"]) == ("complete", None)
    assert message["stats"]["outgrew_window"] is None
    window = window_of(server, session)
    assert (window["current_window"], window["remaining_tokens"]) == (None, None)
