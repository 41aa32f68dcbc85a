"""The same against a real Ollama: with any small model, and to the letter with the tiny ones."""

import pytest

from tests.server import Server, joined, names
from tests.tiny_models import ANSWER, HELLO, THINKING, UNICODE

pytestmark = pytest.mark.live
SHORT = {"num_predict": 16, "temperature": 0}


def test_any_model_answers_in_a_stream_that_equals_what_is_kept(live: Server, smallest: str) -> None:
    session = live.new_session(model=smallest, options=SHORT)
    events = live.events(f"/chat/{session}/stream", {"message": "Say hello."})
    assert names(events)[-2:] == ["message_complete", "done"]
    saved = live.file(session)["messages"][-1]
    assert joined(events) == saved["content"]
    assert joined(events, "thinking_delta") == (saved["thinking"] or "")
    assert saved["status"] == "complete"
    assert saved["eval_count"] == events[-2].data["eval_count"] > 0
    assert saved["model_digest"]


def test_any_model_remembers_regenerates_and_answers_whole(live: Server, smallest: str) -> None:
    session = live.new_session(model=smallest, options=SHORT, system_prompt="Be brief.")
    first = live.ok("POST", f"/chat/{session}", {"message": "Say hello."})["message"]
    again = live.ok("POST", f"/chat/{session}", {"message": None})["message"]
    assert again["parent_id"] == first["parent_id"]
    second = live.ok("POST", f"/chat/{session}", {"message": "And once more."})["message"]
    assert second["prompt_eval_count"] > first["prompt_eval_count"]
    tree = live.ok("GET", f"/sessions/{session}/tree")
    assert {first["message_id"], again["message_id"], second["message_id"]} <= {
        m["message_id"] for m in tree["messages"]
    }


def test_any_model_can_be_stopped_and_asked_again(live: Server, smallest: str) -> None:
    session = live.new_session(model=smallest, options={"num_predict": 2000})
    with live.stream(f"/chat/{session}/stream", {"message": "Count from 1 to 1000."}) as events:
        next(events)
        stopped = live.ok("POST", f"/chat/{session}/stop")
        last = list(events)[-1]
    if stopped["stopped"]:  # a model of very few words may have ended before
        assert last.data["status"] == "interrupted"
        assert live.file(session)["messages"][-1]["done_reason"] == "stopped"
    answer = live.ok("POST", f"/chat/{session}", {"message": "Say hello.", "options": SHORT})
    assert answer["message"]["status"] == "complete"


def test_an_unknown_model_and_a_bad_format_are_refused_and_what_ollama_refuses_is_told_in_its_words(
    live: Server, smallest: str
) -> None:
    status, code, details = live.error("POST", "/sessions", {"model": "no-such-model"})
    assert (status, code) == (400, "model_not_found")
    assert smallest in details["available"]
    session = live.new_session(model=smallest)
    status, code, _ = live.error("POST", f"/chat/{session}", {"message": "hi", "keep_alive": "soon"})
    assert (status, code) == (400, "ollama_rejected")
    status, code, details = live.error("POST", f"/chat/{session}", {"message": "hi", "format": {"type": "banana"}})
    assert (status, code, details["path"]) == (422, "validation_error", "$.format.type")


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize(("model", "said"), [("tiny", HELLO), ("tiny-unicode", UNICODE)])
def test_the_tiny_models_say_what_they_say(live: Server, model: str, said: tuple[str, ...]) -> None:
    session = live.new_session(model=model)
    events = live.events(f"/chat/{session}/stream", {"message": "hi"})
    assert joined(events) == "".join(said) == live.file(session)["messages"][-1]["content"]


@pytest.mark.usefixtures("tiny")
def test_the_thinking_model_thinks_and_then_answers(live: Server) -> None:
    session = live.new_session(model="tiny-think")
    events = live.events(f"/chat/{session}/stream", {"message": "hi", "think": True})
    assert names(events) == ["thinking_delta", "content_delta", "message_complete", "done"]
    assert joined(events) == "".join(ANSWER)
    assert joined(events, "thinking_delta").split() == "".join(THINKING).split()


@pytest.mark.usefixtures("tiny")
def test_what_a_model_cannot_do_is_said(live: Server) -> None:
    session = live.new_session(model="tiny")
    status, code, details = live.error("POST", f"/chat/{session}", {"message": "hi", "think": True})
    assert (status, code, details["capability"]) == (400, "capability_missing", "thinking")


@pytest.mark.usefixtures("tiny")
def test_a_history_that_does_not_fit_is_refused_and_kept(live: Server) -> None:
    session = live.new_session(model="tiny", options={"num_ctx": 256})
    events = live.events(f"/chat/{session}/stream", {"message": "word " * 200})
    assert names(events) == ["error", "done"]
    assert events[0].data["code"] == "context_overflow"
    assert events[0].data["details"]["message_index"] == 0
    assert events[0].data["details"]["window"] == 256
    assert [m["role"] for m in live.file(session)["messages"]] == ["user"]
