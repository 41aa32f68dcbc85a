"""CPU time of the server for each relayed token, as a ratio to passing the upstream's bytes through unread."""

import msgspec

from benchmarks import load
from benchmarks.progress import Advance, bar
from benchmarks.report import Measure, over, row
from benchmarks.targets import FLOOR, HTTPX, OLLAMA, OPENAI, SERVER, Target, side_by_side

TARGETS = (FLOOR, HTTPX, OLLAMA, SERVER, OPENAI)
SPREAD_SECONDS = 0.5
"""In what time the streams begin, each at a moment of its own."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """`rate` is tokens a second of each stream. A round more is run first, to warm all up."""

    streams: int = 20
    tokens: int = 400
    rate: float = 50
    rounds: int = 5


QUICK = Settings(streams=5, tokens=40, rounds=1)


def measure(settings: Settings) -> list[Measure]:
    """Each target in turn within each round, so that what else the machine does weighs on all alike."""
    tokens: dict[str, list[float]] = {name: [] for name in TARGETS}
    replies: dict[str, list[float]] = {name: [] for name in TARGETS}
    steps = (settings.rounds + 1) * len(TARGETS) * settings.streams * (settings.tokens + 1)
    with (
        side_by_side(TARGETS, settings.streams, settings.rate) as side,
        bar("relay", steps) as advance,
    ):
        for number in range(settings.rounds + 1):
            for target in side.targets:
                of_a_token, of_a_reply = _costs(target, settings, number, advance)
                if number:
                    tokens[target.name].append(of_a_token)
                    replies[target.name].append(of_a_reply)
    return [
        Measure(measure="CPU of a token", unit="us", rows=[row(name, tokens[name]) for name in TARGETS]),
        Measure(
            measure="the same over the floor",
            unit="ratio",
            wanted="<= 1.5",
            rows=over(FLOOR, tokens, TARGETS[1:]),
        ),
        Measure(measure="CPU of a reply of one token", unit="us", rows=[row(name, replies[name]) for name in TARGETS]),
    ]


def _costs(target: Target, settings: Settings, seed: int, advance: Advance) -> tuple[float, float]:
    """Microseconds of CPU: for a token while all streams run, and for a reply of one."""
    streams, tokens = settings.streams, settings.tokens
    long = load.run(
        target.port,
        target.requests(streams, tokens),
        target.ending,
        tokens,
        delays=load.starts(streams, SPREAD_SECONDS, seed),
        watched=[target.process],
        advanced=advance,
    )
    short = load.run(
        target.port,
        target.requests(streams, 1),
        target.ending,
        1,
        watched=[target.process],
        advanced=advance,
        steady=False,
    )
    return long.cpu_of_a_token(), short.cpu_of_a_token()
