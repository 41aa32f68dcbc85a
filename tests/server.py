"""The server as its own process on a real port, and a client for it."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

import httpx
import httpx_sse

from tests.documented import check_documented

LIMIT = 20.0
"""Seconds that anything here may take."""

API = "/api/v1"


class Event(NamedTuple):
    """One event of a stream."""

    id: str
    name: str
    data: dict[str, Any]


class Server:
    """A mochi-server over a folder of its own, started on entering the context and stopped on leaving it.

    `environment` adds to the settings, `arguments` to the flags; `through` is a command that starts it. After `stop` or
    `kill` it may `start` again, over the same folder.
    """

    def __init__(
        self,
        folder: Path,
        ollama: str,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
        through: Sequence[str] = (),
    ) -> None:
        self.folder = folder
        self.sessions = folder / "sessions"
        self.url = ""
        self.log = folder / "server.log"
        self._arguments = ["--port", "0", "--data-dir", str(folder), "--ollama-host", ollama, *arguments]
        self._environment = environment or {}
        self._through = through
        self._process: subprocess.Popen[bytes] | None = None
        self._client: httpx.Client | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start, and return once it answers."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("MOCHI_", "OLLAMA_"))}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._through, sys.executable, "-m", "mochi_server", *self._arguments],
                cwd=self.folder,
                env={**environment, **self._environment},
                bufsize=0,  # what is read beyond the first line would be lost to `communicate`
                stdout=subprocess.PIPE,
                stderr=log,
            )
        self.url = self._address()
        # Reading in certificates that nobody needs takes 20 ms of each start.
        self._client = httpx.Client(
            base_url=self.url,
            timeout=LIMIT,
            trust_env=False,
            verify=False,  # noqa: S501
            event_hooks={"response": [check_documented]},
        )

    def stop(self, sig: int = signal.SIGTERM, limit: float = LIMIT) -> int:
        """Send the signal and wait for the end; the exit code."""
        self.process.send_signal(sig)
        code = self.process.wait(limit)
        self._close()
        return code

    def kill(self) -> None:
        """End it without warning, if it still runs."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait(LIMIT)
        self._close()

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The running process."""
        assert self._process is not None, "the server was not started"
        return self._process

    @property
    def client(self) -> httpx.Client:
        """An httpx client whose base URL is the server's root."""
        assert self._client is not None, "the server was not started"
        return self._client

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self.url.rpartition(":")[2])

    def log_lines(self) -> list[dict[str, Any]]:
        """What it has logged so far, one object a line."""
        return [json.loads(line) for line in self.log.read_text().splitlines(keepends=True) if line.endswith("\n")]

    def logged(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The first such line; a request's comes after its answer, so it is waited for."""
        end = time.monotonic() + LIMIT
        while True:
            found = [line for line in self.log_lines() if wanted(line)]
            if found:
                return found[0]
            assert time.monotonic() < end, f"no such line in {self.log.read_text()}"
            time.sleep(0.01)

    def call(self, method: str, path: str, body: object = None, **headers: str) -> httpx.Response:
        """One request below `/api/v1`, with a JSON body unless it is None."""
        return self.client.request(
            method, API + path, json=body, headers={k.replace("_", "-"): v for k, v in headers.items()}
        )

    def ok(self, method: str, path: str, body: object = None, **headers: str) -> Any:
        """The JSON of a request that must succeed; None where the answer has no body."""
        response = self.call(method, path, body, **headers)
        assert response.is_success, f"{method} {path}: {response.status_code} {response.text}"
        return response.json() if response.content else None

    def error(self, method: str, path: str, body: object = None, **headers: str) -> tuple[int, str, dict[str, Any]]:
        """Status, code and details of a request that must fail in the one shape of errors."""
        return told(self.call(method, path, body, **headers))

    def new_session(self, **fields: object) -> str:
        """The id of a new session of the model `tiny`, unless another is named."""
        session_id = self.ok("POST", "/sessions", {"model": "tiny", **fields})["session_id"]
        assert isinstance(session_id, str)
        return session_id

    def contents(self, session_id: str) -> list[tuple[str, str]]:
        """Role and content of the session's messages, as the API shows them."""
        messages = self.ok("GET", f"/sessions/{session_id}/messages")["messages"]
        return [(m["role"], m["content"]) for m in messages]

    def file(self, session_id: str) -> dict[str, Any]:
        """The session's file."""
        content = json.loads((self.sessions / f"{session_id}.json").read_text("utf-8"))
        assert isinstance(content, dict)
        return content

    @contextmanager
    def stream(self, path: str, body: object, **headers: str) -> Iterator[Iterator[Event]]:
        """The events of a streamed chat, as httpx-sse reads them, one by one."""
        with httpx_sse.connect_sse(
            self.client, "POST", API + path, json=body, headers={k.replace("_", "-"): v for k, v in headers.items()}
        ) as source:
            assert source.response.status_code == 200, source.response.read()
            yield (Event(e.id, e.event, json.loads(e.data)) for e in source.iter_sse())

    def events(self, path: str, body: object, **headers: str) -> list[Event]:
        """All events of a streamed chat."""
        with self.stream(path, body, **headers) as events:
            return list(events)

    def _address(self) -> str:
        """The address that the server prints once it answers."""
        stdout = self.process.stdout
        assert stdout is not None
        timer = threading.Timer(LIMIT, self.process.kill)
        timer.start()
        try:
            line = stdout.readline().decode()
        finally:
            timer.cancel()
        assert "http://" in line, f"the server did not start: {self.log.read_text()}"
        return line.split()[-1]

    def _close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None
        if self._process is not None and self._process.stdout is not None:
            self._process.stdout.close()


def told(response: httpx.Response) -> tuple[int, str, dict[str, Any]]:
    """Status, code and details of an error, checked for the one shape that errors have, or for that of OpenAI's."""
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    if "x-request-id" in response.headers:  # as all below /v1 has it, and nothing else
        assert set(body) == {"error"}
        assert set(body["error"]) == {"message", "type", "param", "code"}
        assert body["error"]["message"].strip()
        assert response.headers["x-request-id"] == response.headers["x-correlation-id"]
        return response.status_code, body["error"]["code"], {"param": body["error"]["param"]}
    assert set(body) == {"detail"}
    assert set(body["detail"]) == {"error"}
    error = body["detail"]["error"]
    assert set(error) == {"code", "message", "details", "correlation_id"}
    assert error["message"].strip()
    assert error["correlation_id"] == response.headers["x-correlation-id"]
    return response.status_code, error["code"], error["details"]


def joined(events: list[Event], name: str = "content_delta") -> str:
    """The text of a stream's deltas."""
    return "".join(e.data["content"] for e in events if e.name == name)


def names(events: list[Event]) -> list[str]:
    """The names of a stream's events, runs of the same delta once."""
    kinds: list[str] = []
    for event in events:
        if not kinds or kinds[-1] != event.name:
            kinds.append(event.name)
    return kinds
