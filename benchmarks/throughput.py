"""Tokens a second through one process, and whether it was the process that set the pace."""

import time
from typing import NamedTuple

import msgspec

from benchmarks import load
from benchmarks.progress import Advance, bar
from benchmarks.report import Measure, Row, over, row
from benchmarks.targets import FLOOR, HTTPX, OLLAMA, OPENAI, SERVER, Side, Target, side_by_side

TARGETS = (FLOOR, HTTPX, OLLAMA, SERVER, OPENAI)
IN_BULK = 200
"""Lines a write: the stand-in then costs next to nothing."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """A round more is run first, to warm all up.

    Streams are long, since what lies in the system's buffers when a relay begins to read comes faster than the rest.
    """

    streams: int = 20
    tokens: int = 10_000
    rounds: int = 5
    bulk_rounds: int = 2


QUICK = Settings(streams=5, tokens=400, rounds=1, bulk_rounds=1)


class Pace(NamedTuple):
    """One run: tokens a second, and what the processes had of one core meanwhile, in percent."""

    tokens_a_second: float
    server: float
    upstream: float
    client: float


def measure(settings: Settings) -> list[Measure]:
    """As Ollama writes, line by line; then in bulk, where neither stand-in nor client has anything to do."""
    by_line = _measured("throughput", settings, settings.rounds, at_once=1)
    in_bulk = _measured("throughput, in bulk", settings, settings.bulk_rounds, at_once=IN_BULK)
    rates = _rates(by_line)
    return [
        Measure(measure="through one process", unit="tokens/s", rows=[row(name, rates[name]) for name in rates]),
        Measure(measure="the same over the floor", unit="ratio", wanted=">= 0.5", rows=over(FLOOR, rates, TARGETS[1:])),
        Measure(measure="who was busy meanwhile", unit="% of a core", rows=_shares(by_line)),
        Measure(
            measure=f"when the stand-in writes {IN_BULK} lines at once",
            unit="tokens/s",
            rows=[row(name, of) for name, of in _rates(in_bulk).items()],
        ),
        Measure(measure="who was busy then", unit="% of a core", rows=_shares(in_bulk)),
    ]


Paces = dict[str, list[Pace]]
"""Of each target, round by round."""


def _measured(title: str, settings: Settings, rounds: int, at_once: int) -> Paces:
    with side_by_side(TARGETS, settings.streams, 0, at_once) as side:
        targets = [side.upstream, *side.targets]
        paces: Paces = {target.name: [] for target in targets}
        steps = (rounds + 1) * len(targets) * settings.streams * settings.tokens
        with bar(title, steps) as advance:
            for number in range(rounds + 1):
                for target in targets:
                    pace = _pace(side, target, settings, advance)
                    if number:
                        paces[target.name].append(pace)
    return paces


def _pace(side: Side, target: Target, settings: Settings, advance: Advance) -> Pace:
    requests = target.requests(settings.streams, settings.tokens)
    own, began = time.process_time(), time.perf_counter()
    done = load.run(
        target.port,
        requests,
        target.ending,
        settings.tokens,
        watched=[target.process, side.upstream.process],
        advanced=advance,
        steady=False,
    )
    client = (time.process_time() - own) / (time.perf_counter() - began) * 100
    # From the first token to the last: what a turn costs before and behind them is another measure's.
    seconds = max(stream.times[-1] for stream in done.streams) - min(stream.times[0] for stream in done.streams)
    return Pace(settings.streams * settings.tokens / seconds, done.share(0), done.share(1), client)


def _rates(paces: Paces) -> dict[str, list[float]]:
    return {name: [pace.tokens_a_second for pace in of] for name, of in paces.items()}


def _shares(paces: Paces) -> list[Row]:
    rows = []
    for name in (FLOOR, SERVER, OPENAI):
        rows.append(row(f"{name}: its own process", [pace.server for pace in paces[name]]))
        rows.append(row(f"{name}: the stand-in", [pace.upstream for pace in paces[name]]))
        rows.append(row(f"{name}: the client", [pace.client for pace in paces[name]]))
    return rows
