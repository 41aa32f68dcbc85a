"""CPU time of the server for each relayed token, as a ratio to passing the upstream's bytes through unread."""

from collections.abc import Sequence

import msgspec

from benchmarks import load
from benchmarks.progress import Advance, bar
from benchmarks.report import Measure, over, row
from benchmarks.targets import FLOOR, HTTPX, OLLAMA, OPENAI, SERVER, Target, side_by_side

TARGETS = (FLOOR, HTTPX, OLLAMA, SERVER, OPENAI)
IN_STEP = (FLOOR, SERVER)
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
    in_step: dict[str, list[float]] = {name: [] for name in IN_STEP}
    replies: dict[str, list[float]] = {name: [] for name in TARGETS}
    streams = settings.streams
    a_round = len(TARGETS) * streams * (settings.tokens + 1) + len(IN_STEP) * streams * settings.tokens
    with (
        side_by_side(TARGETS, settings.streams, settings.rate) as side,
        bar("relay", (settings.rounds + 1) * a_round) as advance,
    ):
        for number in range(settings.rounds + 1):
            for target in side.targets:
                spread = load.starts(streams, SPREAD_SECONDS, number)
                of_a_token, of_a_reply = _token(target, settings, spread, advance), _reply(target, settings, advance)
                if number:
                    tokens[target.name].append(of_a_token)
                    replies[target.name].append(of_a_reply)
                if target.name in IN_STEP:
                    of_a_token = _token(target, settings, [0.0] * streams, advance)
                    if number:
                        in_step[target.name].append(of_a_token)
    return [
        Measure(measure="CPU of a token", unit="us", rows=[row(name, tokens[name]) for name in TARGETS]),
        Measure(
            measure="the same over the floor",
            unit="ratio",
            wanted="<= 1.5",
            rows=over(FLOOR, tokens, TARGETS[1:]),
        ),
        Measure(
            measure="CPU of a token when all streams begin at once",
            unit="us",
            rows=[row(name, in_step[name]) for name in IN_STEP],
        ),
        Measure(measure="the same over the floor then", unit="ratio", rows=over(FLOOR, in_step, IN_STEP[1:])),
        Measure(measure="CPU of a reply of one token", unit="us", rows=[row(name, replies[name]) for name in TARGETS]),
    ]


def _token(target: Target, settings: Settings, delays: Sequence[float], advance: Advance) -> float:
    """Microseconds of CPU for a token, while all streams run."""
    done = load.run(
        target.port,
        target.requests(settings.streams, settings.tokens),
        target.ending,
        settings.tokens,
        delays=delays,
        watched=[target.process],
        advanced=advance,
    )
    return done.cpu_of_a_token()


def _reply(target: Target, settings: Settings, advance: Advance) -> float:
    """Microseconds of CPU for a reply of one token."""
    done = load.run(
        target.port,
        target.requests(settings.streams, 1),
        target.ending,
        1,
        watched=[target.process],
        advanced=advance,
        steady=False,
    )
    return done.cpu_of_a_token()
