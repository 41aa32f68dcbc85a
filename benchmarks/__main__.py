"""Benchmarks: what a user would ask of a relay, each beside a floor that is measured in the same run."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from benchmarks import first, growth, history, idle, kept, lists, many, observing, relay, throughput
from benchmarks.processes import allow_many_files, end_on_signals
from benchmarks.report import Measure, Report, as_text, report


class Benchmark(NamedTuple):
    """One that can be asked for: what it tells, how it is run in full and in short, and whether it is run unasked."""

    about: str
    measure: Callable[[Any], Sequence[Measure]]
    full: msgspec.Struct
    quick: msgspec.Struct
    unasked: bool = True


BENCHMARKS = {
    "relay": Benchmark("CPU of a token, streams at a model's pace", relay.measure, relay.Settings(), relay.QUICK),
    "throughput": Benchmark(
        "tokens a second, streams as fast as they go", throughput.measure, throughput.Settings(), throughput.QUICK
    ),
    "first": Benchmark("the first token of one client", first.measure, first.Settings(), first.QUICK),
    "many": Benchmark("a crowd of streams", many.measure, many.Settings(), many.QUICK),
    "lists": Benchmark("many sessions: start, lists, searches", lists.measure, lists.Settings(), lists.QUICK),
    "history": Benchmark("a turn with a long history", history.measure, history.Settings(), history.QUICK),
    "idle": Benchmark("a server that nobody asks", idle.measure, idle.Settings(), idle.QUICK),
    "observing": Benchmark(
        "what logging and counting cost", observing.measure, observing.Settings(), observing.QUICK, unasked=False
    ),
    "growth": Benchmark("how cost grows", growth.measure, growth.Settings(), growth.QUICK, unasked=False),
}


def main(arguments: Sequence[str]) -> None:
    """Run what was asked for: progress to standard error, tables to standard output, and figures where they go."""
    parser = _parser()
    asked = parser.parse_args(arguments)
    if asked.list:
        for name, benchmark in BENCHMARKS.items():
            print(f"{name:12}{benchmark.about}{'' if benchmark.unasked else ' (only when named)'}")
        return
    for name in asked.names:
        if name not in BENCHMARKS:
            parser.error(f"there is no benchmark {name!r}; choose from {', '.join(BENCHMARKS)}")
    if asked.keep and asked.quick:
        parser.error("--quick gives no figures worth keeping")
    allow_many_files()
    end_on_signals()
    reports = []
    for name in asked.names or [name for name, benchmark in BENCHMARKS.items() if benchmark.unasked or asked.quick]:
        done = _run(name, quick=asked.quick)
        print(f"{as_text(done)}\n", flush=True)
        reports.append(done)
        if asked.keep:
            kept.keep(done)
    if asked.json:
        asked.json.write_bytes(msgspec.json.format(msgspec.json.encode(reports)) + b"\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help="which; without any, all that are not slow by nature")
    parser.add_argument("--list", action="store_true", help="say which there are")
    parser.add_argument("--quick", action="store_true", help="a short run of each, to see that they work")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there, too")
    parser.add_argument("--keep", action="store_true", help="put the figures into benchmarks/figures and its README")
    return parser


def _run(name: str, *, quick: bool) -> Report:
    benchmark = BENCHMARKS[name]
    settings = benchmark.quick if quick else benchmark.full
    return report(name, benchmark.about, settings, benchmark.measure(settings))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit(130)
