"""The log: one line an event, fit for machines or for people, and never what was said."""

import json
import re
import socket
from pathlib import Path
from typing import Any

import pytest

from mochi_server.ollama.standin import Behaviour
from tests.server import API, Server
from tests.standin_thread import StandInThread

MARK = "xyzzy-MARK-42"
LIMIT = 5.0


def raw(server: Server, target: str, *headers: str) -> bytes:
    """The head of the answer to a GET of exactly this target."""
    lines = [f"GET {target} HTTP/1.1", "Host: localhost", "Connection: close", *headers]
    with socket.create_connection(("127.0.0.1", server.port), timeout=LIMIT) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode("latin-1"))
        return connection.recv(65536)


def requests_in(text: str) -> list[dict[str, Any]]:
    """The lines about requests of a JSON log, each of which must be an object."""
    lines = [json.loads(line) for line in text.split("\n") if line]
    assert all(isinstance(line, dict) for line in lines)
    return [line for line in lines if line["event"] == "request"]


def test_a_request_is_one_line_of_json_with_its_facts(server: Server) -> None:
    session = server.new_session()
    response = server.call("GET", f"/sessions/{session}?secret={MARK}&limit=3")
    server.stop()
    lines = requests_in(server.log.read_text())
    assert [line["path"] for line in lines] == [f"{API}/sessions", f"{API}/sessions/{session}"]
    line = lines[-1]
    assert set(line) == {
        "time",
        "level",
        "logger",
        "event",
        "method",
        "path",
        "status",
        "duration_ms",
        "correlation_id",
    }
    assert (line["method"], line["status"], line["level"]) == ("GET", 200, "info")
    assert line["correlation_id"] == response.headers["x-correlation-id"]
    assert 0 <= line["duration_ms"] < 10_000
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", line["time"])


def test_a_stream_is_one_line_too_at_its_end(server: Server) -> None:
    session = server.new_session()
    server.events(f"/chat/{session}/stream", {"message": "hi"})
    server.stop()
    (line,) = [line for line in requests_in(server.log.read_text()) if line["path"].endswith("/stream")]
    assert (line["method"], line["status"]) == ("POST", 200)


def say_it_everywhere(server: Server, standin: StandInThread) -> None:
    """Put the marker wherever a client or Ollama can put words, and make as much of it fail as possible."""
    options = {"stop": [f"stop at {MARK}"]}
    session = server.new_session(
        title=MARK,
        system_prompt=MARK,
        system_prompt_source_file=MARK,
        options=options,
        tool_settings={MARK: MARK},
        agent_settings={MARK: [MARK]},
    )
    chat = f"/chat/{session}"
    said = {"message": MARK, "options": options}
    standin.script(
        Behaviour(pieces=(MARK, "b"), thinking=(MARK,)),
        Behaviour(pieces=(MARK,), fault="error_line", after=1, error=MARK),
        Behaviour(pieces=(MARK, MARK), fault="reset", after=1),
        Behaviour(pieces=(MARK, MARK), fault="garbage", after=1),
        Behaviour(pieces=(MARK, MARK), fault="wrong_shape", after=1),
        Behaviour(fault="status", status=500, error=MARK),
        Behaviour(fault="status", status=400, error=MARK),
        Behaviour(fault="redirect", location=f"/{MARK}"),
        Behaviour(pieces=(MARK,) * 50, fault="silence", after=40),
    )
    server.events(f"{chat}/stream", {**said, "format": {"type": "object", "title": MARK}})
    for _ in range(7):
        server.call("POST", chat, said)
    with server.stream(f"{chat}/stream", said) as events:
        next(events)  # and leave in the middle
    standin.wait_until_idle()
    headers = {
        "X_Api_Key": MARK,
        "Authorization": f"Bearer {MARK}",
        "X_Correlation_Id": f"{MARK} insane",
        "Cookie": MARK,
    }
    server.call("GET", f"/sessions?q={MARK}&limit={MARK}&cursor={MARK}&model={MARK}", **headers)
    server.call("GET", f"/sessions/{session}", Host=f"{MARK}.com")
    server.call("GET", f"/sessions/{session}", Origin=f"http://{MARK}.com")
    server.call("POST", "/sessions", {MARK: MARK})
    server.call("POST", "/sessions", {"model": MARK})
    server.call("POST", "/sessions", {"session_id": MARK})
    server.call("PATCH", f"/sessions/{session}", {"title": MARK, "options": {MARK: 1}})
    server.call("PUT", f"/sessions/{session}/head", {"message_id": MARK})
    server.call("PUT", f"/sessions/{session}/system-prompt", {"source_file": MARK})
    server.call("POST", "/system-prompts", {"filename": MARK, "content": MARK})
    for content in (MARK, [MARK], MARK):
        server.call("POST", "/system-prompts", {"filename": "said.md", "content": content})
    server.call("PUT", "/system-prompts/said.md", {"content": MARK})
    server.call("POST", chat, {**said, "format": {"type": MARK}})
    for body in (f'{{"title": "{MARK}', f'{{"title": "{MARK}", "options": {{"seed": {"9" * 5000}}}}}'):
        server.client.post(f"{API}/sessions", content=body, headers={"Content-Type": "application/json"})
    server.client.post(f"{API}/sessions", content=MARK, headers={"Content-Type": f"text/{MARK}"})
    (server.sessions / "00000000ee.json").write_text(f'{{"metadata": "{MARK}"}}')
    server.call("GET", "/sessions/00000000ee")
    raw(server, "/health", f"{MARK}", f"X-Bad: {MARK}\x01")
    raw(server, f"/health\x7f{MARK}")


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_no_line_at_any_level_holds_what_was_said_or_a_headers_value(
    tmp_path: Path, standin: StandInThread, log_format: str
) -> None:
    arguments = ("--log-level", "debug", "--log-format", log_format)
    with Server(tmp_path, standin.url, *arguments, environment={"MOCHI_DISCONNECT_GRACE": "0"}) as server:
        say_it_everywhere(server, standin)
        assert server.stop() == 0
    text = server.log.read_text()
    assert text.count("request") > 20
    assert "MARK" not in text
    assert "xyzzy" not in text


FORGERIES = [
    '/a%0d%0a{"level":"error","event":"forged"}',
    "/a%0aevent=forged",
    "/a%0devent=forged",
    "/%1b[2Jforged",
    "/%0b%0c%1c%1d%1eforged",
    "/%c2%85forged",
    "/%e2%80%a8forged",
    "/%e2%80%a9forged",
    "/%00forged",
    "/%e2%80%aeforged",
]


def test_no_path_can_forge_a_line_of_json(server: Server) -> None:
    for target in FORGERIES:
        assert b" 404 " in raw(server, target)
    server.stop()
    lines = requests_in(server.log.read_bytes().decode())
    assert len(lines) == len(FORGERIES)
    assert {line["status"] for line in lines} == {404}


def test_no_path_can_forge_a_line_on_a_console(tmp_path: Path, standin: StandInThread) -> None:
    with Server(tmp_path, standin.url, "--log-format", "console") as server:
        for target in FORGERIES:
            assert b" 404 " in raw(server, target)
        server.stop()
    lines = [line for line in server.log.read_bytes().decode().splitlines() if "forged" in line]
    assert len(lines) == len(FORGERIES)
    assert all(line.isprintable() and " request " in line for line in lines)


def test_a_console_line_can_be_read_by_people(tmp_path: Path, standin: StandInThread) -> None:
    with Server(tmp_path, standin.url, "--log-format", "console") as server:
        server.call("GET", "/health", X_Correlation_Id="mine")
        server.stop()
    (line,) = [line for line in server.log.read_text().splitlines() if " request " in line]
    assert re.fullmatch(
        r"\d\d:\d\d:\d\d\.\d{3} info    request method=GET path=/api/v1/health status=200 duration_ms=[\d.]+ "
        r"correlation_id=mine",
        line,
    )


def test_a_higher_level_leaves_the_requests_out(tmp_path: Path, standin: StandInThread) -> None:
    with Server(tmp_path, standin.url, "--log-level", "warning") as server:
        server.call("GET", "/health")
        server.stop()
    assert server.log.read_text() == ""
