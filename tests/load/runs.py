"""The runs. Each raises AssertionError where a count or an outcome is wrong, and gives figures that nobody asserts."""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil

from mochi_server.ollama.standin import Behaviour, Gate, Model, Reply, StandIn
from tests.load.client import PATIENCE, Answer, Client, eventually
from tests.server import Server
from tests.standin_thread import StandInThread

Progress = Callable[[str], None]
"""Takes what is going on, in a few words."""

Figures = dict[str, str]
"""What was measured, by name."""

PIECES = ("one", " two", " three", " four", " five", " six", " seven", " eight")
CHAT = {"message": "hi", "model": "load"}


def standin(interval: float = 0.0) -> StandInThread:
    """An Ollama whose one model says PIECES, so many seconds apart."""
    model = Model(name="load:latest", reply=lambda _: Reply(pieces=PIECES, interval=interval), digest="1" * 64)
    return StandInThread(StandIn([model]))


def sends(folder: Path, count: int, progress: Progress, *, concurrent: int = 4, queue: int = 64) -> Figures:
    """Send so many messages at once: each is answered whole, or refused at once and nothing of it saved."""
    arguments = ("--max-concurrent", str(concurrent), "--max-queue", str(queue), "--log-level", "error")
    with standin(0.02) as ollama, Server(folder, ollama.url, *arguments) as server:
        answers, health = asyncio.run(_sends(server, count, progress))
        refused = [answer for answer in answers if answer.status == 503]
        finished = [answer for answer in answers if answer.ending == "complete"]
        assert len(refused) + len(finished) == count, Counter((a.status, a.ending) for a in answers)
        assert len(finished) >= min(count, concurrent + queue)
        assert all(int(answer.headers["retry-after"]) > 0 for answer in refused)
        assert all(b'"queue_full"' in answer.body for answer in refused)
        assert len(ollama.chats) == len(finished)
        assert server.ok("GET", "/sessions?limit=1")["total"] == len(finished)
        assert [*server.sessions.glob(".mochi/journals/*.running")] == []
        assert ollama.active == 0
        memory = _memory(server)
    return {
        "sent": str(count),
        "answered": str(len(finished)),
        "refused (503)": str(len(refused)),
        "last answer": _ms(max(a.seconds for a in finished)),
        "refusals: median, slowest": ", ".join(_ms(s) for s in _middle_and_last([a.seconds for a in refused])),
        "looks at /health": str(len(health)),
        "/health: median, slowest": ", ".join(_ms(s) for s in _middle_and_last(health)),
        "memory at the end": memory,
    }


async def _sends(server: Server, count: int, progress: Progress) -> tuple[list[Answer], list[float]]:
    health: list[float] = []
    looking = asyncio.create_task(_look_at_health(server, health))
    done = itertools.count(1)

    async def one() -> Answer:
        client = await Client.ask(server.port, "/chat/stream", CHAT)
        answer = await client.rest()
        progress(f"{next(done)} of {count} messages answered or refused")
        return answer

    answers = await asyncio.gather(*[one() for _ in range(count)])
    assert not looking.done(), looking.exception()
    looking.cancel()
    return answers, health


async def _look_at_health(server: Server, seconds: list[float]) -> None:
    """Ask again and again, each time on a new connection. Each must be answered."""
    async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=PATIENCE) as client:
        while True:
            began = time.monotonic()
            response = await client.get("/health", headers={"Connection": "close"})
            assert response.status_code == 200
            seconds.append(time.monotonic() - began)
            await asyncio.sleep(0.05)


def together(folder: Path, count: int, progress: Progress) -> Figures:
    """Run so many streams at the same time, where that is allowed."""
    gate, arguments = Gate(4), ("--max-concurrent", str(count + 50), "--log-level", "error")
    with standin() as ollama, Server(folder, ollama.url, *arguments) as server:
        ollama.script(*[Behaviour(pieces=PIECES, gate=gate)] * count)
        before = _memory(server)

        async def run() -> tuple[list[Answer], float, float, str]:
            began = time.monotonic()
            clients = await asyncio.gather(*[Client.ask(server.port, "/chat/stream", CHAT) for _ in range(count)])
            for n, client in enumerate(clients, 1):
                await client.read_until(b"event: content_delta", 4)
                progress(f"{n} of {count} streams run")
            assert ollama.active == count
            running, memory = time.monotonic() - began, _memory(server)
            gate.open()
            answers = await asyncio.gather(*[client.rest() for client in clients])
            return answers, running, time.monotonic() - began, memory

        answers, running, ended, memory = asyncio.run(run())
        assert Counter(answer.ending for answer in answers) == {"complete": count}
        assert len(ollama.chats) == count
    return {
        "streams": str(count),
        "all run after": _ms(running),
        "all ended after": _ms(ended),
        "memory before, with all of them": f"{before}, {memory}",
    }


def leavers(folder: Path, count: int, progress: Progress, *, rounds: int = 3) -> Figures:
    """Have so many clients leave in mid-reply, some rudely: nothing of them stays, and the next is served at once."""
    environment = {"MOCHI_DISCONNECT_GRACE": "0.2"}
    arguments = ("--max-concurrent", str(count), "--log-level", "error")
    with standin() as ollama, Server(folder, ollama.url, *arguments, environment=environment) as server:
        process, next_ones = psutil.Process(server.process.pid), []
        server.ok("POST", "/chat", CHAT)
        files = process.num_fds()
        # What a first use costs for good, such as threads and memory, is no leak.
        asyncio.run(_leavers(server, ollama, count, progress))
        threads, memory = process.num_threads(), [_memory(server)]
        for _ in range(rounds):
            asyncio.run(_leavers(server, ollama, count, progress))
            began = time.monotonic()
            assert server.ok("POST", "/chat", CHAT)["message"]["status"] == "complete"
            next_ones.append(time.monotonic() - began)
            asyncio.run(eventually(lambda: process.num_fds() <= files, f"{files} open files, as before"))
            memory.append(_memory(server))
        left = count * (rounds + 1)
        assert process.num_threads() <= threads
        assert (ollama.active, ollama.abandoned) == (0, left)
        assert _endings(server) == {("interrupted", "disconnected"): left, ("complete", "stop"): rounds + 1}
        files_after, threads_after = process.num_fds(), process.num_threads()
    return {
        "clients that left": f"{count} at once, {rounds} times, and once to warm up",
        "open files before, after": f"{files}, {files_after}",
        "threads before, after": f"{threads}, {threads_after}",
        "replies still at Ollama": "0",
        "memory after each time": ", ".join(memory),
        "the next message, slowest": _ms(max(next_ones)),
    }


async def _leavers(server: Server, ollama: StandInThread, count: int, progress: Progress) -> None:
    abandoned = ollama.abandoned
    ollama.script(*[Behaviour(pieces=PIECES, gate=Gate(3))] * count)
    clients = await asyncio.gather(*[Client.ask(server.port, "/chat/stream", CHAT) for _ in range(count)])
    for n, client in enumerate(clients, 1):
        await client.read_until(b"event: content_delta", 3)
        progress(f"{n} of {count} streams run")
    for n, client in enumerate(clients):
        client.leave(rudely=n % 2 == 0)
    await eventually(lambda: ollama.abandoned == abandoned + count, "Ollama is asked for no more of any reply")
    await eventually(lambda: not [*server.sessions.glob(".mochi/journals/*.running")], "all that came is saved")


def shutdown(folder: Path, count: int, progress: Progress, *, seconds: float = 5) -> Figures:
    """End the server in the middle of so many streams: exit code 0, what came is kept, each client gets its `done`."""
    environment, arguments = {"MOCHI_SHUTDOWN_SECONDS": f"{seconds:g}"}, ("--max-concurrent", str(count))
    with standin() as ollama, Server(folder, ollama.url, *arguments, environment=environment) as server:
        ollama.script(*[Behaviour(pieces=PIECES, gate=Gate(3))] * count)

        async def run() -> tuple[list[Answer], float]:
            clients = await asyncio.gather(*[Client.ask(server.port, "/chat/stream", CHAT) for _ in range(count)])
            for n, client in enumerate(clients, 1):
                await client.read_until(b"event: content_delta", 3)
                progress(f"{n} of {count} streams run")
            server.process.terminate()
            began = time.monotonic()
            progress("told to end")
            answers = await asyncio.gather(*[client.rest() for client in clients])
            await eventually(lambda: server.process.poll() is not None, "it ends")
            return answers, time.monotonic() - began

        answers, ended = asyncio.run(run())
        assert server.process.returncode == 0
        assert Counter(answer.ending for answer in answers) == {"interrupted": count}
        assert _endings(server) == {("interrupted", "shutdown"): count}
        assert {_content(server, answer) for answer in answers} == {"".join(PIECES[:3])}
        assert [line for line in server.log_lines() if line["level"] not in {"info", "debug"}] == []
    return {"streams": str(count), "limit": f"{seconds:g} s", "ended after": _ms(ended), "exit code": "0"}


def _content(server: Server, answer: Answer) -> str:
    """What is kept of the reply, which must be what its client was shown."""
    kept = server.file(answer.headers["x-session-id"])["messages"][-1]["content"]
    assert kept == "".join(data["content"] for name, data in answer.events if name == "content_delta")
    return str(kept)


def _endings(server: Server) -> Counter[tuple[str, str]]:
    """How the last message of each session ended, as the files have it."""
    last = [server.file(path.stem)["messages"][-1] for path in server.sessions.glob("*.json")]
    return Counter((message["status"], message["done_reason"]) for message in last)


def _memory(server: Server) -> str:
    return f"{psutil.Process(server.process.pid).memory_info().rss / 2**20:.1f} MiB"


def _middle_and_last(seconds: list[float]) -> tuple[float, float]:
    ordered = sorted(seconds) or [0.0]
    return ordered[len(ordered) // 2], ordered[-1]


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:,.0f} ms"
