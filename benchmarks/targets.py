"""What is measured side by side: the floor, reference relays and mochi-server, before one stand-in for Ollama."""

import contextlib
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import httpx

from benchmarks.processes import Process, started
from benchmarks.servers.upstream import ENDING

FLOOR, HTTPX, OLLAMA, SERVER, OPENAI = (
    "floor",
    "httpx relay",
    "ollama + sse-starlette",
    "mochi-server",
    "mochi-server, as OpenAI's",
)
REFERENCES = {HTTPX: "benchmarks.servers.httpx_relay", OLLAMA: "benchmarks.servers.ollama_relay"}
OPENAI_PATH = "/v1/chat/completions"
MODEL = "bench"

UPSTREAM_ENDING = ENDING.encode()
RELAY_ENDING = b'"done": true'
SERVER_ENDING = b"event: done"
OPENAI_ENDING = b"data: [DONE]"


class Target(NamedTuple):
    """One way to ask: whom, how for so many streams of so many tokens, and what a whole stream ends with."""

    name: str
    process: Process
    port: int
    requests: Callable[[int, int], Sequence[bytes]]
    ending: bytes


@dataclass(frozen=True)
class Side:
    """All that was started: the stand-in for Ollama, and the targets before it."""

    upstream: Target
    targets: list[Target]

    def __getitem__(self, name: str) -> Target:
        """The target of this name."""
        return next(target for target in self.targets if target.name == name)


def post(path: str, body: object, headers: str = "") -> bytes:
    """A request as bytes. The connection is closed after its answer."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n"
        f"{headers}Connection: close\r\n\r\n"
    )
    return head.encode() + data


def ollama_body(tokens: int) -> object:
    """What Ollama is asked, and the relays that save nothing."""
    message = {"role": "user", "content": "hi"}
    return {"model": MODEL, "messages": [message], "stream": True, "options": {"num_predict": tokens}}


def turn_request(session_id: str, tokens: int) -> bytes:
    """A new message in a session, its reply streamed."""
    body = {"message": "Some words, please", "options": {"num_predict": tokens}}
    return post(f"/api/v1/chat/{session_id}/stream", body)


def openai_request(tokens: int, session_id: str | None = None) -> bytes:
    """The same as OpenAI's clients ask: in a session or, without one, kept nowhere."""
    message = {"role": "user", "content": "Some words, please"}
    body = {"model": MODEL, "messages": [message], "max_completion_tokens": tokens, "stream": True}
    return post(OPENAI_PATH, body, f"X-Session-Id: {session_id}\r\n" if session_id else "")


def new_sessions(port: int, count: int) -> list[str]:
    """The ids of so many new sessions."""
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=60) as client:
        answers = (client.post("/api/v1/sessions", json={"model": MODEL}) for _ in range(count))
        return [answer.raise_for_status().json()["session_id"] for answer in answers]


@contextlib.contextmanager
def upstream(rate: float, at_once: int = 1) -> Iterator[Target]:
    """The stand-in for Ollama, at so many tokens a second of each reply (0: as fast as they are taken)."""
    with started("-m", "benchmarks.servers.upstream", str(rate), str(at_once)) as (process, port):
        yield Target(
            "straight at the stand-in",
            process,
            port,
            lambda streams, tokens: [post("/api/chat", ollama_body(tokens))] * streams,
            UPSTREAM_ENDING,
        )


@contextlib.contextmanager
def mochi_server(ollama_port: int, folder: Path, streams: int = 4) -> Iterator[tuple[Process, int]]:
    """The server over a data folder, with room for so many streams."""
    with started(
        *("-m", "mochi_server", "--port", "0", "--data-dir", str(folder), "--log-level", "warning"),
        *("--ollama-host", f"127.0.0.1:{ollama_port}", "--max-concurrent", str(streams)),
        environment={"MOCHI_MAX_CONNECTIONS": str(2 * streams + 100)},
    ) as server:
        yield server


@contextlib.contextmanager
def side_by_side(names: Sequence[str], streams: int, rate: float, at_once: int = 1) -> Iterator[Side]:
    """These targets before one stand-in, with room for so many streams each."""
    with ExitStack() as stack:
        ollama = stack.enter_context(upstream(rate, at_once))
        targets = []
        for name, module in {FLOOR: "benchmarks.servers.floor", **REFERENCES}.items():
            if name in names:
                process, port = stack.enter_context(started("-m", module, str(ollama.port)))
                ending = UPSTREAM_ENDING if name == FLOOR else RELAY_ENDING
                targets.append(Target(name, process, port, _stateless, ending))
        if SERVER in names or OPENAI in names:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            process, port = stack.enter_context(mochi_server(ollama.port, folder, streams))
            ways = _ways_in(process, port)
            targets += [ways[name] for name in names if name in ways]
        yield Side(ollama, targets)


def _stateless(streams: int, tokens: int) -> list[bytes]:
    return [post("/", ollama_body(tokens))] * streams


def _ways_in(process: Process, port: int) -> dict[str, Target]:
    """The server's two ways to ask for a reply. Each of our own streams is in a new session."""

    def ours(streams: int, tokens: int) -> list[bytes]:
        return [turn_request(session_id, tokens) for session_id in new_sessions(port, streams)]

    def openais(streams: int, tokens: int) -> list[bytes]:
        return [openai_request(tokens)] * streams

    return {
        SERVER: Target(SERVER, process, port, ours, SERVER_ENDING),
        OPENAI: Target(OPENAI, process, port, openais, OPENAI_ENDING),
    }
