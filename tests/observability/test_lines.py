"""The log: one line a request and one a reply, fit for machines or for people, that nobody can forge."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from mochi_server.ollama.standin import Behaviour, Gate
from tests.observability.words import found_in, mark, raw
from tests.server import API, LIMIT, Server, told
from tests.standin_thread import StandInThread

ROOT = Path(__file__).parents[2]
HEAD = {"time", "level", "logger", "event"}
REQUEST = HEAD | {"method", "path", "status", "duration_ms", "correlation_id"}
GENERATION = HEAD | {
    *("session_id", "generation_id", "model", "prompt_tokens", "reply_tokens", "ttft_ms", "total_ms", "window"),
    *("outcome", "done_reason", "correlation_id"),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, standin: StandInThread) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("server"), standin.url) as server:
        yield server


def line_of(server: Server, event: str, correlation_id: str) -> dict[str, Any]:
    """The line of this event that carries this id."""
    return server.logged(lambda line: line["event"] == event and line.get("correlation_id") == correlation_id)


def test_a_request_is_one_line_of_json_with_its_facts(server: Server) -> None:
    session = server.new_session()
    response = server.call("GET", f"/sessions/{session}?secret={mark('query')}&limit=3")
    line = line_of(server, "request", response.headers["x-correlation-id"])
    assert set(line) == REQUEST
    assert (line["method"], line["status"], line["level"]) == ("GET", 200, "info")
    assert line["path"] == f"{API}/sessions/{session}"
    assert 0 <= line["duration_ms"] < 10_000
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", line["time"])


def test_a_stream_is_one_line_too_at_its_end(server: Server) -> None:
    session = server.new_session()
    server.events(f"/chat/{session}/stream", {"message": "hi"}, X_Correlation_Id="a-stream")
    line = line_of(server, "request", "a-stream")
    assert (line["method"], line["status"], line["path"]) == ("POST", 200, f"{API}/chat/{session}/stream")


def test_a_reply_is_one_line_with_its_counts_under_the_id_of_its_request(
    server: Server, standin: StandInThread
) -> None:
    session = server.new_session()
    standin.script(Behaviour(pieces=("a", "b", "c"), prompt_eval_count=17, eval_count=3))
    message = server.ok("POST", f"/chat/{session}", {"message": "hi"}, X_Correlation_Id="a-reply")["message"]
    line = line_of(server, "generation", "a-reply")
    assert set(line) == GENERATION
    assert (line["session_id"], line["model"], line["level"]) == (session, "tiny", "info")
    assert (line["prompt_tokens"], line["reply_tokens"]) == (17, 3)
    assert (line["outcome"], line["done_reason"]) == ("complete", "stop")
    assert line["ttft_ms"] == message["stats"]["ttft_ms"]
    assert line["ttft_ms"] <= message["stats"]["total_ms"] <= line["total_ms"]
    assert line["window"] == message["context"]["window"]
    assert re.fullmatch("[0-9a-f]{10}", line["generation_id"])


def test_a_reply_that_fails_is_found_by_the_id_in_the_clients_error(server: Server, standin: StandInThread) -> None:
    session = server.new_session()
    standin.script(Behaviour(pieces=("a", "b"), fault="error_line", after=1, error="CUDA error"))
    events = server.events(f"/chat/{session}/stream", {"message": "hi"})
    error = next(event.data for event in events if event.name == "error")
    line = line_of(server, "generation", error["correlation_id"])
    assert (line["outcome"], line["done_reason"], line["reply_tokens"]) == ("ollama_error", "error", None)
    standin.script(Behaviour(fault="status", status=503, error="busy"))
    answer = server.call("POST", f"/chat/{session}", {"message": "again"})
    assert told(answer)[1] == "ollama_busy"
    line = line_of(server, "generation", answer.json()["detail"]["error"]["correlation_id"])
    assert (line["outcome"], line["done_reason"], line["ttft_ms"]) == ("ollama_busy", None, None)


@pytest.mark.parametrize("place", [0, 1])
def test_a_reply_that_was_stopped_says_so(server: Server, standin: StandInThread, place: int) -> None:
    session, gate = server.new_session(), Gate(place)
    standin.script(Behaviour(pieces=("a", "b"), gate=gate))
    with server.stream(f"/chat/{session}/stream", {"message": "hi"}, X_Correlation_Id=f"stopped-{place}") as events:
        gate.wait(place)
        if place:
            next(events)
        server.ok("POST", f"/chat/{session}/stop")
        gate.open()
    line = line_of(server, "generation", f"stopped-{place}")
    assert (line["outcome"], line["done_reason"]) == ("interrupted", "stopped")
    assert (line["ttft_ms"] is None) == (place == 0)


def test_a_long_reply_is_logged_no_more_than_a_short_one(tmp_path: Path, standin: StandInThread) -> None:
    with Server(tmp_path, standin.url, "--log-level", "debug") as server:
        for tokens in (1, 2000):
            session = server.new_session()
            standin.script(Behaviour(pieces=("w",) * tokens, interval=0))
            server.events(f"/chat/{session}/stream", {"message": "hi"}, X_Correlation_Id=f"{tokens}")
            line_of(server, "request", f"{tokens}")
            own = [line for line in server.log_lines() if line["logger"].startswith("mochi_server")]
            assert [line["event"] for line in own if line.get("correlation_id") == f"{tokens}"] == [
                "generation",
                "request",
            ]


def test_what_is_logged_in_a_thread_for_a_request_carries_its_id_too(server: Server) -> None:
    session = server.new_session()
    keys = server.sessions / ".mochi" / "keys" / f"{session}.json"
    keys.parent.mkdir(exist_ok=True)
    keys.write_text(mark("broken"))
    server.ok("POST", f"/chat/{session}", {"message": "hi"}, Idempotency_Key="one", X_Correlation_Id="with-a-key")
    line = line_of(server, "a file of idempotency keys is broken, and begun anew", "with-a-key")
    assert line["scope"] == session


FORGERIES = [
    '/a%0d%0a{"level":"error","event":"forged"}',
    "/a%0aevent=forged",
    "/a%0devent=forged",
    "/a%20event=forged%22%20x=%22",
    "/%1b[2Jforged",
    "/%1b]0;title%07forged",
    "/%1b[31mforged",
    "/%0b%0c%1c%1d%1eforged",
    "/%00%07%08%7fforged",
    "/%c2%85forged",
    "/%c2%9b31mforged",
    "/%c2%9d0;title%c2%9cforged",
    "/%e2%80%a8forged",
    "/%e2%80%a9forged",
    "/%e2%80%ae%e2%81%a6%ef%bb%bfforged",
    "/%f3%a0%81%81forged",
    "/%ed%b2%80%ff%feforged",
]
FORGED_IDS = ["a b", 'x"} {"event":"forged"', "a\x85forged", "forged\x9b", "a" * 129, "forged\t"]


def forge(server: Server) -> list[str]:
    """Try all of them, as bytes; the log's lines about them, as a terminal or a machine would find them."""
    for target in FORGERIES:
        assert b" 404 " in raw(server, target)
    for forged in FORGED_IDS:
        assert b" 404 " in raw(server, "/forged", f"X-Correlation-Id: {forged}")
    server.call("POST", "/sessions", {"model": "forged\x1b[31m\n\u2028"})
    server.stop()
    text = server.log.read_bytes().decode()
    assert all(line.isprintable() for line in text.split("\n"))
    lines = [line for line in text.split("\n") if "forged" in line]
    assert len(lines) == len(FORGERIES) + len(FORGED_IDS)
    return lines


def test_nothing_that_is_sent_can_forge_a_line_of_json(tmp_path: Path, standin: StandInThread) -> None:
    with Server(tmp_path, standin.url) as server:
        lines = [json.loads(line) for line in forge(server)]
    assert {line["event"] for line in lines} == {"request"}
    assert {line["status"] for line in lines} == {404}
    assert all(set(line) == REQUEST for line in lines)
    assert all(re.fullmatch("[0-9a-f]{32}", line["correlation_id"]) for line in lines)


def test_nothing_that_is_sent_can_forge_a_line_on_a_console(tmp_path: Path, standin: StandInThread) -> None:
    with Server(tmp_path, standin.url, "--log-format", "console") as server:
        lines = forge(server)
    whole = re.compile(
        r'[\d:.]{12} info    request method=GET path=(/[\w/]*|"[^"]*") status=404 duration_ms=[\d.]+ '
        r"correlation_id=[0-9a-f]{32}"
    )
    assert [line for line in lines if not whole.fullmatch(line)] == []


def test_a_long_path_is_cut(server: Server) -> None:
    answer = server.client.get("/" + "long" * 5000)
    path = line_of(server, "request", answer.headers["x-correlation-id"])["path"]
    assert path == ("/" + "long" * 5000)[:256] + "…"


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


def test_a_terminal_gets_colours(tmp_path: Path, standin: StandInThread) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "mochi_server", "--port", "0", "--ollama-host", standin.url]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=theirs) as process:
        os.close(theirs)
        assert process.stdout is not None
        url = process.stdout.readline().decode().split()[-1]
        assert httpx.get(f"{url}/nowhere%1b[31m", trust_env=False).status_code == 404
        process.send_signal(signal.SIGTERM)
        process.wait(LIMIT)
    shown = os.read(ours, 65536).decode()
    os.close(ours)
    assert "\x1b[32minfo   \x1b[0m \x1b[1mrequest\x1b[0m method=GET" in shown
    assert 'path="/nowhere\\x1b[31m"' in shown


def test_a_higher_level_leaves_the_requests_out(tmp_path: Path, standin: StandInThread) -> None:
    with Server(tmp_path, standin.url, "--log-level", "warning") as server:
        server.ok("POST", "/chat", {"message": "hi", "model": "tiny"})
        server.stop()
    assert server.log.read_text() == ""


def test_a_log_that_cannot_be_written_keeps_nobody_from_an_answer(tmp_path: Path, standin: StandInThread) -> None:
    with Server(tmp_path, standin.url, through=("sh", "-c", 'exec "$@" 2>/dev/full', "sh")) as server:
        session = server.new_session()
        assert server.events(f"/chat/{session}/stream", {"message": "hi"})[-1].name == "done"
        # What comes after a line happens, too.
        metrics = server.client.get("/metrics").text
        assert 'mochi_generations_total{outcome="complete"} 1.0' in metrics
        assert 'route="/api/v1/sessions",status="2xx"} 1.0' in metrics
        assert server.stop() == 0


def test_a_start_that_fails_says_where_in_one_line_and_nothing_else_of_it(
    tmp_path: Path, standin: StandInThread
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "from mochi_server.store.prompts import PromptFiles\n"
        "async def fails(self):\n"
        f"    raise RuntimeError({mark('start')[:3]!r} + {mark('start')[3:]!r})\n"
        "PromptFiles.open = fails\n"
    )
    path = os.pathsep.join(filter(None, (str(tmp_path), str(ROOT), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-m", "mochi_server", "--port", "0", "--ollama-host", standin.url]
    ended = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, capture_output=True, timeout=LIMIT, check=False
    )
    assert ended.returncode == 3
    lines = [json.loads(line) for line in ended.stderr.decode().splitlines()]
    assert found_in(ended.stderr.decode()) == set()
    (bug,) = [line for line in lines if line["event"] == "internal error"]
    assert bug["error"] == "RuntimeError"
    assert "in fails\n" in bug["stack"]
