"""OpenAI's own client over a real Ollama: thinking, tools, JSON by a schema, and what it refuses."""

from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import OpenAI

from tests.openai.clients import HELLO, WEATHER, ask, content, memory, official, refused, stream
from tests.server import Server
from tests.tiny_models import ANSWER, THINKING
from tests.tiny_models import HELLO as PIECES

pytestmark = [pytest.mark.live, pytest.mark.usefixtures("tiny")]
SAID = "".join(PIECES)


@pytest.fixture
def client(live: Server) -> Iterator[OpenAI]:
    with official(live, timeout=60) as client:
        yield client


def test_answers_whole_and_streamed_say_what_ollama_says(client: OpenAI) -> None:
    answer = ask(client)
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == (SAID, "stop")
    assert answer.usage is not None
    assert answer.usage.completion_tokens == len(PIECES) + 1
    assert content(stream(client)) == SAID
    assert ask(client, max_completion_tokens=3).choices[0].finish_reason == "length"


def test_a_tool_exchange_works_stateless_and_in_a_session(client: OpenAI, live: Server) -> None:
    fields: dict[str, Any] = {"model": "tiny-tools", "tools": [WEATHER]}
    called = ask(client, **fields).choices[0]
    assert called.finish_reason == "tool_calls"
    [call] = called.message.tool_calls or []
    result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    answer = ask(client, messages=[*HELLO, called.message.model_dump(exclude_none=True), result], **fields)
    assert answer.choices[0].message.content == SAID

    session = memory(live.new_session(model="tiny"))
    *_, calling, last = stream(client, **fields, **session)
    assert last.choices[0].finish_reason == "tool_calls"
    [delta] = calling.choices[0].delta.tool_calls or []
    result["tool_call_id"] = delta.id or ""
    assert content(stream(client, messages=[result], **fields, **session)) == SAID


def test_thinking_is_reasoning_and_can_be_left_out(client: OpenAI) -> None:
    message = ask(client, model="tiny-think", reasoning_effort="low").choices[0].message
    assert message.content == "".join(ANSWER)
    assert getattr(message, "reasoning", "").split() == "".join(THINKING).split()
    assert not hasattr(ask(client, model="tiny-think", reasoning_effort="none").choices[0].message, "reasoning")
    assert ask(client, reasoning_effort="none").choices[0].message.content == SAID


def test_a_schema_and_what_is_too_long(client: OpenAI) -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    formatted = {"type": "json_schema", "json_schema": {"name": "city", "schema": schema}}
    assert ask(client, model="tiny-json", response_format=formatted, max_tokens=30).choices[0].message.content
    error = refused(client, messages=[{"role": "user", "content": "word " * 5000}])
    assert isinstance(error, openai.BadRequestError)
    assert (error.code, error.param) == ("context_length_exceeded", "messages")
