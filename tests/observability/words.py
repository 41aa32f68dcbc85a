"""What a client and an Ollama can say, each under a mark of its own, in every place that takes words."""

import base64
import contextlib
import json
import re
import socket
from collections.abc import Iterator

import httpx

from mochi_server.api.routes import ROUTES
from mochi_server.ollama.standin import Behaviour
from tests.pictures import png
from tests.server import API, Server
from tests.standin_thread import StandInThread

LIMIT = 5.0
SESSION = "00000000aa"
DAMAGED = {
    "00000000e1": '{"metadata": "%s"}',
    "00000000e2": '{"%s": ',
    "00000000e3": '{"metadata": {"format_version": "%s"}}',
    "00000000e4": '{"metadata": {"format_version": "2.0", "session_id": "%s"}, "messages": [{"role": "%s"}]}',
}
QUOTED = "00000000e3"
"""Of its file, a version that is none is told to whoever asks for it."""

CREDENTIALS = {
    "Authorization": "Bearer {}",
    "X-API-Key": "{}",
    "Cookie": "session={}",
}
HEADERS = {
    **CREDENTIALS,
    "User-Agent": "{}/1.0",
    "Referer": "http://localhost/{}",
    "Accept": "text/{}",
    "Accept-Language": "{}",
    "X-Forwarded-For": "{}",
    "X-Correlation-Id": "{} is not sane",
    "Idempotency-Key": "{}",
    "If-Match": '"{}"',
    "Last-Event-ID": "{}",
    "X-Session-Id": "{}",
    "X-Unheard-Of": "{}",
}


def mark(place: str) -> str:
    """Words that are said in one place only."""
    return f"xyzzy-{place}-words"


def found_in(text: str) -> set[str]:
    """The marks in a text; whatever was cut off or escaped, the beginning of one is one."""
    return set(re.findall(r"xyzzy[\w-]*", text, re.IGNORECASE))


def logged_of(text: str) -> str:
    """A log without the paths: what a client puts there is logged, and for that contained."""
    rows = [json.loads(row) for row in text.splitlines()] if text.startswith("{") else []
    if rows:
        return json.dumps([{**row, "path": ""} for row in rows])
    return re.sub(r' path=("[^"]*"|\S*)', "", text)


def raw(server: Server, target: str, *headers: str) -> bytes:
    """The head of the answer to a GET of exactly this target."""
    lines = [f"GET {target} HTTP/1.1", "Host: localhost", "Connection: close", *headers]
    with socket.create_connection(("127.0.0.1", server.port), timeout=LIMIT) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode("latin-1"))
        return connection.recv(65536)


def talk(server: Server, standin: StandInThread) -> None:
    """Say it in a session, and have Ollama say it back in each of its ways."""
    options = {"stop": [mark("option")]}
    server.new_session(
        session_id=SESSION,
        title=mark("title"),
        system_prompt=mark("system-prompt"),
        system_prompt_source_file=mark("prompt-label"),
        options=options,
        tool_settings={mark("tool-name"): mark("tool")},
        agent_settings={mark("agent-name"): [mark("agent")]},
    )
    said = {"message": mark("message"), "options": options}
    content, thought, words = (mark(f"model-{kind}") for kind in ("says", "thinks", "fails"))
    standin.script(
        Behaviour(pieces=(content, "b"), thinking=(thought,), done_reason=mark("done-reason")),
        Behaviour(pieces=(content,), fault="error_line", after=1, error=words),
        *[
            Behaviour(pieces=(content, content), fault=fault, after=1)
            for fault in ("reset", "garbage", "wrong_shape", "early_end", "no_done")
        ],
        Behaviour(fault="status", status=500, error=words),
        Behaviour(fault="status", status=400, error=words),
        Behaviour(fault="status", status=503, error=words),
        Behaviour(fault="status", status=404, error=f"model {words} not found"),
        Behaviour(fault="redirect", location=f"/{words}"),
        Behaviour(pieces=(content,) * 50, fault="silence", after=40),
    )
    chat = f"/chat/{SESSION}"
    schema = {"type": "object", "title": mark("schema"), "properties": {mark("schema-name"): {"type": "string"}}}
    server.events(f"{chat}/stream", {**said, "format": schema}, Idempotency_Key=mark("key"))
    for _ in range(11):
        server.call("POST", chat, said)
    with server.stream(f"{chat}/stream", said) as events:
        next(events)  # and leave in the middle
    standin.wait_until_idle()


def talk_as_openai(server: Server, standin: StandInThread) -> None:
    """Say it as OpenAI's clients do, in a session and without one."""
    standin.script(
        Behaviour(pieces=(mark("model-says"),), thinking=(mark("model-thinks"),)),
        Behaviour(pieces=(mark("model-says"),) * 2, fault="error_line", after=1, error=mark("model-fails")),
        Behaviour(fault="status", status=500, error=mark("model-fails")),
    )
    tool = {"type": "function", "function": {"name": "tool", "description": mark("openai-tool")}}
    statuses = []
    for stream, headers, tools in (
        (False, {}, []),
        (True, {"X-Session-Id": SESSION}, []),
        (True, {}, []),
        (False, {}, [tool]),
    ):
        body = {
            "model": "tiny",
            "stream": stream,
            "messages": [{"role": "user", "content": mark("openai-message")}],
            "user": mark("openai-user"),
            "stop": mark("openai-stop"),
            "tools": tools,
            mark("openai-field"): mark("openai-value"),
        }
        statuses.append(server.client.post("/v1/chat/completions", json=body, headers=headers).status_code)
    # The model knows no tools; what was scripted is used up.
    assert statuses == [200, 200, 502, 400]


def ask_wrongly(server: Server) -> None:
    """Have it refused: bodies, images, prompts, queries and headers that are not as they should be."""
    chat, message = f"/chat/{SESSION}", mark("refused-message")
    picture = base64.b64encode(mark("image").encode()).decode()
    for images in ([picture], [f"data:image/{mark('image-type')};base64,AA"], [base64.b64encode(png()).decode()]):
        server.call("POST", chat, {"message": message, "images": images})
    server.call("POST", chat, {"message": message, "format": {"type": mark("bad-schema")}})
    server.call("POST", chat, {"message": message, "options": {mark("option-name"): 1}})
    server.call("POST", "/sessions", {"model": mark("model")})
    server.call("POST", "/sessions", {"session_id": mark("session-id")})
    server.call("PATCH", f"/sessions/{SESSION}", {"title": 1, mark("field"): mark("value")})
    server.call("PUT", f"/sessions/{SESSION}/head", {"message_id": mark("message-id")})
    server.call("PUT", f"/sessions/{SESSION}/system-prompt", {"source_file": mark("prompt-file")})
    server.call("POST", "/system-prompts", {"filename": mark("prompt-name"), "content": mark("prompt")})
    for content in (mark("prompt"), [mark("no-prompt")], mark("prompt")):
        server.call("POST", "/system-prompts", {"filename": "said.md", "content": content})
    json_type = {"Content-Type": "application/json"}
    for body in (f'{{"title": "{mark("cut")}', f'{{"title": "{mark("deep")}", "options": {"[" * 3000}', mark("bare")):
        server.client.post(f"{API}/sessions", content=body, headers=json_type)
    server.client.post(f"{API}/sessions", content=b"\xff" + mark("no-utf8").encode(), headers=json_type)
    server.client.post(f"{API}/sessions", content=b"{}", headers={"Content-Type": f"text/{mark('media-type')}"})
    server.call("GET", "/sessions", Host=f"{mark('host')}.com")
    server.call("GET", "/sessions", Origin=f"http://{mark('origin')}.com")
    for session, content in DAMAGED.items():
        (server.sessions / f"{session}.json").write_text(content.replace("%s", mark("damaged")))
        server.call("GET", f"/sessions/{session}")
    server.call("GET", "/sessions")
    raw(server, "/health", mark("no-header"), f"X-Bad: {mark('bad-header')}\x01")
    raw(server, f"/health\x7f{mark('bad-path')}")


def ask_everything(server: Server) -> Iterator[httpx.Response]:
    """The answers of every route to a request that has a mark in every header, in its query, body and path."""
    headers = {name: form.format(mark(name.lower())) for name, form in HEADERS.items()}
    body = json.dumps({mark("name"): mark("value")}).encode()
    for method, route in ((one.method, one.path) for one in ROUTES):
        for path in {re.sub(r"\{.*?\}", SESSION, route), re.sub(r"\{.*?\}", mark("path"), route)}:
            for more in (headers, {k: v for k, v in headers.items() if k in CREDENTIALS}):
                query = f"?{mark('query-name')}={mark('query')}&limit={mark('limit')}&cursor={mark('cursor')}"
                content = None if method in {"GET", "DELETE"} else body
                typed = {**more, "Content-Type": "application/json"} if content else more
                if (method, path) != ("DELETE", f"{API}/sessions/{SESSION}"):
                    with contextlib.suppress(httpx.HTTPError):
                        yield server.client.request(method, path + query, content=content, headers=typed)


def ask_as_another(server: Server) -> Iterator[httpx.Response]:
    """The answers to a client that said none of it, and asks for what is not to be had."""
    for method, route in ((one.method, one.path) for one in ROUTES):
        for session in (SESSION, *DAMAGED.keys() - {QUOTED}):
            path = re.sub(r"\{.*?\}", session, route)
            if method != "DELETE":
                yield server.client.request(method, path, json=None if method == "GET" else {"zz": 1})
