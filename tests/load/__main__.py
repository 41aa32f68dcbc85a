"""Puts a server under load, makes sure that every client is served or told so, and prints what was measured."""

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.load import runs

Run = Callable[[Path, int, runs.Progress], runs.Figures]

RUNS: dict[str, tuple[Run, int, str]] = {
    "sends": (runs.sends, 1000, "messages at once: each is answered, or refused at once"),
    "together": (runs.together, 150, "streams that run at the same time"),
    "leavers": (runs.leavers, 300, "clients that leave in mid-reply: nothing of them stays"),
    "shutdown": (runs.shutdown, 100, "streams in mid-reply when the server is told to end"),
}
OPEN_FILES = 16_384


def main() -> int:
    """The exit code: 1 where a count or an outcome was wrong, 130 after Ctrl-C."""
    told = "\n".join(f"  {name:9} {count:5} {what}" for name, (_, count, what) in RUNS.items())
    parser = argparse.ArgumentParser(
        prog="scripts/load-test",
        description=f"{__doc__}\n\n{told}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", nargs="*", metavar="RUN", help=f"{', '.join(RUNS)} (default: all of them)")
    parser.add_argument("--count", type=int, metavar="N", help="how many clients (default: see above)")
    asked = parser.parse_args()
    if unknown := set(asked.run) - set(RUNS):
        parser.error(f"there is no run {', '.join(sorted(unknown))}; there are {', '.join(RUNS)}")
    if asked.count is not None and asked.count < 1:
        parser.error("--count takes a number from 1 on")
    _have_files_enough()
    try:
        return max([_run(name, asked.count) for name in asked.run or RUNS])
    except KeyboardInterrupt:
        sys.stderr.write("\nStopped.\n")
        return 130


def _run(name: str, count: int | None) -> int:
    run, usual, what = RUNS[name]
    count = count or usual
    sys.stdout.write(f"{name}: {count} {what}\n")
    sys.stdout.flush()
    with tempfile.TemporaryDirectory(prefix="mochi-load-") as folder:
        try:
            figures = run(Path(folder), count, partial(_show, _Shown()))
        except AssertionError as error:
            _clear()
            sys.stdout.write(f"  FAILED: {error}\n")
            return 1
    _clear()
    width = max(map(len, figures))
    for figure, value in figures.items():
        sys.stdout.write(f"  {figure:{width}}  {value}\n")
    sys.stdout.flush()
    return 0


class _Shown:
    """When something was last shown."""

    at = 0.0


def _show(last: _Shown, text: str) -> None:
    """A line that is written over; where nobody watches, one every five seconds."""
    live, now = sys.stderr.isatty(), time.monotonic()
    if now - last.at >= (0.1 if live else 5):
        last.at = now
        sys.stderr.write(f"\r\x1b[K  {text}" if live else f"  {text}\n")
        sys.stderr.flush()


def _clear() -> None:
    if sys.stderr.isatty():
        sys.stderr.write("\r\x1b[K")


def _have_files_enough() -> None:
    """A thousand connections take three open files each here: ours, the stand-in's, and the server's inherits this."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


if __name__ == "__main__":
    sys.exit(main())
