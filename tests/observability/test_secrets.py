"""What people say, keys and the values of headers are in no log line and in no metric, whatever goes wrong."""

import os
import re
from pathlib import Path
from typing import Any

import pytest

from tests.faults.injected import RENAME, injected, why_not
from tests.observability.words import (
    SESSION,
    ask_as_another,
    ask_everything,
    ask_wrongly,
    found_in,
    logged_of,
    mark,
    talk,
    talk_as_openai,
)
from tests.server import Server
from tests.standin_thread import StandInThread

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {"MOCHI_DISCONNECT_GRACE": "0", "MOCHI_FIRST_TOKEN_TIMEOUT": "10"}


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_no_line_at_any_level_and_no_metric_holds_what_was_said_or_a_headers_value(
    tmp_path: Path, standin: StandInThread, log_format: str
) -> None:
    arguments = ("--log-level", "debug", "--log-format", log_format)
    with Server(tmp_path, standin.url, *arguments, environment=ENVIRONMENT) as server:
        talk(server, standin)
        talk_as_openai(server, standin)
        ask_wrongly(server)
        answers = list(ask_everything(server))
        standin.close()
        server.call("POST", f"/chat/{SESSION}", {"message": mark("nobody-hears")})
        standin.start()
        metrics = server.client.get("/metrics").text
        other = [answer.text for answer in ask_as_another(server) if answer.status_code >= 400]
        assert server.stop() == 0
    text = server.log.read_text()
    assert len(answers) > 100
    assert text.count("request") > 150
    assert text.count("generation") > 10
    assert found_in(logged_of(text)) == set()
    assert found_in(metrics) == set()
    # Nor is it told to a client that did not say it.
    assert len(other) > 50
    assert found_in(" ".join(other)) == set()


def test_a_disk_that_fails_says_nothing_either(tmp_path: Path, standin: StandInThread) -> None:
    if (reason := why_not()) is not None:
        pytest.skip(reason)
    with Server(tmp_path, standin.url, "--log-level", "debug") as server:
        server.new_session(session_id=SESSION, title=mark("title"))
        with injected(server.process.pid, tmp_path, RENAME, "ENOSPC"):
            assert server.call("PATCH", f"/sessions/{SESSION}", {"title": mark("unsaved")}).status_code == 507
            assert server.call("POST", f"/chat/{SESSION}", {"message": mark("unsaved")}).status_code == 507
        metrics = server.client.get("/metrics").text
        server.stop()
    assert 'mochi_save_failures_total{code="storage_full"} 2.0' in metrics
    assert found_in(server.log.read_text() + metrics) == set()


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_no_bug_no_library_and_no_careless_line_lets_slip_what_was_said(
    tmp_path: Path, standin: StandInThread, log_format: str
) -> None:
    (tmp_path / "sitecustomize.py").write_text("import tests.observability.sabotage\n")
    path = os.pathsep.join(filter(None, (str(tmp_path), str(ROOT), os.environ.get("PYTHONPATH"))))
    arguments = ("--log-level", "debug", "--log-format", log_format)
    with Server(tmp_path, standin.url, *arguments, environment={"PYTHONPATH": path}) as server:
        answer = server.call("GET", f"/sessions?q={mark('search')}", X_Correlation_Id="the-bug")
        assert answer.status_code == 500
        assert "the-bug" in answer.text
        server.stop()
    text = server.log.read_text()
    assert found_in(answer.text) == set()
    assert found_in(text) == set()
    assert text.count("careless") >= 20
    assert text.count("HTTP Request: … …") >= 3
    assert text.count("RuntimeWarning") == 1
    if log_format == "json":
        check_stacks(server.log_lines())


def check_stacks(lines: list[dict[str, Any]]) -> None:
    """Where it went wrong is told in full, in one string."""
    assert {line.get("correlation_id") for line in lines if line["event"] in {"careless", "a warning"}} <= {
        "the-bug",
        "[hidden]",
    }
    (bug,) = [line for line in lines if line["event"] == "internal error" and line.get("error") == "ExceptionGroup"]
    assert bug["correlation_id"] == "the-bug"
    assert re.search(r'File ".*sabotage.py", line \d+, in in_a_group\n', bug["stack"])
    kinds = ["ExceptionGroup", "OSError ENOSPC", "UnicodeDecodeError", "KeyError", "TypeError"]
    assert re.findall(r"^builtins\.(.*)$", bug["stack"], re.MULTILINE) == kinds
    others = [line for line in lines if line.get("error") == "ValueError" and "stack" in line]
    # In a callback twice, a task, a future, a finalizer, a thread, and each library's own.
    assert len(others) >= 6 + 5
    assert all(
        "sabotage.py" in line["stack"] for line in others if line["event"] != "Future exception was never retrieved"
    )
