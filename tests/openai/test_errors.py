"""What goes wrong: in OpenAI's envelope and under its statuses, so that its clients raise what they raise for it."""

import socket
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI

from mochi_server.ollama.standin import Behaviour, Fault
from tests.openai.clients import HELLO, PATH, ask, chunks_of, official, post, raw_stream, refused, stream, told
from tests.raw_http import RawClient
from tests.server import Server
from tests.standin_thread import StandInThread
from tests.tiny_models import HELLO as PIECES

ENVIRONMENT = {"MOCHI_MAX_BODY_BYTES": "200000", "MOCHI_MAX_MESSAGE_CHARS": "1000", "MOCHI_CONNECT_TIMEOUT": "0.5"}
ENVIRONMENT |= {"MOCHI_MAX_REQUEST_MESSAGES": "20", "MOCHI_MAX_REQUEST_CHARS": "3000"}
JSON = {"Content-Type": "application/json"}


def send(server: Server, method: str, path: str, content: bytes = b"", **headers: str) -> httpx.Response:
    return server.client.request(method, path, content=content, headers=headers)


@pytest.mark.parametrize(
    ("method", "path", "content", "headers", "status", "code"),
    [
        ("GET", "/v1", b"", {}, 404, "not_found"),
        ("GET", "/v1/", b"", {}, 404, "not_found"),
        ("POST", "/v1/embeddings", b"{}", JSON, 404, "not_found"),
        ("GET", PATH, b"", {}, 405, "method_not_allowed"),
        ("DELETE", "/v1/models/tiny", b"", {}, 405, "method_not_allowed"),
        ("GET", "/v1/models/no-such", b"", {}, 404, "model_not_found"),
        ("POST", PATH, b"{}", {"Content-Type": "text/plain"}, 415, "unsupported_media_type"),
        ("POST", PATH, b"", {}, 400, "invalid_json"),
        ("POST", PATH, b"{", JSON, 400, "invalid_json"),
        ("POST", PATH, b'{"model": "\xff"}', JSON, 400, "invalid_json"),
        ("POST", PATH, b'{"tools": ' + b"[" * 90_000, JSON, 400, "invalid_json"),
        ("POST", PATH, b'{"user": ' + b"[" * 90_000, JSON, 400, "invalid_json"),
        ("POST", PATH, b"[]", JSON, 400, "validation_error"),
        ("POST", PATH, b" " * 200_001, JSON, 413, "payload_too_large"),
        ("GET", "/v1/models", b"", {"Host": "example.org"}, 421, "misdirected_host"),
        ("GET", "/v1/models", b"", {"Origin": "https://example.org"}, 403, "forbidden_origin"),
    ],
)
def test_everything_below_v1_fails_in_openais_envelope(
    server: Server, method: str, path: str, content: bytes, headers: dict[str, str], status: int, code: str
) -> None:
    response = send(server, method, path, content, **headers)
    error = told(response)
    assert (response.status_code, error["code"]) == (status, code)
    assert error["type"] == ("permission_error" if status == 403 else "invalid_request_error")


def test_elsewhere_errors_stay_as_they_are(server: Server) -> None:
    for path in ("/v2/models", "/v1models", "/api/v1/nothing"):
        assert set(server.client.get(path).json()) == {"detail"}


def answered(status: int, error: str) -> Behaviour:
    return Behaviour(fault="status", status=status, error=error)


OF_OLLAMA: dict[str, tuple[Behaviour, type[openai.APIStatusError], int, str, str | None]] = {
    "busy": (answered(503, "server busy"), openai.InternalServerError, 503, "ollama_busy", None),
    "broken": (answered(500, "llama runner has terminated"), openai.InternalServerError, 502, "ollama_error", None),
    "cut off at once": (Behaviour(fault="reset"), openai.InternalServerError, 502, "ollama_error", None),
    "too long": (
        answered(400, "the input length exceeds the context length"),
        openai.BadRequestError,
        400,
        "context_length_exceeded",
        "messages",
    ),
    "gone": (answered(404, "model 'tiny' not found"), openai.NotFoundError, 404, "model_not_found", "model"),
    "refused": (answered(400, "no such thing"), openai.BadRequestError, 400, "ollama_rejected", None),
}


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("failure", OF_OLLAMA)
def test_what_fails_before_the_first_token_is_the_clients_own_exception(
    client: OpenAI, standin: StandInThread, failure: str, *, streamed: bool
) -> None:
    behaviour, kind, status, code, param = OF_OLLAMA[failure]
    standin.script(behaviour)
    with pytest.raises(kind) as caught:
        stream(client) if streamed else ask(client)
    error = caught.value
    assert (error.status_code, error.code, error.param) == (status, code, param)
    assert error.type == ("server_error" if status >= 500 else "invalid_request_error")
    assert error.response.headers["content-type"] == "application/json"
    assert error.request_id == error.response.headers["x-correlation-id"]
    if failure == "busy":
        assert int(error.response.headers["retry-after"]) > 0


BREAKING: list[Fault] = ["error_line", "reset", "early_end", "no_done"]


@pytest.mark.parametrize("fault", BREAKING)
def test_a_reply_broken_off_is_an_error_and_has_no_finish_reason(
    client: OpenAI, server: Server, standin: StandInThread, fault: Fault
) -> None:
    broken = Behaviour(pieces=("a", "b"), fault=fault, after=2)
    standin.script(broken, broken, broken)
    said: list[tuple[str | None, str | None]] = []
    begun = client.chat.completions.create(model="tiny", messages=HELLO, stream=True)
    with pytest.raises(openai.APIError) as caught:
        said.extend((chunk.choices[0].delta.content, chunk.choices[0].finish_reason) for chunk in begun)
    assert said == [("", None), ("a", None), ("b", None)]
    assert (caught.value.code, caught.value.type) == ("ollama_error", "server_error")

    assert refused(client).status_code == 502

    with RawClient(server.url) as raw:
        raw_stream(server, raw, stream_options={"include_usage": True})
        *chunks, last = chunks_of(raw.read_rest().body)
    assert set(last) == {"error"}
    assert all(choice["finish_reason"] is None for chunk in chunks for choice in chunk["choices"])


@pytest.mark.parametrize("streamed", [False, True])
def test_the_client_tries_again_by_itself_where_that_is_of_use(
    server: Server, standin: StandInThread, *, streamed: bool
) -> None:
    before = len(standin.chats)
    standin.script(answered(500, "llama runner has terminated"))
    with official(server, max_retries=1) as client:
        if streamed:
            assert stream(client)[-1].choices[0].finish_reason == "stop"
        else:
            assert ask(client).choices[0].message.content == "".join(PIECES)
    assert len(standin.chats) == before + 2
    with official(server, max_retries=2) as client:
        refused(client, temperature="x")
        refused(client, model="no-such")
    assert len(standin.chats) == before + 2


def user(characters: int) -> dict[str, str]:
    return {"role": "user", "content": "x" * characters}


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([user(1), user(1001)], "messages[1].content"),
        ([user(1000)] * 4, "messages"),
        ([user(1)] * 21, "messages"),
        ([{"role": "user", "content": [{"type": "text", "text": "x" * 501}] * 2}], "messages[0].content"),
    ],
)
def test_a_request_has_its_limits(client: OpenAI, messages: list[Any], param: str) -> None:
    error = refused(client, messages=messages)
    assert (error.status_code, error.code, error.param) == (413, "payload_too_large", param)


def test_as_much_as_is_allowed_is_taken(client: OpenAI) -> None:
    assert ask(client, messages=[user(1000), user(1000), user(1000)]).choices
    assert ask(client, messages=[user(1)] * 20).choices


def test_a_page_of_an_allowed_origin_may_use_openais_client(server: Server) -> None:
    headers = {"Origin": "http://tauri.localhost", "Access-Control-Request-Method": "POST"}
    allowed = server.client.options(PATH, headers=headers).headers["access-control-allow-headers"].lower().split(", ")
    assert {"authorization", "x-session-id", "x-stainless-lang", "x-stainless-retry-count"} <= set(allowed)
    exposed = post(server, Origin="http://tauri.localhost").headers["access-control-expose-headers"]
    assert {"X-Message-Id", "X-Request-Id"} <= set(exposed.split(", "))


def test_an_ollama_that_is_not_there_is_a_502_everywhere(tmp_path: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        nowhere = f"http://127.0.0.1:{free.getsockname()[1]}"
    with Server(tmp_path, nowhere, environment=ENVIRONMENT) as server, official(server) as client:
        with pytest.raises(openai.InternalServerError) as caught:
            client.models.list()
        assert (caught.value.status_code, caught.value.code) == (502, "ollama_unreachable")
        for streamed in (False, True):
            with pytest.raises(openai.InternalServerError) as caught:
                stream(client) if streamed else ask(client)
            assert (caught.value.status_code, caught.value.code) == (502, "ollama_unreachable")
