"""The command: it starts and says where, or does not and says why in one line."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from mochi_server import __version__
from tests.api.wire import exchange
from tests.chat.clients import eventually
from tests.server import Server, joined, names
from tests.standin_thread import StandInThread

LIMIT = 20.0
NOWHERE = "http://127.0.0.1:9"


def clean_environment() -> dict[str, str]:
    """The environment without settings."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("MOCHI_", "OLLAMA_"))}


def run(
    folder: Path, *arguments: str, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """The command, run in this folder until it ends by itself."""
    return subprocess.run(
        [sys.executable, "-m", "mochi_server", *arguments],
        cwd=folder,
        env={**clean_environment(), **(environment or {})},
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )


def refusal(ended: subprocess.CompletedProcess[str]) -> str:
    """The one line that the command gave up with."""
    assert (ended.returncode, ended.stdout) == (2, "")
    (line,) = ended.stderr.splitlines()
    assert line.startswith("mochi-server: ")
    return line


@pytest.mark.parametrize(
    ("arguments", "environment", "named"),
    [
        (["--port", "abc"], {}, "--port"),
        (["--nonsense"], {}, "--nonsense"),
        ([], {"MOCHI_MAX_BODY_BYTES": "many"}, "MOCHI_MAX_BODY_BYTES"),
        (["--host", "0.0.0.0"], {}, "--host"),  # noqa: S104 - that it is refused is the point
        (["--host", "::"], {}, "--host"),
        (["--ollama-host", "ftp://x"], {}, "--ollama-host"),
        (["--ollama-host", "http://"], {}, "--ollama-host"),
        (["--model", ""], {}, "--model must not be empty"),
        (["--model", "a"], {"MOCHI_ALLOWED_MODELS": "b"}, "--model"),
    ],
)
def test_a_setting_that_makes_no_sense_stops_the_start_in_one_line(
    tmp_path: Path, arguments: list[str], environment: dict[str, str], named: str
) -> None:
    assert named in refusal(run(tmp_path, *arguments, environment=environment))
    assert not list(tmp_path.iterdir())


def test_a_bad_line_in_the_working_folders_file_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("MOCHI_LOG_LEVEL=loud\n")
    assert "MOCHI_LOG_LEVEL" in refusal(run(tmp_path))


def test_a_port_that_is_in_use_is_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = refusal(run(tmp_path, "--port", str(port)))
    assert str(port) in line
    assert "in use" in line
    assert "--port" in line


@pytest.mark.parametrize("folder", ["file", "file/below"])
def test_a_folder_that_cannot_be_used_is_told(tmp_path: Path, folder: str) -> None:
    (tmp_path / "file").write_text("not a folder")
    line = refusal(run(tmp_path, "--port", "0", "--sessions-dir", folder))
    assert folder in line
    assert line.endswith("; choose another with --data-dir or --sessions-dir")
    assert (tmp_path / "file").read_text() == "not a folder"


@pytest.mark.parametrize("folder", ["~nobody-of-this-name/x", "file/a\nb"])
def test_a_folder_that_can_be_nowhere_is_told_in_one_line(tmp_path: Path, folder: str) -> None:
    (tmp_path / "file").write_text("not a folder")
    line = refusal(run(tmp_path, "--port", "0", "--data-dir", folder))
    assert line.endswith("; choose another with --data-dir or --sessions-dir")


@pytest.mark.parametrize("folder", ["file", "~nobody-of-this-name/x"])
def test_a_folder_of_prompts_that_cannot_be_had_is_told_in_one_line(tmp_path: Path, folder: str) -> None:
    (tmp_path / "file").write_text("not a folder")
    line = refusal(run(tmp_path, "--port", "0", "--system-prompts-dir", folder))
    assert line.startswith("mochi-server: the system prompts folder ")
    assert line.endswith("; choose another with --data-dir or --system-prompts-dir")
    assert (tmp_path / "file").read_text() == "not a folder"


def test_a_start_that_requires_its_model_is_refused_without_it_with_what_to_do(
    tmp_path: Path, standin: StandInThread
) -> None:
    required = ("--port", "0", "--require-model", "--ollama-host")
    refusals = {
        (standin.url, "--model", "none:7b"): "ollama pull none:7b",
        (NOWHERE,): "ollama serve",
    }
    for arguments, advice in refusals.items():
        line = refusal(run(tmp_path, *required, *arguments))
        assert "--require-model" in line
        assert advice in line
    assert not list(tmp_path.iterdir())
    with Server(tmp_path, standin.url, "--model", "tiny", environment={"MOCHI_REQUIRE_MODEL": "yes"}) as server:
        assert server.ok("POST", "/sessions")["model"] == "tiny"
    with Server(tmp_path, NOWHERE, "--demo", "--require-model") as server:
        assert server.ok("POST", "/sessions")["model"] == "demo:latest"


def interrupted(process: subprocess.Popen[bytes]) -> tuple[int, bytes, bytes]:
    """Exit code, output and errors of a process after Ctrl-C."""
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=LIMIT)
    return process.returncode, output, errors


@contextmanager
def starting(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The command, just started in this folder; it does not outlive the context."""
    with subprocess.Popen(
        [sys.executable, "-m", "mochi_server", "--port", "0"],
        cwd=folder,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def opened_for_writing(pipe: Path) -> int | None:
    """A descriptor of the pipe, once somebody reads it."""
    try:
        return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        time.sleep(0.01)
        return None


def test_ctrl_c_while_the_code_is_read_in_ends_it_quietly(tmp_path: Path) -> None:
    # A library that takes its time, found in the working folder before the real one.
    (tmp_path / "dotenv.py").write_text("import time\nprint('reading', flush=True)\ntime.sleep(60)\n")
    with starting(tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"reading\n"
        assert interrupted(process) == (130, b"", b"")


def test_ctrl_c_while_the_settings_are_read_ends_it_quietly(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / ".env")
    with starting(tmp_path) as process:
        writer = eventually(lambda: opened_for_writing(tmp_path / ".env"))
        try:
            # The command has opened its end, and waits for what never comes.
            assert interrupted(process) == (130, b"", b"")
        finally:
            os.close(writer)


def test_an_ipv6_address_that_was_allowed_is_answered_to(tmp_path: Path) -> None:
    with Server(tmp_path, NOWHERE, "--allow-host", "fd00::5") as server:
        for host, status in (("[fd00::5]:8000", 200), ("[FD00::5]", 200), ("[fd00::6]", 421)):
            assert exchange(server.port, "GET", "/api/v1/sessions", [("Host", host)]).status_code == status


def test_a_folder_that_another_server_holds_is_told_with_its_process(tmp_path: Path) -> None:
    with Server(tmp_path, NOWHERE) as first:
        line = refusal(run(tmp_path, "--port", "0"))
        assert str(first.process.pid) in line
        assert "in use" in line
        assert line.endswith("; choose another with --data-dir or --sessions-dir")
        assert first.client.get("/health").status_code == 200
        first.stop()
        with Server(tmp_path, NOWHERE) as second:
            assert second.client.get("/health").status_code == 200


def test_help_and_version_are_shown_without_starting(tmp_path: Path) -> None:
    told = run(tmp_path, "--version")
    assert (told.returncode, told.stdout, told.stderr) == (0, f"mochi-server {__version__}\n", "")
    told = run(tmp_path, "--help", environment={"MOCHI_PORT": "abc"})
    assert (told.returncode, told.stderr) == (0, "")
    assert "--ollama-host" in told.stdout
    assert not list(tmp_path.iterdir())


def test_the_installed_command_is_the_same(tmp_path: Path) -> None:
    command = Path(sys.executable).with_name("mochi-server")
    if not command.exists():
        pytest.skip("the project is not installed here, only importable")
    told = subprocess.run(
        [command, "--version"], cwd=tmp_path, capture_output=True, text=True, timeout=LIMIT, check=True
    )
    assert told.stdout == f"mochi-server {__version__}\n"


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "http://127.0.0.1"),
        ("localhost", "http://localhost"),
        ("127.0.0.2", "http://127.0.0.2"),
        ("::1", "http://[::1]"),
    ],
)
def test_port_0_takes_a_free_port_and_prints_the_address_that_answers(tmp_path: Path, host: str, address: str) -> None:
    with Server(tmp_path, NOWHERE, "--host", host) as server:
        assert re.fullmatch(rf"{re.escape(address)}:\d+", server.url)
        assert server.port > 0
        assert server.client.get("/health").status_code == 200


def test_the_flags_win_over_the_environment_and_that_over_the_file(tmp_path: Path, standin: StandInThread) -> None:
    (tmp_path / ".env").write_text("MOCHI_DEFAULT_MODEL=tiny-think\nMOCHI_MAX_MESSAGE_CHARS=10\nOLLAMA_HOST=x:1\n")
    environment = {"MOCHI_DEFAULT_MODEL": "tiny-json", "OLLAMA_HOST": NOWHERE}
    with Server(tmp_path, standin.url, "--model", "tiny-unicode", environment=environment) as server:
        assert server.ok("POST", "/sessions")["model"] == "tiny-unicode"
        assert server.error("POST", "/chat", {"message": "x" * 11})[:2] == (413, "payload_too_large")
        assert server.ok("GET", "/health")["ollama_host"] == standin.url
    with Server(tmp_path, standin.url, environment=environment) as server:
        assert server.ok("POST", "/sessions")["model"] == "tiny-json"
    with Server(tmp_path, standin.url) as server:
        assert server.ok("POST", "/sessions")["model"] == "tiny-think"


def test_proxy_variables_are_not_obeyed(tmp_path: Path, standin: StandInThread) -> None:
    proxies = dict.fromkeys(("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"), NOWHERE)
    with Server(tmp_path, standin.url, environment={**proxies, "NO_PROXY": "", "no_proxy": ""}) as server:
        session = server.new_session()
        assert server.ok("GET", "/health")["ollama_connected"] is True
        assert server.ok("POST", f"/chat/{session}", {"message": "hi"})["message"]["status"] == "complete"


def test_the_demo_needs_no_ollama(tmp_path: Path) -> None:
    with Server(tmp_path, NOWHERE, "--demo") as server:
        assert server.ok("GET", "/health/ready") == {"status": "ready"}
        assert [m["name"] for m in server.ok("GET", "/models")["models"]] == ["demo:latest"]
        made = server.ok("POST", "/sessions", {})
        assert made["model"] == "demo:latest"
        events = server.events(f"/chat/{made['session_id']}/stream", {"message": "Hi there"})
        assert names(events) == ["content_delta", "message_complete", "done"]
        assert 'You wrote: "Hi there".' in joined(events)
        assert server.contents(made["session_id"])[-1] == ("assistant", joined(events))


def test_new_files_and_folders_are_closed_to_others(tmp_path: Path, standin: StandInThread) -> None:
    with Server(tmp_path, standin.url, "--sessions-dir", "deep/down") as server:
        session = server.new_session()
        folder = tmp_path / "deep" / "down"
        assert (folder / f"{session}.json").stat().st_mode & 0o777 == 0o600
        assert {p.stat().st_mode & 0o777 for p in (folder, folder / ".mochi")} == {0o700}
