"""CPU time of the server for each relayed token, as a ratio to passing the upstream's bytes through unread; the same
for OpenAI's chunks, as a ratio to our own events; and how long the first token of either takes.

Usage: python -m benchmarks.relay [--streams 20] [--tokens 500] [--rate 50] [--repeat 5] [--firsts 100]

All are measured in turn within one run, so that what else the machine does weighs on all alike. What a reply of one
token costs is told apart from what each further token costs.
"""

import argparse
import asyncio
import json
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import httpx
import psutil

READY_SECONDS = 20
OPENAI_PATH = "/v1/chat/completions"
FIRST_WORD = b'" w0'


@contextmanager
def running(*command: str) -> Iterator[subprocess.Popen[str]]:
    """A Python process of this command, ended on leaving."""
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def first_line(process: subprocess.Popen[str]) -> str:
    """The line that the process prints once it is ready."""
    if process.stdout is None:
        raise RuntimeError("its output was not asked for")
    return process.stdout.readline().strip()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for(port: int) -> None:
    """Return once something listens there."""
    end = time.monotonic() + READY_SECONDS
    while time.monotonic() < end:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise TimeoutError(f"nothing listens on port {port}")


def new_session(port: int) -> str:
    """The id of a new session."""
    answer = httpx.post(f"http://127.0.0.1:{port}/api/v1/sessions", json={"model": "bench"}, trust_env=False)
    session_id: str = answer.raise_for_status().json()["session_id"]
    return session_id


async def stream(port: int, path: str, body: bytes, expected: bytes) -> int:
    """Take one stream to its end; how many bytes it had. Raises RuntimeError if it is not the reply."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        b"POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
        b"Connection: close\r\n\r\n%s" % (path.encode(), len(body), body)
    )
    size, tail = 0, b""
    while data := await reader.read(65536):
        size += len(data)
        tail = (tail + data)[-4096:]
    writer.close()
    if expected not in tail:
        raise RuntimeError(f"the stream did not end as it should: {tail[-300:]!r}")
    return size


async def streams(port: int, paths: Sequence[str], body: bytes, expected: bytes) -> None:
    """All of them at once."""
    await asyncio.gather(*(stream(port, path, body, expected) for path in paths))


def cpu_seconds(pid: int) -> float:
    """User and system time that the process has had so far."""
    if platform.system() == "Linux":
        # The process's own clock, in nanoseconds; what /proc tells is counted in ticks of 10 ms. The number of the
        # clock is what clock_getcpuclockid(3) gives.
        return time.clock_gettime(~pid << 3 | 2)
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


async def first_token(port: int, path: str, body: bytes, header: str = "") -> float:
    """Milliseconds from the request to the first word of the reply, which is then read to its end."""
    began = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        b"POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%s"
        b"Connection: close\r\n\r\n%s" % (path.encode(), len(body), header.encode(), body)
    )
    received = b""
    while FIRST_WORD not in received:
        data = await reader.read(65536)
        if not data:
            raise RuntimeError(f"the stream has no word: {received[-300:]!r}")
        received += data
    took = (time.perf_counter() - began) * 1000
    while await reader.read(65536):
        pass
    writer.close()
    return took


def first_tokens(port: int, times: int) -> dict[str, float]:
    """The median first token, in milliseconds, of one client: ours, OpenAI's in a session, and OpenAI's in none."""
    session, other = new_session(port), new_session(port)
    ours, openai = json.dumps(server_body(1)).encode(), json.dumps(openai_body(1)).encode()
    ways = {
        "ours": (f"/api/v1/chat/{session}/stream", ours, ""),
        "OpenAI's, in a session": (OPENAI_PATH, openai, f"X-Session-Id: {other}\r\n"),
        "OpenAI's, in none": (OPENAI_PATH, openai, ""),
    }
    taken: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(times):
        for way, (path, body, header) in ways.items():
            taken[way].append(asyncio.run(first_token(port, path, body, header)))
    return {way: statistics.median(figures) for way, figures in taken.items()}


class Target(NamedTuple):
    """A server to measure: its process, where its streams are, and how one is asked for and known to be whole."""

    pid: int
    port: int
    paths: Sequence[str]
    body: Callable[[int], object]
    expected: bytes


def measure(target: Target, tokens: int) -> float:
    """Microseconds of CPU for each of its streams, with this many tokens in each."""
    before = cpu_seconds(target.pid)
    body = json.dumps(target.body(tokens)).encode()
    asyncio.run(streams(target.port, target.paths, body, target.expected))
    return (cpu_seconds(target.pid) - before) / len(target.paths) * 1e6


def turn_and_token(target: Target, tokens: int) -> tuple[float, float]:
    """Microseconds of CPU for a reply of one token, and for each further one."""
    turn = measure(target, 1)
    return turn, (measure(target, tokens) - turn) / (tokens - 1)


def main() -> None:
    """Measure, print a table, and the same as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=500)
    parser.add_argument("--rate", type=float, default=50, help="tokens a second of each stream; 0: as fast as they go")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--firsts", type=int, default=100, help="how many first tokens are timed, of each kind")
    asked = parser.parse_args()
    with targets(asked) as measured:
        rows: list[Row] = []
        for round_number in range(asked.repeat + 1):
            low, high, openai = (turn_and_token(target, asked.tokens) for target in measured)
            if round_number:  # the first warms all up
                ratios = high[1] / low[1], openai[1] / high[1]
                rows.append(Row(low[1], high[1], ratios[0], openai[1], ratios[1], low[0], high[0], openai[0]))
            told = f"floor {low[1]:.1f}, mochi-server {high[1]:.1f}, as OpenAI's {openai[1]:.1f} us/token"
            print(f"round {round_number}: {told}", file=sys.stderr)
        firsts = first_tokens(measured[1].port, asked.firsts)
    report(rows, asked)
    print(f"first token, one client, median of {asked.firsts}, ms:")
    for way, figure in firsts.items():
        print(f"{way:26}{figure:9.2f}")


@contextmanager
def targets(asked: argparse.Namespace) -> Iterator[tuple[Target, Target, Target]]:
    """The floor and the server, by our events and by OpenAI's chunks, beside one upstream."""
    floor_port = free_port()
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        upstream_port = first_line(stack.enter_context(running("-m", "benchmarks.upstream", "--rate", str(asked.rate))))
        floor = stack.enter_context(
            running("-m", "benchmarks.floor", "--port", str(floor_port), "--upstream", upstream_port)
        )
        server = stack.enter_context(
            running(
                *("-m", "mochi_server", "--port", "0", "--data-dir", folder, "--log-level", "warning"),
                *("--ollama-host", f"127.0.0.1:{upstream_port}", "--max-concurrent", str(asked.streams)),
            )
        )
        server_port = int(first_line(server).rpartition(":")[2])
        wait_for(floor_port)
        sessions = [f"/api/v1/chat/{new_session(server_port)}/stream" for _ in range(asked.streams)]
        yield (
            Target(floor.pid, floor_port, ["/"] * asked.streams, floor_body, b'"done":true'),
            Target(server.pid, server_port, sessions, server_body, b"event: done"),
            Target(server.pid, server_port, [OPENAI_PATH] * asked.streams, openai_body, b"data: [DONE]"),
        )


def floor_body(tokens: int) -> object:
    """What Ollama is asked, for this many tokens."""
    message = {"role": "user", "content": "hi"}
    return {"model": "bench", "messages": [message], "options": {"num_predict": tokens}}


def server_body(tokens: int) -> object:
    """What the server is asked, for this many tokens."""
    return {"message": f"{tokens} words, please", "options": {"num_predict": tokens}}


def openai_body(tokens: int) -> object:
    """The same, as OpenAI's clients ask."""
    message = {"role": "user", "content": f"{tokens} words, please"}
    return {"model": "bench", "messages": [message], "max_completion_tokens": tokens, "stream": True}


class Row(NamedTuple):
    """One round: microseconds of CPU."""

    floor_token: float
    server_token: float
    ratio: float
    openai_token: float
    openai_ratio: float
    floor_reply: float
    server_reply: float
    openai_reply: float


def report(rows: Sequence[Row], asked: argparse.Namespace) -> None:
    """The table, and one line of JSON."""
    titles = (
        "floor, us a token",
        "mochi-server, us a token",
        "ratio",
        "as OpenAI's, us a token",
        "OpenAI's over ours",
        "floor, us a reply",
        "mochi-server, us a reply",
        "as OpenAI's, us a reply",
    )
    columns = dict(zip(titles, zip(*rows, strict=True), strict=True))
    print(f"{asked.streams} streams, {asked.tokens} tokens at {asked.rate:g}/s each, {len(rows)} rounds")
    print(f"{'':26}{'min':>9}{'median':>9}{'max':>9}")
    for title, values in columns.items():
        print(f"{title:26}{min(values):9.2f}{statistics.median(values):9.2f}{max(values):9.2f}")
    print(json.dumps({title: round(statistics.median(values), 2) for title, values in columns.items()}))


if __name__ == "__main__":
    main()
