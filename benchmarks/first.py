"""The first token of one client: what is added to asking Ollama directly, beside what a durable save takes."""

import os
import tempfile
import time
from pathlib import Path

import msgspec
import uvloop

from benchmarks.load import take
from benchmarks.progress import Advance, bar
from benchmarks.report import Measure, row
from benchmarks.targets import (
    FLOOR,
    OPENAI,
    OPENAI_ENDING,
    SERVER,
    SERVER_ENDING,
    Side,
    new_sessions,
    openai_request,
    side_by_side,
    turn_request,
)

DIRECT, SAVE, IN_SESSION = "straight at the stand-in", "a durable save", f"{OPENAI}, in a session"
SAVED_BYTES = 2048
WARM_UP = 5

Way = tuple[int, bytes, bytes]
"""A port, a request, and what a whole answer ends with."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How often each way is asked."""

    rounds: int = 100


QUICK = Settings(rounds=10)


def measure(settings: Settings) -> list[Measure]:
    """All ways in turn within each round."""
    with side_by_side([FLOOR, SERVER], 4, 0) as side, bar("first", settings.rounds + WARM_UP) as advance:
        taken = uvloop.run(_rounds(_ways(side), settings.rounds, advance))
    direct, save = taken[DIRECT], taken[SAVE]
    saves = {FLOOR: False, SERVER: True, IN_SESSION: True, OPENAI: False}
    added = {
        name: [a - b - c * saved for a, b, c in zip(taken[name], direct, save, strict=True)]
        for name, saved in saves.items()
    }
    return [
        Measure(measure="first token", unit="ms", rows=[row(name, of) for name, of in taken.items() if name != SAVE]),
        Measure(measure=f"{SAVE} of 2 KB on that disk", unit="ms", rows=[row("file, sync, rename, sync", save)]),
        Measure(
            measure="added to asking directly, less that save where there is one",
            unit="ms",
            wanted="<= 1.5",
            rows=[row(name, of) for name, of in added.items()],
        ),
    ]


def _ways(side: Side) -> dict[str, Way]:
    direct, floor, port = side.upstream, side[FLOOR], side[SERVER].port
    ours, openais = new_sessions(port, 2)
    return {
        DIRECT: (direct.port, direct.requests(1, 1)[0], direct.ending),
        FLOOR: (floor.port, floor.requests(1, 1)[0], floor.ending),
        SERVER: (port, turn_request(ours, 1), SERVER_ENDING),
        IN_SESSION: (port, openai_request(1, openais), OPENAI_ENDING),
        OPENAI: (port, openai_request(1), OPENAI_ENDING),
    }


async def _rounds(ways: dict[str, Way], rounds: int, advance: Advance) -> dict[str, list[float]]:
    """Milliseconds, of each way and of saving."""
    taken: dict[str, list[float]] = {name: [] for name in (*ways, SAVE)}
    names = list(ways)
    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds + WARM_UP):
            # Each comes behind each other one as often: what one leaves to be done does not always meet the same.
            for name in names[number % len(names) :] + names[: number % len(names)]:
                stream = await take(*ways[name])
                if number >= WARM_UP:
                    taken[name].append(stream.first)
            saving = durable_save(Path(folder))
            if number >= WARM_UP:
                taken[SAVE].append(saving)
            advance(1)
    return taken


def durable_save(folder: Path) -> float:
    """Milliseconds to put a small file in the place of another so that a power cut leaves one of them."""
    data = os.urandom(SAVED_BYTES)
    began = time.perf_counter()
    scratch = folder / "new"
    with scratch.open("wb", buffering=0) as file:
        file.write(data)
        os.fsync(file.fileno())
    scratch.replace(folder / "kept")
    descriptor = os.open(folder, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
    return (time.perf_counter() - began) * 1000
