"""An event's data is one line to any client, and the text in it is the text that was said."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mochi_server.domain.events import (
    ContentDelta,
    ContextWindow,
    Done,
    ErrorEvent,
    Event,
    MessageComplete,
    ThinkingDelta,
    event_json,
)
from tests.domain.made_up import OBJECTS, SOME, TEXT

EVENTS: st.SearchStrategy[Event] = st.one_of(
    st.builds(ContentDelta, TEXT),
    st.builds(ThinkingDelta, TEXT),
    st.builds(ErrorEvent, code=TEXT, message=TEXT, details=OBJECTS, correlation_id=TEXT),
    st.builds(Done, session_id=TEXT, generation_id=TEXT, status=st.just("complete")),
)


@SOME
@given(EVENTS)
def test_an_event_is_one_line_to_any_reader_of_lines(event: Event) -> None:
    data = event_json(event)
    assert len(data.splitlines()) == 1
    assert len(data.decode().splitlines()) == 1


@SOME
@given(TEXT)
def test_the_text_of_a_delta_is_the_text_that_was_said(text: str) -> None:
    assert json.loads(event_json(ContentDelta(text))) == {"content": text, "role": "assistant"}
    assert json.loads(event_json(ThinkingDelta(text))) == {"content": text}


@pytest.mark.parametrize("separator", ["\x85", "\u2028", "\u2029"])
def test_line_separators_of_unicode_are_escaped_and_decode_to_themselves(separator: str) -> None:
    data = event_json(ContentDelta(f"one{separator}two\\{separator}"))
    assert separator not in data.decode()
    assert json.loads(data)["content"] == f"one{separator}two\\{separator}"


def test_text_beyond_ascii_goes_out_as_it_is() -> None:
    assert "日本 👩\u200d🚀" in event_json(ContentDelta("日本 👩\u200d🚀")).decode()


COMPLETE = MessageComplete(
    message_id="m",
    model="tiny",
    eval_count=1,
    prompt_eval_count=2,
    done_reason="stop",
    status="complete",
    stats=None,
    context_window=ContextWindow(current_window=None, usage_tokens=3, reason="ollama_default"),
)


@pytest.mark.parametrize(
    ("event", "name", "fields"),
    [
        (ContentDelta(""), "content_delta", ["content", "role"]),
        (ThinkingDelta(""), "thinking_delta", ["content"]),
        (
            COMPLETE,
            "message_complete",
            [
                *("message_id", "model", "eval_count", "prompt_eval_count", "done_reason", "status", "stats"),
                *("context_window", "model_digest", "options", "context"),
            ],
        ),
        (
            ErrorEvent(code="c", message="m", details={}, correlation_id="i"),
            "error",
            ["code", "message", "details", "correlation_id"],
        ),
        (
            Done(session_id="s", generation_id="g", status="complete"),
            "done",
            ["session_id", "generation_id", "status"],
        ),
    ],
)
def test_an_event_has_the_name_and_the_fields_of_the_contract(event: Event, name: str, fields: list[str]) -> None:
    told: dict[str, Any] = json.loads(event_json(event))
    assert event.name == name
    assert list(told) == fields
