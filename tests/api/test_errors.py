"""What cannot be done is told in one shape, changes nothing on disk and asks nothing of Ollama."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import httpx
import pytest

from mochi_server.api.routes import ROUTES
from mochi_server.ollama.standin import Behaviour, Gate
from tests.api.conftest import BODY_LIMIT, MESSAGE_LIMIT
from tests.api.wire import exchange
from tests.server import API, Server, told
from tests.standin_thread import StandInThread

JSON = {"Content-Type": "application/json"}
HOST = ("Host", "localhost")
WITH_BODY = [
    ("POST", "/sessions"),
    ("PATCH", "/sessions/{id}"),
    ("PUT", "/sessions/{id}/messages/1"),
    ("PUT", "/sessions/{id}/system-prompt"),
    ("PUT", "/sessions/{id}/head"),
    ("POST", "/system-prompts"),
    ("PUT", "/system-prompts/brief.md"),
    ("POST", "/chat"),
    ("POST", "/chat/stream"),
    ("POST", "/chat/{id}"),
    ("POST", "/chat/{id}/stream"),
    ("POST", "/chat/{id}/stop"),
]
ROUTES_WITH_BODY = pytest.mark.parametrize(("method", "path"), WITH_BODY, ids=[f"{m} {p}" for m, p in WITH_BODY])
DEEP = 10_000


class House(NamedTuple):
    """A server with one session: a system prompt, a question and its answer."""

    server: Server
    standin: StandInThread
    session: str

    def state(self) -> tuple[dict[str, bytes], int]:
        """All files of sessions and system prompts, and how often Ollama was asked for a reply."""
        # The index file is a cache that follows a second later: it may be written at any time.
        files = {
            str(path): path.read_bytes()
            for path in self.server.folder.rglob("*")
            if path.is_file() and path.name not in {"lock", "server.log"} and not path.name.startswith("index.sqlite")
        }
        return files, len(self.standin.chats)

    @contextmanager
    def untouched(self) -> Iterator[None]:
        """What happens inside changes no file, asks no model and does not harm the server."""
        before = self.state()
        yield
        assert self.state() == before
        assert self.server.client.get("/health").status_code == 200

    def send(self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> httpx.Response:
        """One request below `/api/v1`; `{id}` in the path is the session's."""
        path = path.replace("{id}", self.session)
        return self.server.client.request(
            method, API + path, content=body or None, headers=JSON if headers is None else headers
        )

    def refused(self, method: str, path: str, body: bytes = b"") -> tuple[int, str, dict[str, Any]]:
        """Status, code and details of a request that must fail and leave everything as it was."""
        with self.untouched():
            return checked(self.server, self.send(method, path, body))


def checked(server: Server, response: httpx.Response) -> tuple[int, str, dict[str, Any]]:
    """Status, code and details of an error whose words give nothing of the server away."""
    for secret in ("Traceback", ".py", "site-packages", str(server.folder)):
        assert secret not in response.text
    return told(response)


@pytest.fixture(scope="module")
def house(shared: Server, shared_standin: StandInThread) -> House:
    session = shared.new_session(system_prompt="Be brief.")
    shared.ok("POST", f"/chat/{session}", {"message": "hi"})
    return House(shared, shared_standin, session)


@ROUTES_WITH_BODY
@pytest.mark.parametrize(
    "body",
    [b"{not json", b'{"model": "ti', b'{"a": "\xff"}', b"[" * DEEP, b'{"a":' * DEEP + b"1" + b"}" * DEEP, b"{} {}"],
    ids=["malformed", "truncated", "bad UTF-8", "deep arrays", "deep objects", "two values"],
)
def test_a_body_that_is_not_json_is_refused(house: House, method: str, path: str, body: bytes) -> None:
    assert house.refused(method, path, body)[:2] == (400, "invalid_json")


@ROUTES_WITH_BODY
@pytest.mark.parametrize("body", [b"[]", b'"text"', b"null", b"7", b"true"])
def test_json_that_is_no_object_is_of_the_wrong_shape(house: House, method: str, path: str, body: bytes) -> None:
    assert house.refused(method, path, body)[:2] == (422, "validation_error")


@ROUTES_WITH_BODY
def test_an_unknown_field_is_named(house: House, method: str, path: str) -> None:
    status, code, details = house.refused(method, path, b'{"mesage": "hi"}')
    assert (status, code, details["path"]) == (422, "validation_error", "$.mesage")


@pytest.mark.parametrize(
    ("method", "path"), [r for r in WITH_BODY if r[1] != "/sessions" and not r[1].endswith("stop")]
)
def test_an_empty_body_is_no_json_where_a_body_is_needed(house: House, method: str, path: str) -> None:
    assert house.refused(method, path)[:2] == (400, "invalid_json")


@pytest.mark.parametrize(
    ("path", "field"),
    [("/sessions", "tool_settings"), ("/sessions", "agent_settings"), ("/chat/{id}", "format")],
)
def test_a_field_of_any_shape_may_not_be_nested_without_end(house: House, path: str, field: str) -> None:
    nested = b'{"a":' * DEEP + b"1" + b"}" * DEEP
    assert house.refused("POST", path, b'{"%b":%b}' % (field.encode(), nested))[:2] == (400, "invalid_json")


HUGE = 10**400
CREATE, CHAT = ("POST", "/sessions"), ("POST", "/chat/{id}")
PATCH, EDIT = ("PATCH", "/sessions/{id}"), ("PUT", "/sessions/{id}/messages/1")
PROMPT, HEAD = ("PUT", "/sessions/{id}/system-prompt"), ("PUT", "/sessions/{id}/head")
FIRST, STOP = ("POST", "/chat"), ("POST", "/chat/{id}/stop")
FILE, REPLACE = ("POST", "/system-prompts"), ("PUT", "/system-prompts/brief.md")
WRONG: list[tuple[tuple[str, str], dict[str, Any], str]] = [
    (CREATE, {"model": 7}, "$.model"),
    (CREATE, {"model": ""}, "$.model"),
    (CREATE, {"model": "x" * 301}, "$.model"),
    (CREATE, {"title": ["x"]}, "$.title"),
    (CREATE, {"title": "x" * 501}, "$.title"),
    (CREATE, {"system_prompt": ""}, "$.system_prompt"),
    (CREATE, {"system_prompt": "x", "system_prompt_source_file": ""}, "$.system_prompt_source_file"),
    (CREATE, {"session_id": "../../etc/x"}, "$.session_id"),
    (CREATE, {"session_id": "ABCDEF0123"}, "$.session_id"),
    (CREATE, {"session_id": "0123456789a"}, "$.session_id"),
    (CREATE, {"session_id": "0123456789\n"}, "$.session_id"),
    (CREATE, {"session_id": 1234567890}, "$.session_id"),
    (CREATE, {"history_limit": 0}, "$.history_limit"),
    (CREATE, {"history_limit": -1}, "$.history_limit"),
    (CREATE, {"history_limit": "all"}, "$.history_limit"),
    (CREATE, {"history_limit": 1.5}, "$.history_limit"),
    (CREATE, {"history_limit": HUGE}, "$.history_limit"),
    (CREATE, {"options": {"temprature": 1}}, "$.options.temprature"),
    (CREATE, {"options": {"seed": HUGE}}, "$.options.seed"),
    (CREATE, {"options": {"seed": 2**63}}, "$.options.seed"),
    (CREATE, {"options": {"num_ctx": 0}}, "$.options.num_ctx"),
    (CREATE, {"options": {"num_predict": -HUGE}}, "$.options.num_predict"),
    (CREATE, {"options": {"num_predict": True}}, "$.options.num_predict"),
    (CREATE, {"options": {"temperature": "hot"}}, "$.options.temperature"),
    (CREATE, {"options": {"temperature": 1e39}}, "$.options.temperature"),
    (CREATE, {"options": {"stop": "END"}}, "$.options.stop"),
    (CREATE, {"options": {"stop": ["END", 1]}}, "$.options.stop[1]"),
    (CREATE, {"options": []}, "$.options"),
    (CREATE, {"tool_settings": []}, "$.tool_settings"),
    (CREATE, {"agent_settings": "x"}, "$.agent_settings"),
    (PATCH, {"model": None}, "$.model"),
    (PATCH, {"session_id": "0123456789"}, "$.session_id"),
    (PATCH, {"revision": "x"}, "$.revision"),
    (PATCH, {"options": {"nun_ctx": 1}}, "$.options.nun_ctx"),
    (PATCH, {"context_window_config": {"windw": 1}}, "$.context_window_config.windw"),
    (PATCH, {"context_window_config": {"current_window": 0}}, "$.context_window_config.current_window"),
    (PATCH, {"context_window_config": None}, "$.context_window_config"),
    (EDIT, {}, "$.content"),
    (EDIT, {"content": ""}, "$.content"),
    (EDIT, {"content": None}, "$.content"),
    (PROMPT, {}, "$.content"),
    (PROMPT, {"content": ""}, "$.content"),
    (PROMPT, {"content": "x", "source_file": "y" * 256}, "$.source_file"),
    (HEAD, {}, "$.message_id"),
    (HEAD, {"message_id": None}, "$.message_id"),
    (CHAT, {"message": ""}, "$.message"),
    (CHAT, {"message": {"role": "user"}}, "$.message"),
    (CHAT, {"message": "x", "think": "hard"}, "$.think"),
    (CHAT, {"message": "x", "think": 1}, "$.think"),
    (CHAT, {"message": "x", "format": "xml"}, "$.format"),
    (CHAT, {"message": "x", "format": []}, "$.format"),
    (CHAT, {"message": "x", "format": {"type": "banana"}}, "$.format.type"),
    (FIRST, {"message": "x", "format": {"items": {"type": 1}}}, "$.format.items.type"),
    (CHAT, {"message": "x", "keep_alive": ""}, "$.keep_alive"),
    (CHAT, {"message": "x", "keep_alive": HUGE}, "$.keep_alive"),
    (CHAT, {"message": "x", "on_disconnect": "never"}, "$.on_disconnect"),
    (CHAT, {"message": "x", "options": {"num_cxt": 1}}, "$.options.num_cxt"),
    (CHAT, {"message": "x", "history_limit": "some"}, "$.history_limit"),
    (CHAT, {"message": "x", "model": "tiny"}, "$.model"),
    (CHAT, {"message": "x", "images": "aGk="}, "$.images"),
    (CHAT, {"message": "x", "images": [1]}, "$.images[0]"),
    (FIRST, {"message": "x", "title": "t"}, "$.title"),
    (FIRST, {"message": "x", "model": 1}, "$.model"),
    (FIRST, {"message": "x", "system_prompt": ""}, "$.system_prompt"),
    (STOP, {"generation_id": 1}, "$.generation_id"),
    (FILE, {"content": "x"}, "$.filename"),
    (FILE, {"filename": 1, "content": "x"}, "$.filename"),
    (FILE, {"filename": "brief.md"}, "$.content"),
    (FILE, {"filename": "brief.md", "content": "x", "preview": "x"}, "$.preview"),
    (REPLACE, {}, "$.content"),
    (REPLACE, {"filename": "brief.md", "content": "x"}, "$.filename"),
]


@pytest.mark.parametrize(
    ("route", "body", "path"), WRONG, ids=[f"{r[0]} {r[1]} {p} {n}" for n, (r, _, p) in enumerate(WRONG)]
)
def test_a_field_that_is_wrong_is_named(house: House, route: tuple[str, str], body: dict[str, Any], path: str) -> None:
    status, code, details = house.refused(*route, json.dumps(body).encode())
    assert (status, code, details["path"]) == (422, "validation_error", path)


@pytest.mark.parametrize(
    "number", [b"9" * 5000, b"-" + b"9" * 5000, b"1e400", b"NaN", b"1e99999"], ids=lambda number: number[:8].decode()
)
@pytest.mark.parametrize("where", ['{"tool_settings":{"a":%s}}', '{"options":{"seed":%s}}', '{"history_limit":%s}'])
def test_a_number_that_no_number_holds_is_refused(house: House, where: str, number: bytes) -> None:
    status, code, _ = house.refused("POST", "/sessions", where.replace("%s", number.decode()).encode())
    assert (status, code) in {(400, "invalid_json"), (422, "validation_error")}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(
            ("limit", v)
            for v in ("0", "1001", "-1", "abc", "1.5", "", " 1", "²", "\u0661", "0000010009", "1" + "9" * 5000)
        ),
        ("limit", "000000001" + "9" * 5000),
        *(("cursor", v) for v in ("", "x", "!!!", "/w==", "ZmY", "YQpiCmM=", "é", "A" * 9999)),
    ],
)
def test_a_bad_query_parameter_is_named(house: House, name: str, value: str) -> None:
    with house.untouched():
        response = house.server.client.get(f"{API}/sessions", params={name: value})
        status, code, details = checked(house.server, response)
    assert (status, code, details["path"]) == (422, "validation_error", name)


@ROUTES_WITH_BODY
@pytest.mark.parametrize(
    "media_type",
    [
        None,
        "",
        "text/plain",
        "text/plain;charset=UTF-8",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=application/json",
        "application/json; charset=latin-1",
        "application/json; charset=utf-16",
        "application/jsonp",
        "text/plain, application/json",
        "text/json",
    ],
)
def test_a_body_of_another_media_type_is_refused(house: House, method: str, path: str, media_type: str | None) -> None:
    headers = {} if media_type is None else {"Content-Type": media_type}
    with house.untouched():
        response = house.send(method, path, b'{"message": "hi"}', headers)
    assert checked(house.server, response)[:2] == (415, "unsupported_media_type")


@pytest.mark.parametrize(
    "media_type", ["application/json", "APPLICATION/Json", "application/json; charset=UTF-8",
                   'application/json;charset="utf-8"', "application/json ;charset=utf-8", "application/json;"]
)  # fmt: skip
def test_json_in_utf_8_is_taken_however_it_is_written(house: House, media_type: str) -> None:
    response = house.send("POST", "/sessions", b'{"model": "tiny"}', {"Content-Type": media_type})
    assert response.status_code == 201


@ROUTES_WITH_BODY
@pytest.mark.parametrize("chunked", [False, True], ids=["declared", "chunked"])
def test_a_body_over_the_limit_is_refused(house: House, method: str, path: str, chunked: bool) -> None:
    body = b'{"message": "' + b"x" * BODY_LIMIT + b'"}'
    sent = iter([body[:1000], body[1000:]]) if chunked else body
    with house.untouched():
        response = house.server.client.request(
            method, API + path.replace("{id}", house.session), content=sent, headers=JSON
        )
        assert checked(house.server, response)[:2] == (413, "payload_too_large")


def test_a_body_of_just_the_limit_is_taken(house: House) -> None:
    body = b'{"model": "tiny"}'
    assert house.send("POST", "/sessions", body + b" " * (BODY_LIMIT - len(body))).status_code == 201
    assert house.refused("POST", "/sessions", body + b" " * (BODY_LIMIT - len(body) + 1))[0] == 413


@pytest.mark.parametrize(
    ("method", "path", "field"),
    [
        ("POST", "/sessions", "system_prompt"),
        ("PUT", "/sessions/{id}/messages/1", "content"),
        ("PUT", "/sessions/{id}/system-prompt", "content"),
        ("POST", "/chat/{id}", "message"),
        ("POST", "/chat/{id}/stream", "message"),
        ("POST", "/chat", "message"),
    ],
)
def test_a_text_over_the_limit_is_refused(house: House, method: str, path: str, field: str) -> None:
    body = json.dumps({field: "é" * (MESSAGE_LIMIT + 1)}).encode()
    assert house.refused(method, path, body)[:2] == (413, "payload_too_large")


@pytest.mark.parametrize(
    "path", ["/", "/nope", "/api", "/api/v1", "/api/v2/sessions", "/api/v1/sessions/", "/api/v1/chat/x/y/z",
             "//health", "/HEALTH", "/api/v1/sessions/0123456789/nothing", "/api/v1/sessions/0123456789/messages/0/x"]
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_a_path_that_is_not_there_is_told(house: House, method: str, path: str) -> None:
    with house.untouched():
        response = exchange(house.server.port, method, path)
    assert checked(house.server, response)[:2] == (404, "not_found")


@pytest.mark.parametrize("path", sorted({route.path for route in ROUTES}))
def test_a_method_that_a_path_does_not_take_is_refused_with_all_those_that_it_takes(house: House, path: str) -> None:
    allowed = {route.method for route in ROUTES if route.path == path}
    allowed |= {"HEAD"} if "GET" in allowed else set()
    target = path.replace("{session_id}", house.session).replace("{index}", "1")
    target = target.replace("{name:path}", "tiny").replace("{filename:path}", "brief.md")
    for method in {"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"} - allowed:
        with house.untouched():
            response = exchange(house.server.port, method, target)
        assert checked(house.server, response)[:2] == (405, "method_not_allowed")
        assert set(response.headers["allow"].split(", ")) == allowed


def body_for(method: str, path: str) -> bytes:
    """A body that would do, were the session there."""
    bodies = {"messages": {"content": "x"}, "system-prompt": {"content": "x"}, "head": {"message_id": "x"}}
    last = path.replace("/{index}", "").rpartition("/")[2]
    if method == "DELETE" or method == "GET":
        return b""
    return json.dumps(bodies.get(last, {"message": "x"} if "/chat/" in path and last != "stop" else {})).encode()


OF_A_SESSION = [(route.method, route.path) for route in ROUTES if "{session_id}" in route.path]


@pytest.mark.parametrize(("method", "path"), OF_A_SESSION, ids=[f"{m} {p}" for m, p in OF_A_SESSION])
def test_an_id_that_names_no_session_is_told_and_touches_no_file(house: House, method: str, path: str) -> None:
    ids = (
        *("0123456789", "ABCDEF0123", "0123456789a", "012345678", "..", ".", "%2e%2e", "..%2f..%2fetc%2fpasswd", "%00"),
        *("0123456789%0a", "0123456789.json", ".mochi", "..%5c..", "%ff", "%c3%a9", "x" * 3000, "*", "~", "%252e"),
    )
    for session_id in ids:
        target = path.replace("{session_id}", session_id).replace("{index}", "0")
        body = body_for(method, path)
        headers = (HOST, *(JSON.items() if body else ()))
        with house.untouched():
            response = exchange(house.server.port, method, target, headers, body)
        status, code, _ = checked(house.server, response)
        assert (session_id, status) == (session_id, 404)
        assert code == "session_not_found" or ("%2f" in session_id and code == "not_found")


@pytest.mark.parametrize(("method", "body"), [("PUT", b'{"content": "x"}'), ("DELETE", b"")])
@pytest.mark.parametrize(
    "index", ["-1", "abc", "1" + "0" * 30, "1.0", "0x1", "%201", "+1", "1e0", "%d9%a1", "3", "99", "0", "%00", "1%0a"]
)
def test_an_index_that_is_no_index_is_refused(house: House, method: str, index: str, body: bytes) -> None:
    told = house.refused(method, f"/sessions/{{id}}/messages/{index}", body)
    assert told[:2] == (400, "invalid_message_index")


@pytest.mark.parametrize(
    ("method", "path", "body", "expected"),
    [
        ("POST", "/sessions", {"model": "none"}, (400, "model_not_found")),
        ("PATCH", "/sessions/{id}", {"model": "none"}, (400, "model_not_found")),
        ("POST", "/chat", {"message": "x", "model": "none"}, (400, "model_not_found")),
        ("GET", "/models/none", None, (404, "model_not_found")),
        ("PUT", "/sessions/{id}/head", {"message_id": "0123456789"}, (404, "message_not_found")),
        ("POST", "/sessions", {"system_prompt_source_file": "a.md"}, (404, "prompt_not_found")),
        ("GET", "/system-prompts/none.md", None, (404, "prompt_not_found")),
        ("PUT", "/system-prompts/none.md", {"content": "x"}, (404, "prompt_not_found")),
        ("DELETE", "/system-prompts/none.md", None, (404, "prompt_not_found")),
        ("POST", "/chat", {}, (400, "empty_history")),
        ("POST", "/chat/stream", {"message": None}, (400, "empty_history")),
        ("POST", "/chat/{id}", {"message": "x", "think": True}, (400, "capability_missing")),
        ("POST", "/chat/stream", {"message": "x", "model": "tiny", "think": "low"}, (400, "capability_missing")),
    ],
)
def test_what_cannot_be_done_is_told(
    house: House, method: str, path: str, body: object, expected: tuple[int, str]
) -> None:
    sent = b"" if body is None else json.dumps(body).encode()
    status, code, details = house.refused(method, path, sent)
    assert (status, code) == expected
    if code == "model_not_found":
        assert "tiny:latest" in details["available"]
    if code == "capability_missing":
        assert details["capability"] == "thinking"


def test_a_session_without_a_question_has_nothing_to_answer(house: House) -> None:
    empty = house.server.new_session(system_prompt="s")
    assert house.refused("POST", f"/chat/{empty}", b'{"message": null}')[:2] == (400, "empty_history")


def test_nothing_changes_the_history_under_a_running_reply(house: House) -> None:
    session, gate = house.server.new_session(system_prompt="s"), Gate(1)
    house.standin.script(Behaviour(pieces=("a", "b"), gate=gate))
    changes: list[tuple[str, str, Any]] = [
        ("PUT", f"/sessions/{session}/messages/1", {"content": "x"}),
        ("DELETE", f"/sessions/{session}/messages/1", None),
        ("PUT", f"/sessions/{session}/system-prompt", {"content": "x"}),
        ("DELETE", f"/sessions/{session}/system-prompt", None),
        ("PUT", f"/sessions/{session}/head", {"message_id": "0123456789"}),
        ("POST", f"/chat/{session}", {"message": "x"}),
        ("POST", f"/chat/{session}/stream", {"message": None}),
    ]
    with house.server.stream(f"/chat/{session}/stream", {"message": "hi"}) as events:
        gate.wait(1)
        running = house.server.ok("GET", f"/sessions/{session}/status")["generation"]["generation_id"]
        for method, path, body in changes:
            status, code, details = house.refused(method, path, b"" if body is None else json.dumps(body).encode())
            assert (path, status, code) == (path, 409, "session_busy")
            assert details["generation_id"] == running
        gate.open()
        assert [e.name for e in events][-1] == "done"
    assert house.server.contents(session) == [("system", "s"), ("user", "hi"), ("assistant", "ab")]


@pytest.mark.parametrize(
    ("behaviour", "expected"),
    [
        (Behaviour(fault="status", status=503, error="server busy"), (503, "ollama_busy")),
        (Behaviour(fault="status", status=500, error="cuda error"), (502, "ollama_error")),
        (Behaviour(fault="status", status=400, error="bad thing"), (400, "ollama_rejected")),
        (Behaviour(fault="redirect"), (502, "ollama_error")),
        (Behaviour(fault="reset", after=1), (502, "ollama_error")),
        (Behaviour(fault="garbage", after=1), (502, "ollama_error")),
    ],
    ids=lambda value: value[1] if isinstance(value, tuple) else value.fault,
)
def test_what_ollama_refuses_is_told_as_what_it_is(
    house: House, behaviour: Behaviour, expected: tuple[int, str]
) -> None:
    session = house.server.new_session()
    house.standin.script(behaviour)
    response = house.server.call("POST", f"/chat/{session}", {"message": "hi"})
    status, code, _ = checked(house.server, response)
    assert (status, code) == expected
    assert ("retry-after" in response.headers) == (code == "ollama_busy")
    assert house.server.contents(session)[0] == ("user", "hi")
