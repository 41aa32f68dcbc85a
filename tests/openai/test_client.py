"""The official Python client, sync and async: answers, streams, tools, models."""

import asyncio
import re
import time

import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletionMessageFunctionToolCall

from mochi_server.ollama.standin import Behaviour
from tests.openai.clients import (
    HELLO,
    WEATHER,
    ask,
    chunks_of,
    content,
    nothing_written,
    official,
    post,
    raw_stream,
    stream,
)
from tests.raw_http import RawClient
from tests.server import LIMIT, Server
from tests.standin_thread import StandInThread
from tests.tiny_models import ANSWER, THINKING, UNICODE
from tests.tiny_models import HELLO as PIECES

SAID = "".join(PIECES)


def test_a_whole_answer_has_all_that_one_of_openais_has(client: OpenAI) -> None:
    before = int(time.time())
    answer = ask(client)
    assert re.fullmatch(r"chatcmpl-[0-9a-f]{10}", answer.id)
    assert (answer.object, answer.model) == ("chat.completion", "tiny")
    assert before <= answer.created <= time.time()
    [choice] = answer.choices
    assert (choice.index, choice.finish_reason, choice.logprobs) == (0, "stop", None)
    assert (choice.message.role, choice.message.content, choice.message.refusal) == ("assistant", SAID, None)
    assert choice.message.tool_calls is None
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (5, len(PIECES) + 1)
    assert answer.usage.total_tokens == 5 + len(PIECES) + 1


def test_a_stream_has_the_role_first_then_each_piece_then_the_reason(client: OpenAI) -> None:
    first, *pieces, last = stream(client)
    assert (first.choices[0].delta.role, first.choices[0].delta.content) == ("assistant", "")
    assert [chunk.choices[0].delta.content for chunk in pieces] == [*PIECES]
    assert {chunk.choices[0].delta.role for chunk in (*pieces, last)} == {None}
    assert {chunk.choices[0].finish_reason for chunk in (first, *pieces)} == {None}
    assert (last.choices[0].finish_reason, last.choices[0].delta.content) == ("stop", None)
    assert len({(chunk.id, chunk.created, chunk.model, chunk.object) for chunk in (first, *pieces, last)}) == 1


def test_a_reply_that_met_its_limit_says_so(client: OpenAI) -> None:
    assert ask(client, max_tokens=3).choices[0].finish_reason == "length"
    chunks = stream(client, max_tokens=3)
    assert (content(chunks), chunks[-1].choices[0].finish_reason) == ("".join(PIECES[:3]), "length")


def test_thinking_is_told_as_reasoning(client: OpenAI) -> None:
    message = ask(client, model="tiny-think").choices[0].message
    assert (message.content, getattr(message, "reasoning", None)) == ("".join(ANSWER), "".join(THINKING))
    chunks = stream(client, model="tiny-think")
    thought = [getattr(chunk.choices[0].delta, "reasoning", None) for chunk in chunks]
    assert [piece for piece in thought if piece] == [*THINKING]
    assert content(chunks) == "".join(ANSWER)
    assert not hasattr(ask(client, model="tiny-think", reasoning_effort="none").choices[0].message, "reasoning")


def test_odd_text_comes_through_piece_by_piece(client: OpenAI, server: Server) -> None:
    assert [c.choices[0].delta.content for c in stream(client, model="tiny-unicode")][1:-1] == [*UNICODE]
    assert ask(client, model="tiny-unicode").choices[0].message.content == "".join(UNICODE)
    with RawClient(server.url) as raw:
        raw_stream(server, raw, model="tiny-unicode")
        assert len(chunks_of(raw.read_rest().body)) == len(UNICODE) + 2


def test_pieces_that_are_ready_together_go_out_together(server: Server, standin: StandInThread) -> None:
    standin.script(Behaviour(coalesce=True))
    with RawClient(server.url) as raw:
        raw_stream(server, raw)
        answer = raw.read_rest()
    assert len(chunks_of(answer.body)) == len(PIECES) + 2
    assert len(answer.chunks) <= 3


def test_a_tool_call_comes_whole_and_as_a_delta_with_index_and_id(client: OpenAI) -> None:
    choice = ask(client, model="tiny-tools", tools=[WEATHER]).choices[0]
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    [call] = choice.message.tool_calls or []
    assert isinstance(call, ChatCompletionMessageFunctionToolCall)
    assert re.fullmatch(r"call_\w+", call.id)
    assert (call.type, call.function.name, call.function.arguments) == ("function", "get_weather", '{"city":"Paris"}')
    *_, calling, last = stream(client, model="tiny-tools", tools=[WEATHER])
    [delta] = calling.choices[0].delta.tool_calls or []
    assert delta.function is not None
    assert (delta.index, delta.type, delta.function.name) == (0, "function", "get_weather")
    assert delta.function.arguments == '{"city":"Paris"}'
    assert re.fullmatch(r"call_\w+", delta.id or "")
    assert last.choices[0].finish_reason == "tool_calls"


def test_a_tools_result_sent_back_is_answered(client: OpenAI) -> None:
    called = ask(client, model="tiny-tools", tools=[WEATHER]).choices[0].message
    [call] = called.tool_calls or []
    result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    messages = [*HELLO, called.model_dump(exclude_none=True), result]
    answer = ask(client, model="tiny-tools", tools=[WEATHER], messages=messages)
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == (SAID, "stop")


def test_the_clients_own_gathering_of_a_stream_gives_the_whole_answer(client: OpenAI) -> None:
    with client.chat.completions.stream(model="tiny-tools", messages=HELLO, tools=[WEATHER]) as events:
        gathered = events.get_final_completion().choices[0]
    assert (gathered.message.role, gathered.finish_reason) == ("assistant", "tool_calls")
    [call] = gathered.message.tool_calls or []
    assert call.function.arguments == '{"city":"Paris"}'


def test_models_are_listed_and_found_by_every_name_that_they_have(client: OpenAI, server: Server) -> None:
    names = [model.id for model in client.models.list()]
    assert names == [model["name"] for model in server.ok("GET", "/models")["models"]]
    for name in ("tiny", "tiny:latest", names[0]):
        model = client.models.retrieve(name)
        assert (model.id.removesuffix(":latest"), model.object) == (name.removesuffix(":latest"), "model")
        assert (model.created, model.owned_by) == (1795247505, "library")
        assert ask(client, model=name).model == name


def test_the_async_client_hears_the_same(server: Server) -> None:
    async def talk() -> tuple[str | None, str, int]:
        async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=LIMIT) as client:
            whole = await client.chat.completions.create(model="tiny", messages=HELLO)
            said = ""
            async for chunk in await client.chat.completions.create(model="tiny", messages=HELLO, stream=True):
                said += chunk.choices[0].delta.content or ""
            return whole.choices[0].message.content, said, len((await client.models.list()).data)

    whole, said, models = asyncio.run(talk())
    assert whole == said == SAID
    assert models == len(server.ok("GET", "/models")["models"])


@pytest.mark.parametrize("sent", ["mine.1", "not sane"])
def test_the_request_id_is_the_correlation_id(server: Server, sent: str) -> None:
    response = post(server, X_Correlation_Id=sent)
    assert response.headers["x-request-id"] == response.headers["x-correlation-id"]
    assert (response.headers["x-request-id"] == sent) == (sent == "mine.1")
    with official(server) as client:
        assert re.fullmatch(r"[0-9a-f]{32}", ask(client)._request_id or "")  # noqa: SLF001 - so the client has it


def test_only_v1_has_the_request_id_twice(server: Server) -> None:
    assert "x-request-id" not in server.call("GET", "/models").headers


def test_all_that_writes_nothing_at_all(server: Server) -> None:
    assert nothing_written(server)
