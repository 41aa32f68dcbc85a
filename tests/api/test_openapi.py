"""The OpenAPI document: whole, true to the code, and with examples that hold."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, get_args

import httpx
import msgspec
import pytest
from jsonschema import Draft202012Validator

from mochi_server import __version__, errors
from mochi_server.api.examples import told_example
from mochi_server.api.openai_errors import code_of
from mochi_server.api.openapi import ELSEWHERE
from mochi_server.api.route import STREAM
from mochi_server.api.routes import ROUTES
from mochi_server.api.schemas import Components
from mochi_server.chat.generation import error_event
from mochi_server.domain import events
from mochi_server.domain.session import Metadata
from tests.chat.clients import last_message
from tests.documented import check_documented, check_value, codes, documented_events, resolved, the_document
from tests.server import Server

Part = dict[str, Any]
DOCUMENT = the_document()
NAMES = [f"{route.method} {route.shown_path}" for route in ROUTES]


def said(name: str) -> Part:
    """What the document says of one route."""
    method, path = name.split(" ")
    part: Part = DOCUMENT["paths"][path][method.lower()]
    return part


def parts(value: object) -> Iterator[Part]:
    """Every object in the document."""
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        for one in value:
            yield from parts(one)


def examples(content: Part) -> list[Any]:
    """The examples of a body; there must be one."""
    told = [content["example"]] if "example" in content else []
    told += [resolved(one)["value"] for one in content.get("examples", {}).values()]
    assert told, "there is no example"
    return told


def test_every_route_is_in_it_and_nothing_else() -> None:
    told = {f"{method.upper()} {path}" for path, methods in DOCUMENT["paths"].items() for method in methods}
    assert told == set(NAMES)
    assert DOCUMENT["info"]["version"] == __version__
    operation_ids = [said(name)["operationId"] for name in NAMES]
    assert len(operation_ids) == len(set(operation_ids))


def test_every_error_is_in_it_under_its_status() -> None:
    told: set[type[errors.MochiError]] = set(ELSEWHERE)
    for route in ROUTES:
        answers = said(f"{route.method} {route.shown_path}")["responses"]
        for kind in route.all_errors:
            assert route.dialect.code(kind) in codes(resolved(answers[str(route.dialect.status(kind))]))
        told.update(route.all_errors)
    assert told == set(errors.kinds()) - {errors.Retold}
    for kind, dialect in ELSEWHERE.items():
        assert codes(DOCUMENT["components"]["responses"][kind.__name__]) == [dialect.code(kind)]


def test_every_event_of_every_stream_is_in_it() -> None:
    streams = [
        schema["oneOf"]
        for name in NAMES
        for answer in map(resolved, said(name)["responses"].values())
        if STREAM[0] in answer.get("content", {}) and "oneOf" in (schema := answer["content"][STREAM[0]]["schema"])
    ]
    assert len(streams) == 3
    for stream in streams:
        told = {one["properties"]["event"]["const"]: one["properties"]["data"]["contentSchema"] for one in stream}
        assert told.keys() == {kind.name for kind in get_args(events.Event)}


def test_every_reference_leads_somewhere_and_every_schema_is_one() -> None:
    for part in parts(DOCUMENT):
        if "$ref" in part:
            assert resolved(part)
        for name in ("schema", "contentSchema"):
            if name in part:
                Draft202012Validator.check_schema(part[name])
    for schema in DOCUMENT["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)
        assert schema["description"]


@pytest.mark.parametrize("name", NAMES)
def test_the_examples_of_a_route_are_of_their_own_schemas(name: str) -> None:
    operation = said(name)
    for parameter in operation["parameters"]:
        if "example" in parameter:
            check_value(parameter["example"], parameter["schema"])
        assert parameter["description"]
    if "requestBody" in operation:
        content = operation["requestBody"]["content"]["application/json"]
        for example in examples(content):
            check_value(example, content["schema"])
    for answer in map(resolved, operation["responses"].values()):
        for header in answer["headers"].values():
            check_value(header["example"], header["schema"])
        for media_type, content in answer.get("content", {}).items():
            if media_type == "application/json" and content["schema"] != {"type": "object"}:
                for example in examples(content):
                    check_value(example, content["schema"])


def test_the_examples_of_events_are_of_their_own_schemas() -> None:
    content = resolved(said("POST /api/v1/chat/stream")["responses"]["200"])["content"][STREAM[0]]
    by_name = documented_events("POST", "/api/v1/chat/stream")
    for name, example in content["examples"].items():
        check_value(example["value"], content["schema"])
        check_value(json.loads(example["value"]["data"]), by_name[name])


@pytest.mark.parametrize("kind", [k for k in errors.kinds() if k is not errors.Retold], ids=lambda kind: kind.__name__)
def test_the_example_of_an_error_is_a_whole_one(kind: type[errors.MochiError]) -> None:
    examples = DOCUMENT["components"]["examples"]
    ours, openais = (examples.get(name) for name in (f"ErrorAnswer.{kind.code}", f"Envelope.{code_of(kind)}"))
    refusal = examples.get(f"RefusedConnection.{kind.code}")
    assert ours or openais or refusal
    if refusal:
        check_value(refusal["value"], {"$ref": "#/components/schemas/RefusedConnection"})
        assert refusal["value"]["detail"]["error"]["code"] == kind.code
    if ours:
        check_value(ours["value"], {"$ref": "#/components/schemas/ErrorAnswer"})
        assert ours["value"]["detail"]["error"]["code"] == kind.code
    if openais:
        check_value(openais["value"], {"$ref": "#/components/schemas/OpenAIEnvelope"})
        assert openais["value"]["error"]["code"] == code_of(kind)


def test_what_clients_are_told_has_no_python_in_it() -> None:
    text = json.dumps(DOCUMENT)
    assert not re.search(r"(?<!-)\bNone\b|msgspec|\"unknown\":", text)


def test_all_fields_of_an_answer_are_required_but_those_that_may_be_left_out() -> None:
    made = Components()
    made.told(events.StatusEvent)
    assert made.schemas["StatusEvent"]["required"] == ["phase", "elapsed_ms"]
    assert "default" not in json.dumps(made.schemas)
    metadata = DOCUMENT["components"]["schemas"]["Metadata"]
    assert set(metadata["required"]) == set(metadata["properties"]) == set(told_example(Metadata))


def test_it_is_served_with_an_etag_and_only_once(shared: Server) -> None:
    first = shared.client.get("/openapi.json")
    assert first.json() == json.loads(msgspec.json.encode(DOCUMENT))
    etag = first.headers["etag"]
    for known in (etag, f'"0000", {etag}', "*"):
        again = shared.client.get("/openapi.json", headers={"If-None-Match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
    assert shared.client.get("/openapi.json", headers={"If-None-Match": '"0000"'}).status_code == 200


def test_starting_the_server_reads_in_nothing_that_makes_it() -> None:
    code = "import sys, mochi_server.__main__ as m; print([n for n in sys.modules if n.startswith('mochi_server.api')])"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    for late in ("openapi", "docs_page", "examples", "schemas"):
        assert f"'mochi_server.api.{late}'" not in modules


def test_what_the_server_answers_is_of_the_schemas_in_the_document(shared: Server) -> None:
    session = shared.new_session(system_prompt="s")
    reply = shared.client.post(f"/api/v1/chat/{session}", json={"message": "hi"})
    gets = [f"/sessions/{session}{part}" for part in ("", "/messages", "/tree", "/status")]
    answers = [shared.call("GET", path) for path in (*gets, "/sessions", "/models", "/health", "/system-prompts")]
    for answer in (reply, *answers):
        operation = next(
            said(f"{route.method} {route.shown_path}")
            for route in ROUTES
            if (route.method, route.shown_path)
            == (answer.request.method, answer.request.url.path.replace(session, "{session_id}"))
        )
        content = resolved(operation["responses"][str(answer.status_code)])["content"]["application/json"]
        check_value(answer.json(), content["schema"])
    assert last_message(shared, session)["role"] == "assistant"


def answered(method: str, path: str, status: int, body: object = None, **headers: str) -> httpx.Response:
    """An answer as a client sees it, made up."""
    return httpx.Response(
        status,
        json=body,
        headers={"X-Correlation-Id": "c", **headers},
        request=httpx.Request(method, f"http://127.0.0.1{path}"),
    )


def test_an_answer_that_the_table_does_not_tell_of_fails_whatever_test_gets_it() -> None:
    body = {"detail": {"error": msgspec.to_builtins(error_event(errors.PromptNotFound("x"), "c"))}}
    with pytest.raises(AssertionError, match="prompt_not_found, which its entry"):
        check_documented(answered("GET", "/api/v1/sessions/0123456789", 404, body))
    with pytest.raises(AssertionError, match="answered 418, which its entry"):
        check_documented(answered("GET", "/api/v1/sessions/0123456789", 418, body))
    with pytest.raises(AssertionError, match="without ETag"):
        check_documented(answered("GET", "/api/v1/sessions/0123456789", 200, {}))
    check_documented(answered("GET", "/api/v1/sessions/0123456789", 200, {}, ETag='"0123456789abcdef"'))


def test_the_chunks_that_openais_clients_get_are_of_the_schema_in_the_document(shared: Server) -> None:
    asked = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    kept = {"X-Session-Id": shared.new_session()}
    for more, headers in (({}, {}), ({"stream_options": {"include_usage": True}}, kept)):
        answer = shared.client.post("/v1/chat/completions", json={**asked, **more}, headers=headers)
        *chunks, end = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]
        assert end == "[DONE]"
        for chunk in chunks:
            check_value(json.loads(chunk), {"$ref": "#/components/schemas/OpenAIChunk", "unevaluatedProperties": False})
