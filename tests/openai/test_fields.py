"""Every field of the README's tables: what it does to what Ollama is asked, or to the answer, or that it is refused."""

import base64
from typing import Any

import pytest
from openai import OpenAI

from tests.openai.clients import HELLO, WEATHER, ask, content, refused, stream
from tests.pictures import SEEING, base64_of, png
from tests.standin_thread import StandInThread
from tests.test_docs import MESSAGES, table_of

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
PLAIN = {"model": "tiny", "messages": HELLO, "truncate": False}
"""What Ollama is asked when nothing but a greeting is."""


def options(**values: object) -> dict[str, Any]:
    return {"options": values}


REACHES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "model": ({"model": "tiny:latest"}, {"model": "tiny:latest"}),
    "messages": (
        {"messages": [{"role": "user", "content": "ho"}]},
        {"messages": [{"role": "user", "content": "ho"}]},
    ),
    "temperature": ({"temperature": 0.25}, options(temperature=0.25)),
    "top_p": ({"top_p": 0.5}, options(top_p=0.5)),
    "seed": ({"seed": 7}, options(seed=7)),
    "presence_penalty": ({"presence_penalty": 0.5}, options(presence_penalty=0.5)),
    "frequency_penalty": ({"frequency_penalty": -1.5}, options(frequency_penalty=-1.5)),
    "stop": ({"stop": "there"}, options(stop=["there"])),
    "max_tokens": ({"max_tokens": 3}, options(num_predict=3)),
    "max_completion_tokens": ({"max_completion_tokens": 2, "max_tokens": 9}, options(num_predict=2)),
    "response_format": ({"response_format": {"type": "json_object"}}, {"format": "json"}),
    "reasoning_effort": ({"model": "tiny-think", "reasoning_effort": "high"}, {"model": "tiny-think", "think": "high"}),
    "tools": ({"model": "tiny-tools", "tools": [WEATHER]}, {"model": "tiny-tools", "tools": [WEATHER]}),
    "tool_choice": (
        {"model": "tiny-tools", "tools": [WEATHER], "tool_choice": "none"},
        {"model": "tiny-tools"},
    ),
}
REFUSED: dict[str, Any] = {
    "n": 2,
    "logprobs": True,
    "top_logprobs": 3,
    "logit_bias": {"50256": -100},
    "modalities": ["text", "audio"],
    "audio": {"voice": "alloy", "format": "wav"},
    "functions": [{"name": "f"}],
    "function_call": {"name": "f"},
    "web_search_options": {},
    "moderation": {"model": "omni-moderation-latest"},
}
LET_PASS: dict[str, list[Any]] = {
    "n": [1],
    "logprobs": [False],
    "top_logprobs": [0],
    "logit_bias": [{}],
    "modalities": [["text"], []],
    "functions": [[]],
    "function_call": ["none", "auto"],
    "tool_choice": ["auto", "none"],
    "reasoning_effort": ["medium"],
    "response_format": [{"type": "text"}],
    "tools": [[]],
    "stop": [[]],
}
IN_THE_ANSWER = {"stream", "stream_options"}
"""These have tests of their own below."""

PARTS = {
    "role: system": ({"role": "system", "content": "be"}, {"role": "system", "content": "be"}),
    "role: developer": ({"role": "developer", "content": "be"}, {"role": "system", "content": "be"}),
    "role: user": ({"role": "user", "content": "yes", "name": "Ann"}, {"role": "user", "content": "yes"}),
    "role: assistant": (
        {"role": "assistant", "content": "no", "reasoning": "hm"},
        {"role": "assistant", "content": "no"},
    ),
    "content": ({"role": "assistant", "content": None}, {"role": "assistant", "content": ""}),
    "content: text": (
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "user", "content": "a\nb"},
    ),
    "content: refusal": (
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "I won't"}]},
        {"role": "assistant", "content": "I won't"},
    ),
}
CALL = {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'}}
REFUSED_PARTS: dict[str, tuple[dict[str, Any], str]] = {
    "role: function": ({"role": "function", "name": "f", "content": "x"}, "role"),
    "content: input_audio": (
        {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}]},
        "content[0].type",
    ),
    "content: file": ({"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}]}, "content[0].type"),
    "tool_calls: custom": (
        {"role": "assistant", "tool_calls": [{"id": "c", "type": "custom", "custom": {"name": "f", "input": ""}}]},
        "tool_calls[0].type",
    ),
    "function_call": (
        {"role": "assistant", "content": "", "function_call": {"name": "f", "arguments": ""}},
        "function_call",
    ),
}
TESTED_BELOW = {"role: tool", "tool_calls", "content: image_url"}

FIELDS = {row[0].strip("`"): row[1] for row in table_of("What each field of a request does:")}
IGNORED = [name for name, verdict in FIELDS.items() if verdict == "ignored"]


def asked(client: OpenAI, standin: StandInThread, **fields: Any) -> Any:
    """What Ollama is asked for a request with these fields, however the client would type them."""
    body = {"model": "tiny", "messages": HELLO, **fields}
    ask(client, model=body.pop("model"), messages=body.pop("messages"), extra_body=body)
    return standin.chats[-1].json


def test_every_row_of_the_tables_has_its_case() -> None:
    assert {*REACHES, *IN_THE_ANSWER} == {name for name, verdict in FIELDS.items() if verdict == "supported"}
    assert set(REFUSED) == {name for name, verdict in FIELDS.items() if verdict == "refused"}
    assert {*PARTS, *REFUSED_PARTS, *TESTED_BELOW} == {row[0].strip("`") for row in table_of(MESSAGES)}


@pytest.mark.parametrize("field", REACHES)
def test_a_supported_field_reaches_ollama(client: OpenAI, standin: StandInThread, field: str) -> None:
    sent, reaching = REACHES[field]
    assert asked(client, standin, **sent) == {**PLAIN, **reaching}
    without = {name: value for name, value in sent.items() if name != field}
    assert asked(client, standin, **without) != {**PLAIN, **reaching}


@pytest.mark.parametrize("field", REFUSED)
def test_a_refused_field_is_named(client: OpenAI, standin: StandInThread, field: str) -> None:
    before = len(standin.chats)
    error = refused(client, extra_body={field: REFUSED[field]})
    assert (error.status_code, error.param, error.type) == (400, field, "invalid_request_error")
    assert len(standin.chats) == before


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, values in LET_PASS.items() for value in values])
def test_a_value_that_asks_for_nothing_passes(client: OpenAI, standin: StandInThread, field: str, value: Any) -> None:
    assert asked(client, standin, **{field: value}) == PLAIN


@pytest.mark.parametrize("field", [*IGNORED, "no_field_of_anybodys"])
def test_an_ignored_field_changes_nothing_whatever_it_holds(client: OpenAI, standin: StandInThread, field: str) -> None:
    assert asked(client, standin, **{field: {"what": ["ever", 7]}}) == PLAIN


@pytest.mark.parametrize("field", [name for name, verdict in FIELDS.items() if name not in {"model", "messages"}])
def test_null_is_as_good_as_leaving_a_field_out(client: OpenAI, standin: StandInThread, field: str) -> None:
    assert asked(client, standin, **{field: None}) == PLAIN


@pytest.mark.parametrize("part", PARTS)
def test_messages_reach_ollama_as_it_has_them(client: OpenAI, standin: StandInThread, part: str) -> None:
    sent, reaching = PARTS[part]
    assert asked(client, standin, messages=[sent, *HELLO])["messages"] == [reaching, *HELLO]


@pytest.mark.parametrize("part", REFUSED_PARTS)
def test_messages_that_nobody_can_read_are_refused_by_name(client: OpenAI, part: str) -> None:
    sent, param = REFUSED_PARTS[part]
    error = refused(client, messages=[*HELLO, sent])
    assert (error.status_code, error.param) == (400, f"messages[1].{param}")


def test_a_tool_call_and_its_result_reach_ollama_as_it_has_them(client: OpenAI, standin: StandInThread) -> None:
    called = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    result = {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "sunny"}]}
    function = {"name": "get_weather", "arguments": {"city": "Paris"}}
    assert asked(client, standin, model="tiny-tools", messages=[*HELLO, called, result])["messages"] == [
        *HELLO,
        {"role": "assistant", "content": "", "tool_calls": [{"id": "c1", "function": function}]},
        {"role": "tool", "content": "sunny", "tool_name": "get_weather", "tool_call_id": "c1"},
    ]


def test_images_reach_a_model_that_sees_in_their_messages(client: OpenAI, standin: StandInThread) -> None:
    first, second = base64_of(png(1), png(2))
    messages = [
        {"role": "user", "content": [image(first), {"type": "text", "text": "this"}, image(second)]},
        {"role": "assistant", "content": "a"},
        {"role": "user", "content": [image(second)]},
    ]
    reached = asked(client, standin, model=SEEING, messages=messages)["messages"]
    assert [m.get("images") for m in reached] == [[first, second], None, [second]]
    assert [m["content"] for m in reached] == ["this", "a", ""]


def image(text: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{text}", "detail": "low"}}


def test_an_image_elsewhere_is_not_fetched_and_one_that_is_none_is_refused(client: OpenAI) -> None:
    url = "messages[0].content[1].image_url.url"
    nothing = base64.b64encode(b"hello, this is no image").decode()
    for sent in ("https://example.org/a.png", "file:///etc/hostname", f"data:image/png;base64,{nothing}", "data:,x"):
        parts = [{"type": "text", "text": "x"}, {"type": "image_url", "image_url": {"url": sent}}]
        error = refused(client, model=SEEING, messages=[{"role": "user", "content": parts}])
        assert (error.status_code, error.param) == (400, url)
    many = [image(base64_of(png())[0])] * 17
    assert refused(client, model=SEEING, messages=[{"role": "user", "content": many}]).param == "messages[0].content"


def test_what_the_model_cannot_do_is_refused_under_the_fields_name(client: OpenAI) -> None:
    picture = [{"role": "user", "content": [image(base64_of(png())[0])]}]
    asking: dict[str, dict[str, Any]] = {
        "tools": {"tools": [WEATHER]},
        "reasoning_effort": {"reasoning_effort": "low"},
        "messages": {"messages": picture},
    }
    for param, fields in asking.items():
        error = refused(client, **fields)
        assert (error.status_code, error.code, error.param) == (400, "capability_missing", param)


@pytest.mark.parametrize(
    ("effort", "think"),
    [("none", False), ("minimal", "low"), ("low", "low"), ("medium", "medium"), ("high", "high"), ("xhigh", "max")],
)
def test_an_effort_is_how_much_the_model_thinks(
    client: OpenAI, standin: StandInThread, effort: str, think: object
) -> None:
    assert asked(client, standin, model="tiny-think", reasoning_effort=effort)["think"] == think


def test_a_model_that_cannot_think_may_be_asked_not_to(client: OpenAI, standin: StandInThread) -> None:
    assert asked(client, standin, reasoning_effort="none") == {**PLAIN, "think": False}


def test_a_schema_reaches_ollama_and_a_broken_one_is_told_by_its_place(client: OpenAI, standin: StandInThread) -> None:
    def formatted(schema: object) -> dict[str, Any]:
        return {"type": "json_schema", "json_schema": {"name": "city", "strict": True, "schema": schema}}

    assert asked(client, standin, model="tiny-json", response_format=formatted(SCHEMA))["format"] == SCHEMA
    error = refused(client, response_format=formatted({"type": "banana"}))
    assert error.param == "response_format.json_schema.schema.type"
    assert refused(client, response_format={"type": "json_schema"}).param == "response_format.json_schema"
    assert refused(client, response_format={"type": "xml"}).param == "response_format.type"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "get_weather"}}}, "tool_choice"),
        ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "function": {"name": ""}}]}, "tools[0].function.name"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"stop": ""}, "stop"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": -1}, "max_completion_tokens"),
        ({"temperature": "hot"}, "temperature"),
        ({"stream": "yes"}, "stream"),
        ({"reasoning_effort": "huge"}, "reasoning_effort"),
        ({"messages": []}, "messages"),
        ({"messages": [{"content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "c9"}]}, "messages[0].tool_call_id"),
        (
            {
                "messages": [
                    {"role": "assistant", "tool_calls": [{**CALL, "function": {"name": "f", "arguments": "{"}}]}
                ]
            },
            "messages[0].tool_calls[0].function.arguments",
        ),
        ({"model": ""}, "model"),
        ({"model": None}, "model"),
    ],
)
def test_what_is_wrong_is_told_by_the_fields_place(client: OpenAI, fields: dict[str, Any], param: str) -> None:
    body = {"model": "tiny", "messages": HELLO, **fields}
    error = refused(client, extra_body=body)
    assert (error.status_code, error.param, error.type) == (400, param, "invalid_request_error")


def test_stream_makes_chunks_and_its_options_a_last_one_with_the_usage(client: OpenAI) -> None:
    usual, *_, last = stream(client)
    assert (usual.object, last.choices[0].finish_reason) == ("chat.completion.chunk", "stop")
    *others, usage = stream(client, stream_options={"include_usage": True, "include_obfuscation": False})
    assert content(others) == ask(client).choices[0].message.content
    assert usage.choices == []
    assert usage.usage is not None
    assert usage.usage == ask(client).usage
    assert {chunk.usage for chunk in others} == {None}
