"""OpenAI's own client, and what tests say with it."""

import json
from typing import Any

import httpx
import openai
from openai import OpenAI
from openai.types.chat import (
    ChatCompletion,
    ChatCompletionChunk,
    ChatCompletionMessageParam,
    ChatCompletionToolParam,
)

from tests.raw_http import RawClient
from tests.server import LIMIT, Server
from tests.server import told as checked

HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "hi"}]
PATH = "/v1/chat/completions"
WEATHER: ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather in a city",
        "parameters": {"type": "object", "required": ["city"], "properties": {"city": {"type": "string"}}},
    },
}


def official(server: Server, **options: Any) -> OpenAI:
    """A client of this server, which does not try again by itself unless told to."""
    return OpenAI(**{"base_url": f"{server.url}/v1", "api_key": "none", "max_retries": 0, "timeout": LIMIT, **options})


def ask(client: OpenAI, **fields: Any) -> ChatCompletion:
    """The whole answer of `tiny` to "hi", unless other fields are given."""
    answer = client.chat.completions.create(**{"model": "tiny", "messages": HELLO, **fields})
    assert isinstance(answer, ChatCompletion)
    return answer


def stream(client: OpenAI, **fields: Any) -> list[ChatCompletionChunk]:
    """The same as chunks."""
    return list(client.chat.completions.create(**{"model": "tiny", "messages": HELLO, "stream": True, **fields}))


def content(chunks: list[ChatCompletionChunk]) -> str:
    """What the chunks say."""
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def refused(client: OpenAI, **fields: Any) -> openai.APIStatusError:
    """The exception that the client makes of the answer."""
    try:
        ask(client, **fields)
    except openai.APIStatusError as error:
        return error
    raise AssertionError("it was not refused")


def memory(session: str) -> dict[str, Any]:
    """The field of a call that puts it into a session."""
    return {"extra_headers": {"X-Session-Id": session}}


def post(server: Server, body: object = None, **headers: str) -> httpx.Response:
    """A request as raw as httpx has it."""
    body = {"model": "tiny", "messages": HELLO} if body is None else body
    return server.client.post(PATH, json=body, headers={k.replace("_", "-"): v for k, v in headers.items()})


def told(response: httpx.Response) -> dict[str, Any]:
    """An error in OpenAI's envelope, checked for its shape."""
    assert "x-request-id" in response.headers
    checked(response)
    error: dict[str, Any] = response.json()["error"]
    return error


def raw_stream(server: Server, client: RawClient, **fields: object) -> None:
    """Ask for a stream over a socket, to be read as the caller likes."""
    body = json.dumps({"model": "tiny", "messages": HELLO, "stream": True, **fields}).encode()
    head = (
        f"POST {PATH} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    client.socket.sendall(head.encode() + body)


def chunks_of(raw: bytes) -> list[dict[str, Any]]:
    """The chunks of a whole stream, each block checked to the letter; the last is `[DONE]`."""
    blocks = raw.decode().split("\n\n")
    assert blocks.pop() == ""
    assert blocks.pop() == "data: [DONE]"
    found = []
    for block in blocks:
        assert block.splitlines() == block.split("\n"), "who splits lines as Python does finds the same lines"
        line = block.split("\n")[-1]
        assert all(comment == ": keep-alive" for comment in block.split("\n")[:-1])
        assert line.startswith("data: {")
        found.append(json.loads(line.removeprefix("data: ")))
    return found


def nothing_written(server: Server) -> bool:
    """Whether no session is there, and no journal, key or image of any."""
    assert server.ok("GET", "/sessions")["sessions"] == []
    inner = server.sessions / ".mochi"
    files = {p.relative_to(inner).parts[0] for p in inner.rglob("*") if p.is_file()}
    return list(server.sessions.glob("*.json")) == [] and not files & {"journals", "keys", "images", "quarantine"}
