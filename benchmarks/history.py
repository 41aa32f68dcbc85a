"""What a long history adds to a turn, the saves of its file included."""

import tempfile
from pathlib import Path

import msgspec
import uvloop

from benchmarks.folders import Words, put, server_over, session_id, template
from benchmarks.load import take
from benchmarks.progress import Advance, bar
from benchmarks.report import Measure, row
from benchmarks.targets import MODEL, SERVER, SERVER_ENDING, UPSTREAM_ENDING, post, turn_request, upstream

DIRECT = "straight at the stand-in"
SHORT_MESSAGES = 2
WARM_UP = 2

Way = tuple[int, bytes, bytes]
"""A port, a request, and what a whole answer ends with."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The long history; `characters` is of each message."""

    messages: int = 5000
    characters: int = 400
    rounds: int = 50


QUICK = Settings(messages=500, rounds=5)


def measure(settings: Settings) -> list[Measure]:
    """A turn of one token in a session with a long history and in one with a short one, in turn."""
    words = Words()
    with (
        tempfile.TemporaryDirectory() as data,
        upstream(0) as ollama,
        bar("history", settings.rounds + WARM_UP) as advance,
    ):
        folder = Path(data) / "sessions"
        folder.mkdir()
        lengths = {"short": SHORT_MESSAGES, "long": settings.messages}
        ways: dict[str, Way] = {}
        for number, (length, messages) in enumerate(lengths.items()):
            request = post("/api/chat", body(words, messages, settings.characters))
            ways[f"{DIRECT}, {length}"] = (ollama.port, request, UPSTREAM_ENDING)
            put(folder, number, template(words, messages, settings.characters))
        with server_over(Path(data), ollama.port) as server:
            for number, length in enumerate(lengths):
                ways[f"{SERVER}, {length}"] = (server.port, turn_request(session_id(number), 1), SERVER_ENDING)
            taken = uvloop.run(_rounds(ways, settings.rounds, advance))
    return _measures(taken)


def _measures(taken: dict[str, list[float]]) -> list[Measure]:
    whole = {name: of[WARM_UP:] for name, of in taken.items()}
    return [
        Measure(measure="turn of one token, to its end", unit="ms", rows=[row(name, of) for name, of in whole.items()]),
        Measure(
            measure="added by the long history",
            unit="ms",
            wanted="<= 20",
            rows=[
                row(
                    name,
                    [a - b for a, b in zip(whole[f"{name}, long"], whole[f"{name}, short"], strict=True)],
                )
                for name in (DIRECT, SERVER)
            ],
        ),
        Measure(
            measure="first turn after the start, the file read",
            unit="ms",
            rows=[row(name, of[:1]) for name, of in taken.items() if name.startswith(SERVER)],
        ),
    ]


def body(words: Words, messages: int, characters: int) -> object:
    """What Ollama is asked with a history of this length."""
    roles = ("user", "assistant")
    told = [{"role": roles[place % 2], "content": words.text(characters)} for place in range(messages)]
    return {"model": MODEL, "messages": told, "stream": True, "options": {"num_predict": 1}}


async def _rounds(ways: dict[str, tuple[int, bytes, bytes]], rounds: int, advance: Advance) -> dict[str, list[float]]:
    """Milliseconds of each way, those that warm all up first."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(WARM_UP + rounds):
        for name, way in ways.items():
            taken[name].append((await take(*way)).whole)
        advance(1)
    return taken
