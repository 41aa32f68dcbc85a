"""How cost grows: with the number of streams, with the number of sessions, and with the length of a history."""

import itertools
import tempfile
import time
from pathlib import Path

import msgspec
import uvloop

from benchmarks import many
from benchmarks.folders import Server, Words, fill, put, server_over, session_id, template
from benchmarks.lists import FIRST_PAGE, LOOK_SECONDS
from benchmarks.load import take
from benchmarks.progress import bar
from benchmarks.report import Measure, Row, percentile, row
from benchmarks.targets import SERVER, SERVER_ENDING, turn_request, upstream

FLAT, LINEAR = "flat", "at most linear"
CHARACTERS = 200
"""Of each message."""

MESSAGES = 2
"""Of each of many sessions."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The sizes that are compared. All streams run for `seconds` at least, at `rate` tokens a second each.

    `crowds`, `starts` and `rounds` are how often: a crowd of streams, a start, and all that is quicker.
    """

    streams: tuple[int, ...] = (1, 10, 100, 1000)
    sessions: tuple[int, ...] = (10, 1000, 100_000)
    messages: tuple[int, ...] = (10, 1000, 10_000)
    rate: float = 20
    seconds: float = 10
    crowds: int = 2
    starts: int = 3
    rounds: int = 30


QUICK = Settings(
    streams=(1, 10), sessions=(10, 100), messages=(10, 100), rate=50, seconds=0.5, crowds=1, starts=1, rounds=5
)


def measure(settings: Settings) -> list[Measure]:
    """Each number in turn."""
    return [*_streams(settings), *_sessions(settings), *_messages(settings)]


def _streams(settings: Settings) -> list[Measure]:
    sizes = [
        many.Settings(streams=streams, rate=settings.rate, seconds=settings.seconds) for streams in settings.streams
    ]
    tokens, gaps, memory = list[Row](), list[Row](), list[Row]()
    steps = settings.crowds * len(many.TARGETS) * sum(map(many.steps, sizes))
    with bar("growth: streams", steps) as advance:
        for name, size in itertools.product(many.TARGETS, sizes):
            crowds = [many.crowd(name, size, number, advance) for number in range(settings.crowds)]
            tokens.append(row(name, [crowd.cpu_of_a_token for crowd in crowds], size.streams))
            gaps.append(row(name, [percentile(crowd.gaps, 99) for crowd in crowds], size.streams))
            memory.append(row(name, [crowd.memory * size.streams / 1024 for crowd in crowds], size.streams))
    return [
        Measure(measure="CPU of a token", unit="us", wanted=FLAT, over="streams", rows=tokens),
        Measure(measure="added gap, p99 of all", unit="ms", wanted=LINEAR, over="streams", rows=gaps),
        Measure(measure="memory of all streams", unit="MB", wanted=LINEAR, over="streams", rows=memory),
    ]


def _sessions(settings: Settings) -> list[Measure]:
    start, page, looking, turn, memory = list[Row](), list[Row](), list[Row](), list[Row](), list[Row]()
    steps = sum(settings.sessions) + len(settings.sessions) * (settings.starts + 2)
    with upstream(0) as ollama, bar("growth: sessions", steps) as advance:
        for sessions in settings.sessions:
            with tempfile.TemporaryDirectory() as data:
                fill(Path(data), sessions, MESSAGES, CHARACTERS, advance)
                with server_over(Path(data), ollama.port):  # makes the index
                    advance(1)
                starts, memories = [], []
                for _ in range(settings.starts):
                    with server_over(Path(data), ollama.port) as server:
                        starts.append(server.start_seconds)
                        memories.append(server.process.memory / 2**20)
                        if len(starts) == settings.starts:
                            pages = [server.ask(FIRST_PAGE) for _ in range(settings.rounds)]
                            turns = _turns(server, session_id(0), settings.rounds)
                            looks = [_look(server) for _ in range(settings.starts)]
                    advance(1)
            start.append(row(SERVER, starts, sessions))
            memory.append(row(SERVER, memories, sessions))
            page.append(row(SERVER, pages, sessions))
            turn.append(row(SERVER, turns, sessions))
            looking.append(row(SERVER, looks, sessions))
            advance(1)
    return [
        Measure(measure="start with an index", unit="s", wanted=LINEAR, over="sessions", rows=start),
        Measure(measure="first page of 50", unit="ms", wanted=FLAT, over="sessions", rows=page),
        Measure(measure="first page, folder looked through", unit="ms", wanted=LINEAR, over="sessions", rows=looking),
        Measure(measure="turn of one token", unit="ms", wanted=FLAT, over="sessions", rows=turn),
        Measure(measure="memory after the start", unit="MB", wanted=LINEAR, over="sessions", rows=memory),
    ]


def _messages(settings: Settings) -> list[Measure]:
    turns, loads = list[Row](), list[Row]()
    words = Words()
    with (
        tempfile.TemporaryDirectory() as data,
        upstream(0) as ollama,
        bar("growth: messages", 2 * len(settings.messages)) as advance,
    ):
        folder = Path(data) / "sessions"
        folder.mkdir()
        ids = [put(folder, n, template(words, count, CHARACTERS)) for n, count in enumerate(settings.messages)]
        with server_over(Path(data), ollama.port) as server:
            for identity, messages in zip(ids, settings.messages, strict=True):
                file = folder / f"{identity}.json"
                loads.append(row(SERVER, _loads(server, file, settings.rounds), messages))
                advance(1)
                turns.append(row(SERVER, _turns(server, identity, settings.rounds), messages))
                advance(1)
    return [
        Measure(measure="turn of one token", unit="ms", wanted=LINEAR, over="messages", rows=turns),
        Measure(measure="session read from its file", unit="ms", wanted=LINEAR, over="messages", rows=loads),
    ]


def _turns(server: Server, identity: str, rounds: int) -> list[float]:
    """Milliseconds of whole turns in a session, the first of which is left out."""

    async def turns() -> list[float]:
        request = turn_request(identity, 1)
        return [(await take(server.port, request, SERVER_ENDING)).whole for _ in range(rounds + 1)]

    return uvloop.run(turns())[1:]


def _look(server: Server) -> float:
    """Milliseconds of a first page for which the folder is looked through for changes by hand."""
    time.sleep(LOOK_SECONDS)
    return server.ask(FIRST_PAGE)


def _loads(server: Server, file: Path, rounds: int) -> list[float]:
    """Milliseconds to be given a session whose file was touched, so that it is read again."""
    times = []
    for _ in range(rounds):
        file.touch()
        times.append(server.ask(f"/api/v1/sessions/{file.stem}"))
    return times
