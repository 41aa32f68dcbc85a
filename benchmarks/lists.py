"""Lists, searches and the start over a folder of many sessions."""

import tempfile
import time
from pathlib import Path

import msgspec

from benchmarks.folders import Server, fill, server_over
from benchmarks.progress import bar
from benchmarks.report import Measure, row
from benchmarks.targets import SERVER, upstream

FIRST_PAGE = "/api/v1/sessions?limit=50"
SEARCHES = {"zzzz": "nowhere", "eta": "in many of them", "ok": "nowhere, common letters"}
LOOK_SECONDS = 1.1
"""So long after a look through the folder a list looks again."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """`characters` is of each message; a start takes longer than an answer, and is repeated less often."""

    sessions: int = 10_000
    messages: int = 20
    characters: int = 190
    rounds: int = 30
    starts: int = 3


QUICK = Settings(sessions=200, rounds=5, starts=1)


class _Figures(msgspec.Struct):
    """Seconds of starts, milliseconds of answers, bytes of memory."""

    bare_starts: list[float] = []  # msgspec gives each its own
    cold_starts: list[float] = []
    starts: list[float] = []
    health: list[float] = []
    page: list[float] = []
    looking: list[float] = []
    first_search: list[float] = []
    searches: dict[str, list[float]] = {}
    memory: list[float] = []


def measure(settings: Settings) -> list[Measure]:
    """Make the folder, and ask servers over it."""
    figures = _Figures()
    with (
        upstream(0) as ollama,
        tempfile.TemporaryDirectory() as empty,
        tempfile.TemporaryDirectory() as full,
        bar("lists", settings.sessions + 2 * settings.starts + 1) as advance,
    ):
        fill(Path(full), settings.sessions, settings.messages, settings.characters, advance)
        with server_over(Path(full), ollama.port) as server:
            figures.cold_starts.append(server.start_seconds)
        advance(1)
        for _ in range(settings.starts):
            with server_over(Path(empty), ollama.port) as server:
                figures.bare_starts.append(server.start_seconds)
                before = _asked(server, settings.rounds, _Figures())
            advance(1)
            with server_over(Path(full), ollama.port) as server:
                figures.starts.append(server.start_seconds)
                memory = _asked(server, settings.rounds, figures) - before
                figures.memory.append(memory / settings.sessions)
            advance(1)
    return _measures(figures)


def _asked(server: Server, rounds: int, figures: _Figures) -> int:
    """Ask for everything; the bytes of memory behind it all."""
    figures.first_search.append(server.ask(f"{FIRST_PAGE}&q=zzzz"))
    for _ in range(rounds):
        figures.health.append(server.ask("/health"))
        figures.page.append(server.ask(FIRST_PAGE))
        for q in SEARCHES:
            figures.searches.setdefault(q, []).append(server.ask(f"{FIRST_PAGE}&q={q}"))
    time.sleep(LOOK_SECONDS)
    figures.looking.append(server.ask(FIRST_PAGE))
    return server.process.memory


def _measures(figures: _Figures) -> list[Measure]:
    searches = [row(f"{SERVER}, q={q} ({SEARCHES[q]})", times) for q, times in figures.searches.items()]
    return [
        Measure(
            measure="start, to the first answer",
            unit="s",
            wanted="<= 1",
            rows=[
                row("over an empty folder", figures.bare_starts),
                row("without an index", figures.cold_starts),
                row(SERVER, figures.starts),
            ],
        ),
        Measure(
            measure="first page of 50",
            unit="ms",
            wanted="<= 5",
            rows=[
                row("/health, on the same connection", figures.health),
                row(SERVER, figures.page),
                row("when the folder is looked through first", figures.looking),
            ],
        ),
        Measure(
            measure="first search after a start", unit="ms", wanted="<= 300", rows=[row(SERVER, figures.first_search)]
        ),
        Measure(measure="search, warm", unit="ms", wanted="<= 50", rows=searches),
        Measure(measure="memory of a session", unit="bytes", wanted="<= 1024", rows=[row(SERVER, figures.memory)]),
    ]
