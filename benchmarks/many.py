"""A crowd of streams: how late their tokens come, and what each takes of memory and CPU."""

import math
import time
from typing import NamedTuple

import msgspec

from benchmarks import load
from benchmarks.progress import Advance, bar
from benchmarks.report import Measure, percentile, row
from benchmarks.targets import FLOOR, SERVER, Target, side_by_side

TARGETS = (FLOOR, SERVER)
STARTS_A_SECOND = 100
WARM_UP_STREAMS, WARM_UP_TOKENS = 10, 10
SETTLE_SECONDS = 0.5


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """`rate` is tokens a second of each stream; `seconds` is for how long all streams run at least."""

    streams: int = 1000
    rate: float = 20
    seconds: float = 15
    rounds: int = 2


QUICK = Settings(streams=50, rate=50, seconds=0.5, rounds=1)


class Crowd(NamedTuple):
    """One run, while all streams ran: gaps are milliseconds over the stand-in's own, memory is KB a stream."""

    cpu_of_a_token: float
    gaps: list[float]
    longest_gaps: list[float]
    longest_gaps_of_all: list[float]
    memory: float
    server: float
    upstream: float
    client: float


def measure(settings: Settings) -> list[Measure]:
    """Floor and server in turn, each in new processes."""
    crowds: dict[str, list[Crowd]] = {name: [] for name in TARGETS}
    with bar("many", settings.rounds * len(TARGETS) * steps(settings)) as advance:
        for number in range(settings.rounds):
            for name in TARGETS:
                crowds[name].append(crowd(name, settings, number, advance))

    def of(title: str, unit: str, figure: str, wanted: str = "") -> Measure:
        rows = [row(name, [getattr(one, figure) for one in crowds[name]]) for name in TARGETS]
        return Measure(measure=title, unit=unit, wanted=wanted, rows=rows)

    def gaps(title: str, figure: str, percent: float, wanted: str = "") -> Measure:
        rows = [row(name, [percentile(getattr(one, figure), percent) for one in crowds[name]]) for name in TARGETS]
        return Measure(measure=title, unit="ms", wanted=wanted, rows=rows)

    return [
        gaps("longest added gap of a stream, p99 of the streams", "longest_gaps", 99, "<= 50"),
        gaps("the same with the seconds in which streams begin and end", "longest_gaps_of_all", 99),
        gaps("added gap, p50 of all", "gaps", 50),
        gaps("added gap, p99 of all", "gaps", 99),
        gaps("added gap, longest of all", "gaps", 100),
        of("memory of a stream", "KB", "memory", "<= 40"),
        of("CPU of a token", "us", "cpu_of_a_token"),
        of("the relay's process", "% of a core", "server"),
        of("the stand-in meanwhile", "% of a core", "upstream"),
        of("the client meanwhile", "% of a core", "client"),
    ]


def spread(settings: Settings) -> float:
    """Seconds in which the streams begin: beginning one costs as much as many tokens."""
    return max(settings.streams / STARTS_A_SECOND, 0.5)


def tokens(settings: Settings) -> int:
    """How many each stream has, so that all run for as long as asked for."""
    together = (settings.seconds + spread(settings)) / (1 - load.HEAD_PART - load.TAIL_PART)
    return math.ceil(settings.rate * together)


def steps(settings: Settings) -> int:
    """How many tokens a run has."""
    return settings.streams * tokens(settings)


def crowd(name: str, settings: Settings, seed: int, advance: Advance) -> Crowd:
    """Run one in new processes, since what an earlier crowd has left would hide what memory this one takes."""
    streams, each = settings.streams, tokens(settings)
    with side_by_side([name], streams, settings.rate) as side:
        target = side[name]
        _warm_up(target)
        requests = target.requests(streams, each)
        time.sleep(SETTLE_SECONDS)
        memory, own, began = target.process.memory, time.process_time(), time.perf_counter()
        done = load.run(
            target.port,
            requests,
            target.ending,
            each,
            delays=load.starts(streams, spread(settings), seed),
            watched=[target.process, side.upstream.process],
            advanced=advance,
        )
        client = (time.process_time() - own) / (time.perf_counter() - began) * 100
    interval = 1000 / settings.rate
    added = [[gap - interval for gap in of] for of in done.gaps()]
    return Crowd(
        cpu_of_a_token=done.cpu_of_a_token(),
        gaps=[gap for of in added for gap in of],
        longest_gaps=[max(of) for of in added],
        longest_gaps_of_all=[max(of) - interval for of in done.gaps(steady=False)],
        memory=(done.end.memory[0] - memory) / streams / 1024,
        server=done.share(0),
        upstream=done.share(1),
        client=client,
    )


def _warm_up(target: Target) -> None:
    """Few streams: what is loaded and kept with a first use is there, and no memory is left over for later ones."""
    requests = target.requests(WARM_UP_STREAMS, WARM_UP_TOKENS)
    load.run(target.port, requests, target.ending, WARM_UP_TOKENS, steady=False)
