"""What it costs to log and to count: microseconds of CPU for each of the calls that a request and a reply make.

No call is made for a token. What a reply's end costs is told for each token of a reply, too.
"""

import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec

from benchmarks.progress import Advance, bar
from benchmarks.report import Measure, row
from benchmarks.targets import SERVER
from mochi_server.api.routes import ROUTES
from mochi_server.chat import ended
from mochi_server.chat.generation import Outcome
from mochi_server.domain.messages import AssistantMessage, Stats
from mochi_server.observability.logs import LogFormat, configure, correlate, log
from mochi_server.observability.metrics import Metrics

REQUEST = logging.getLogger("mochi_server.request")
REPLY = "a reply's line and counts"


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """`tokens` is how many a reply has that its end's cost is told for."""

    calls: int = 20_000
    tokens: int = 500
    rounds: int = 5


QUICK = Settings(calls=500, rounds=2)


def request_line() -> None:
    """As the outermost layer logs one."""
    log(
        REQUEST,
        logging.INFO,
        "request",
        method="POST",
        path="/api/v1/chat/00000000aa/stream",
        status=200,
        duration_ms=12.3,
        correlation_id="4c3a3f2b1d0e4f5a8b7c6d5e4f3a2b1c",
    )


def counted(metrics: Metrics) -> Callable[[], None]:
    """A request's count."""
    return lambda: metrics.request("POST", "/api/v1/chat/{session_id}/stream", 200, 0.0123)


def reply_told(metrics: Metrics) -> Callable[[], None]:
    """A reply's line and its counts."""
    generation: Any = SimpleNamespace(
        id="00000000ab", session_id="00000000aa", correlation_id="a", began=0.0, stop_reason=None
    )
    stats = Stats(ttft_ms=100.0, total_ms=1000.0, tokens_per_second=50.0)
    message = AssistantMessage(
        content="",
        message_id="00000000ac",
        timestamp="",
        model="bench",
        stats=stats,
        eval_count=500,
        prompt_eval_count=50,
        done_reason="stop",
    )
    outcome = Outcome(message=message)
    return lambda: ended.tell(generation, "bench", outcome, metrics)


def asked_of_all(metrics: Metrics) -> Callable[[], None]:
    """What Prometheus asks for, once every route was used."""
    for route in ROUTES:
        metrics.request(route.method, route.shown_path, 200, 0.1)
    return lambda: metrics.text("") and None


def cost(call: Callable[[], None], calls: int) -> float:
    """Microseconds of CPU of one."""
    began = time.process_time()
    for _ in range(calls):
        call()
    return (time.process_time() - began) / calls * 1e6


def measure(settings: Settings) -> list[Measure]:
    """Each call so often, in turn within each round."""
    with bar("observing", settings.rounds) as advance, _lines_to_nowhere():
        correlate("a")
        costs = _measured(settings, advance)
    each = {f"for each of {settings.tokens} tokens": [cost / settings.tokens for cost in costs[REPLY]]}
    return [
        Measure(measure="a call", unit="us of CPU", rows=[row(title, of) for title, of in costs.items()]),
        Measure(
            measure=REPLY,
            unit="us of CPU",
            wanted="<= 1",
            rows=[row(f"{SERVER}, {title}", of) for title, of in each.items()],
        ),
    ]


def _measured(settings: Settings, advance: Advance) -> dict[str, list[float]]:
    metrics = Metrics()
    metrics.watch(running=float, queued=float, sessions=float, damaged=float)
    formats: tuple[LogFormat, ...] = ("json", "console")
    costs: dict[str, list[float]] = {}

    def note(title: str, call: Callable[[], None], calls: int = settings.calls) -> None:
        costs.setdefault(title, []).append(cost(call, calls))

    for _ in range(settings.rounds):
        for form in formats:
            configure("info", form)
            note(f"a request's line, {form}", request_line)
        configure("warning", "json")
        note("a line below the level", request_line)
        note("a request's count", counted(metrics))
        configure("info", "json")
        note(REPLY, reply_told(metrics))
        note("/metrics, every route used", asked_of_all(metrics), max(settings.calls // 200, 1))
        advance(1)
    return costs


@contextlib.contextmanager
def _lines_to_nowhere() -> Iterator[None]:
    """Have log lines written, but to where nothing is kept: what a disk or a terminal takes is its own."""
    # It stays open: whoever logs once has it for good.
    nowhere = Path(os.devnull).open("w")  # noqa: SIM115
    try:
        with contextlib.redirect_stderr(nowhere):
            yield
    finally:
        logging.basicConfig(force=True)
        sys.excepthook = sys.__excepthook__
