"""A server that nobody asks: how long it takes to start, and what it costs to have it there."""

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import msgspec

from benchmarks.folders import Server, server_over
from benchmarks.processes import started
from benchmarks.progress import bar
from benchmarks.report import Measure, Row, row
from benchmarks.targets import SERVER, upstream

BARE = "uvicorn and Starlette, one route"
REQUESTS = 20
SETTLE_SECONDS = 2.0
"""In which work that was put off is done."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """`seconds` is for how long nobody asks."""

    seconds: float = 10
    rounds: int = 3


QUICK = Settings(seconds=1, rounds=1)


def measure(settings: Settings) -> list[Measure]:
    """Start each in turn, ask it a few things, and look at it while nobody does."""
    start: dict[str, list[float]] = {BARE: [], SERVER: []}
    memory: dict[str, list[float]] = {BARE: [], SERVER: []}
    share: dict[str, list[float]] = {BARE: [], SERVER: []}
    with (
        tempfile.TemporaryDirectory() as folder,
        upstream(0) as ollama,
        bar("idle", settings.rounds * 2) as advance,
    ):
        ways: dict[str, Callable[[], AbstractContextManager[Server]]] = {
            BARE: _bare,
            SERVER: lambda: server_over(Path(folder), ollama.port),
        }
        for _ in range(settings.rounds):
            for name, way in ways.items():
                with way() as server:
                    start[name].append(server.start_seconds)
                    for _ in range(REQUESTS):
                        server.ask("/health")
                    time.sleep(SETTLE_SECONDS)
                    before = server.process.cpu_seconds
                    time.sleep(settings.seconds)
                    share[name].append((server.process.cpu_seconds - before) / settings.seconds * 100)
                    memory[name].append(server.process.memory / 2**20)
                advance(1)
    return [
        Measure(measure="start, to the first answer", unit="s", wanted="<= 0.7", rows=_rows(start)),
        Measure(measure="resident memory", unit="MB", wanted="<= 75", rows=_rows(memory)),
        Measure(measure="CPU while nobody asks", unit="% of a core", wanted="<= 0.2", rows=_rows(share)),
    ]


def _rows(figures: dict[str, list[float]]) -> list[Row]:
    return [row(name, of) for name, of in figures.items()]


@contextlib.contextmanager
def _bare() -> Iterator[Server]:
    with (
        started("-m", "benchmarks.servers.bare") as (process, port),
        contextlib.closing(Server(process, port)) as server,
    ):
        yield server
