"""Lists, searches and the start over a folder of many sessions.

Usage: python -m benchmarks.lists [--sessions 10000] [--messages 20] [--characters 190] [--repeat 30]

Makes the folder anew in a temporary place. Answers are timed from outside, over one kept connection; the time of
`/health` on the same connection stands beside them, since it is what any request costs.
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import httpx
import psutil

from mochi_server.domain.clock import timestamp
from mochi_server.domain.messages import AssistantMessage, UserMessage
from mochi_server.domain.session import Metadata, Session
from mochi_server.domain.session_file import encode

START = 1_700_000_000


def make_folder(folder: Path, sessions: int, messages: int, characters: int) -> None:
    """Fill it with sessions of made-up words."""
    folder.mkdir(parents=True)
    dice = random.Random(1)  # noqa: S311 - nothing secret
    words = ["".join(dice.choices("etaoinshrdlucmfw", k=dice.randint(2, 9))) for _ in range(3000)]
    for number in range(sessions):
        session = Session(
            metadata=Metadata(
                session_id=f"{number:010x}",
                model="bench",
                title=f"Session {number}",
                created_at=timestamp(from_start(number)),
                updated_at=timestamp(from_start(number)),
            )
        )
        for place in range(messages):
            kind = AssistantMessage if place % 2 else UserMessage
            text = " ".join(dice.choices(words, k=characters // 6))[:characters]
            message = kind(content=text, message_id=f"{place:010x}", timestamp=session.metadata.updated_at)
            session = session.append(message, session.metadata.updated_at)
        (folder / f"{number:010x}.json").write_bytes(encode(session))
        progress("sessions made", number + 1, sessions)


def from_start(number: int) -> datetime:
    """A moment for each number, all different."""
    return datetime.fromtimestamp(START + number, UTC)


def progress(what: str, done: int, of: int) -> None:
    """Say how far it is, now and then."""
    if done % 1000 == 0 or done == of:
        print(f"\r{what}: {done} of {of}", end="\n" if done == of else "", file=sys.stderr, flush=True)


class Running:
    """A server over a folder: how long its start took, in seconds, and where it answers."""

    def __init__(self, data: Path) -> None:
        command = [sys.executable, "-m", "mochi_server", "--demo", "--port", "0", "--data-dir", str(data)]
        began = time.perf_counter()
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        if self._process.stdout is None:
            raise RuntimeError("its output was not asked for")
        url = self._process.stdout.readline().split()[-1]
        self.start_seconds = time.perf_counter() - began
        self.client = httpx.Client(base_url=url, timeout=120, trust_env=False)

    @property
    def memory(self) -> int:
        """Bytes of resident memory."""
        return int(psutil.Process(self._process.pid).memory_info().rss)

    def stop(self) -> None:
        """End it in order."""
        self.client.close()
        self._process.terminate()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def milliseconds(self, path: str, repeat: int) -> list[float]:
        """How long each of so many requests took."""
        times = []
        for _ in range(repeat):
            began = time.perf_counter()
            self.client.get(path).raise_for_status()
            times.append((time.perf_counter() - began) * 1000)
        return times


@contextmanager
def running(data: Path) -> Iterator[Running]:
    """A server, stopped on leaving."""
    server = Running(data)
    try:
        yield server
    finally:
        server.stop()


def measure(folder: Path, sessions: int, repeat: int) -> list[tuple[str, str, str]]:
    """The rows of the table: what, how much, and what is wanted."""
    with tempfile.TemporaryDirectory() as empty, running(Path(empty)) as server:
        bare_start = server.start_seconds
        _, _, bare_memory = asked_of(server, repeat)
    with running(folder) as server:
        cold_start = server.start_seconds
    with running(folder) as server:
        warm_start = server.start_seconds
        health = statistics.median(server.milliseconds("/health", repeat))
        time.sleep(1.1)  # so long after a look through the folder a list looks again
        (looking,) = server.milliseconds("/api/v1/sessions?limit=50", 1)
        (cold,) = server.milliseconds("/api/v1/sessions?limit=50&q=zzzz", 1)
        first, searches, memory = asked_of(server, repeat)
    rows = [
        ("start without an index, s", f"{cold_start:.2f}", "progress is told"),
        ("start with it, warm, s (over an empty folder)", f"{warm_start:.2f} ({bare_start:.2f})", "<= 1"),
        ("a request for /health, ms", f"{health:.2f}", ""),
        ("first page of 50, ms: median (longest)", f"{statistics.median(first):.2f} ({max(first):.1f})", "<= 5"),
        ("that page when the folder is looked through first, ms", f"{looking:.1f}", "once a second at most"),
        ("first search after the start, ms", f"{cold:.1f}", "<= 300"),
    ]
    for q, times in searches.items():
        rows.append(
            (f"q={q}, warm, ms: median (longest)", f"{statistics.median(times):.1f} ({max(times):.1f})", "<= 50")
        )
    each = (memory - bare_memory) / sessions
    rows.append(("memory a session, over an empty folder's, bytes", f"{each:.0f}", "<= 1024"))
    return rows


def asked_of(server: Running, repeat: int) -> tuple[list[float], dict[str, list[float]], int]:
    """What first pages and searches took, in milliseconds, and the bytes of memory afterwards."""
    first = server.milliseconds("/api/v1/sessions?limit=50", repeat)
    searches = {q: server.milliseconds(f"/api/v1/sessions?limit=50&q={q}", repeat) for q in ("zzzz", "eta", "ok")}
    return first, searches, server.memory


def main() -> None:
    """Make the folder, measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=10_000)
    parser.add_argument("--messages", type=int, default=20)
    parser.add_argument("--characters", type=int, default=190, help="of each message")
    parser.add_argument("--repeat", type=int, default=30)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as data:
        make_folder(Path(data) / "sessions", asked.sessions, asked.messages, asked.characters)
        rows = measure(Path(data), asked.sessions, asked.repeat)
    width = max(len(row[0]) for row in rows)
    for what, value, wanted in rows:
        print(f"{what:{width}}  {value:>16}  {wanted}")
    print(json.dumps({"sessions": asked.sessions, "messages": asked.messages, "characters": asked.characters}))


if __name__ == "__main__":
    main()
