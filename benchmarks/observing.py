"""What it costs to log and to count: microseconds of CPU for each of the calls that a request and a reply make.

Usage: python -m benchmarks.observing [--calls 20000] [--repeat 5] [--tokens 500]

No call is made for a token. What a reply's end costs is told for each token of a reply of `--tokens`, too.
"""

import argparse
import json
import logging
import os
import statistics
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from mochi_server.api.routes import ROUTES
from mochi_server.chat import ended
from mochi_server.chat.generation import Outcome
from mochi_server.domain.messages import AssistantMessage, Stats
from mochi_server.observability.logs import LogFormat, configure, correlate, log
from mochi_server.observability.metrics import Metrics

REQUEST = logging.getLogger("mochi_server.request")


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


def measured(asked: argparse.Namespace) -> dict[str, list[float]]:
    """Each cost, as often as asked for."""
    metrics = Metrics()
    metrics.watch(running=float, queued=float, sessions=float, damaged=float)
    formats: tuple[LogFormat, ...] = ("json", "console")
    costs: dict[str, list[float]] = {}
    for _ in range(asked.repeat):
        for form in formats:
            configure("info", form)
            costs.setdefault(f"a request's line, {form}", []).append(cost(request_line, asked.calls))
        configure("warning", "json")
        costs.setdefault("a line below the level", []).append(cost(request_line, asked.calls))
        costs.setdefault("a request's count", []).append(cost(counted(metrics), asked.calls))
        configure("info", "json")
        end = cost(reply_told(metrics), asked.calls)
        costs.setdefault("a reply's line and counts", []).append(end)
        costs.setdefault(f"the same, for each of {asked.tokens} tokens", []).append(end / asked.tokens)
        costs.setdefault("/metrics, every route used", []).append(cost(asked_of_all(metrics), asked.calls // 200))
    return costs


def main() -> None:
    """Measure, print a table, and the same as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=500)
    asked = parser.parse_args()
    # The lines are written, but to nowhere: what a disk or a terminal takes is its own.
    errors = os.dup(sys.stderr.fileno())
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    correlate("a")
    costs = measured(asked)
    os.dup2(errors, sys.stderr.fileno())
    print(f"{asked.calls} calls, {asked.repeat} rounds, microseconds of CPU each")
    print(f"{'':36}{'min':>9}{'median':>9}{'max':>9}")
    for title, values in costs.items():
        print(f"{title:36}{min(values):9.2f}{statistics.median(values):9.2f}{max(values):9.2f}")
    print(json.dumps({title: round(statistics.median(values), 3) for title, values in costs.items()}))


if __name__ == "__main__":
    main()
