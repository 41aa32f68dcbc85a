"""Cuts a reader's connection over and over, kills the server now and then, and says whether it read what was saved."""

import argparse
import secrets
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.cuts.cutting import Cutting, Wrong
from tests.cuts.slow_reader import SlowReader, lines

_WIDTH = 24


class Progress:
    """The bar that shows how far it is; where nobody watches, a line now and then."""

    def __init__(self, cutting: Cutting, wanted: int) -> None:
        self._cutting = cutting
        self._wanted = wanted
        self._began = time.monotonic()
        self._live = sys.stderr.isatty()
        self._shown = 0

    def line(self) -> str:
        """All of it in one line."""
        cutting = self._cutting
        return (
            f"{cutting.cuts} of {self._wanted} cuts ({cutting.cuts_in_events} in the middle of an event, "
            f"{cutting.kills} kills), {cutting.replies} replies, {cutting.events:,} events, "
            f"{cutting.compared} times equal to what was saved, {time.monotonic() - self._began:.0f} s"
        )

    def show(self) -> None:
        """Draw it."""
        done = _WIDTH * self._cutting.cuts // max(1, self._wanted)
        bar = f"[{'#' * done}{'.' * (_WIDTH - done)}] {self.line()}"
        if self._live:
            sys.stderr.write(f"\r\x1b[K{bar}")
        elif self._cutting.cuts - self._shown >= self._wanted / 10:
            self._shown = self._cutting.cuts
            sys.stderr.write(f"{bar}\n")
        sys.stderr.flush()


def main() -> int:
    """The exit code: 1 where anything was wrong, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(prog="scripts/cut-test", description=__doc__)
    parser.add_argument("--cuts", type=int, default=500, metavar="N", help="how many (default: 500)")
    parser.add_argument(
        "--kill-every", type=int, default=25, metavar="N", help="every N-th cut kills the server (default: 25; 0: none)"
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=secrets.randbelow(1_000_000),
        help="what is said and where it is cut; the machine's own timing it cannot repeat",
    )
    parser.add_argument(
        "--slow-reader",
        action="store_true",
        help="measure a reader that reads nothing while a long reply flows, instead of cutting",
    )
    parser.add_argument("--tokens", type=int, default=200_000, metavar="N", help="of that reply (default: 200000)")
    parser.add_argument("--silence", type=float, default=30, metavar="S", help="of that reader (default: 30 seconds)")
    asked = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="mochi-cuts-"))
    try:
        wrong = _slow_reader(folder, asked) if asked.slow_reader else _cut(folder, asked)
    except KeyboardInterrupt:
        shutil.rmtree(folder)
        return 130
    if wrong:
        sys.stderr.write(f"The folder is {folder}\n")
        return 1
    shutil.rmtree(folder)
    return 0


def _cut(folder: Path, asked: argparse.Namespace) -> bool:
    """Whether anything was wrong."""
    sys.stderr.write(f"seed {asked.seed}\n")
    with Cutting(folder, asked.seed, asked.kill_every) as cutting:
        progress = Progress(cutting, asked.cuts)
        try:
            while cutting.cuts < asked.cuts:
                cutting.reply(asked.cuts - cutting.cuts)
                progress.show()
        except (AssertionError, OSError, Wrong) as error:
            sys.stderr.write(f"\nWith seed {asked.seed}: {str(error)[:2000]}\n")
            return True
        finally:
            sys.stderr.write(f"\n{progress.line()}.\n")
    return False


def _slow_reader(folder: Path, asked: argparse.Namespace) -> bool:
    """Whether anything was wrong; the figures are for people to judge."""
    wrong = False
    for title, slow in (("without a slow reader", False), (f"with one that is silent for {asked.silence:g} s", True)):
        (own := folder / title).mkdir()
        with SlowReader(own, asked.tokens) as reader:
            figures = reader.measure(asked.silence, slow=slow)
        all_of_it = all(events == asked.tokens + 2 for events in figures.events)
        wrong = wrong or not (all_of_it and figures.same_bytes and figures.joined_is_saved)
        sys.stderr.write("\n".join([*lines(title, figures), ""]))
    return wrong


if __name__ == "__main__":
    sys.exit(main())
