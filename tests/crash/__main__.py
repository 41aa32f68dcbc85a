"""Kills the server over and over while clients work, and says whether anything acknowledged or shown was lost."""

import argparse
import os
import secrets
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.crash.kills import Crash

LONGEST = 2.0
_TOLD = 5
_WIDTH = 24


class Figures:
    """What was done so far, and the bar that shows it."""

    def __init__(self, wanted: int, seed: int) -> None:
        self.wanted = wanted
        self.seed = seed
        self.kills = self.kills_in_starts = self.operations = self.events = self.failures = 0
        self.kept: Path | None = None
        self._began = time.monotonic()
        self._live = sys.stderr.isatty()

    def line(self) -> str:
        """All of them in one line."""
        return (
            f"{self.kills} of {self.wanted} kills (and {self.kills_in_starts} in a start), "
            f"{self.operations:,} operations, {self.events:,} events shown, {self.failures} failures, "
            f"{time.monotonic() - self._began:.0f} s"
        )

    def show(self) -> None:
        """Draw the bar; where nobody watches, a line now and then."""
        done = _WIDTH * self.kills // max(1, self.wanted)
        bar = f"[{'#' * done}{'.' * (_WIDTH - done)}] {self.line()}"
        if self._live:
            sys.stderr.write(f"\r\x1b[K{bar}")
        elif self.kills % max(1, self.wanted // 10) == 0:
            sys.stderr.write(f"{bar}\n")
        sys.stderr.flush()

    def fail(self, wrong: list[str], folder: Path) -> None:
        """Tell what is violated. The first folder in which anything is stays for a look."""
        self.failures += 1
        kept = ""
        if self.kept is None:
            self.kept, kept = folder, f"; the folder is {folder}"
        told = [f"  {text[:1000]}" for text in wrong[:_TOLD]]
        if len(wrong) > _TOLD:
            told.append(f"  and {len(wrong) - _TOLD} more")
        head = f"\nKill {self.kills} of seed {self.seed} did harm{kept}:"
        sys.stderr.write("\n".join([head, *told, ""]))


def main() -> int:
    """The exit code: 1 where anything was violated, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(prog="scripts/crash-test", description=__doc__)
    parser.add_argument("--kills", type=int, default=200, metavar="N", help="how many (default: 200)")
    parser.add_argument(
        "--seed",
        type=int,
        default=secrets.randbelow(1_000_000),
        help="what the clients do and when they are struck; the machine's own timing it cannot repeat",
    )
    asked = parser.parse_args()
    figures = Figures(asked.kills, asked.seed)
    sys.stderr.write(f"seed {asked.seed}\n")
    stopped = False
    try:
        while figures.kills < figures.wanted:
            _kill_until_harm_is_done(figures)
    except KeyboardInterrupt:
        stopped = True
    sys.stderr.write(f"\n{'Stopped: ' if stopped else ''}{figures.line()}.\n")
    if figures.failures:
        sys.stderr.write(f"Seed {figures.seed}; see {figures.kept}\n")
        return 1
    return 130 if stopped else 0


def _kill_until_harm_is_done(figures: Figures) -> None:
    """In a folder of its own: after a violation, what else is wrong in it says little."""
    folder = Path(tempfile.mkdtemp(prefix="mochi-crash-"))
    before = figures.kills_in_starts, figures.operations, figures.events
    wrong: list[str] = []
    try:
        with Crash(folder, figures.seed + figures.failures, LONGEST) as crash:
            while not wrong and figures.kills < figures.wanted:
                wrong = crash.kill()
                figures.kills += 1
                figures.kills_in_starts = before[0] + crash.kills_in_starts
                figures.operations, figures.events = before[1] + crash.operations, before[2] + crash.events
                if wrong:
                    figures.fail(wrong, folder)
                figures.show()
    finally:
        if figures.kept != folder:
            shutil.rmtree(folder)


if __name__ == "__main__":
    os.umask(0o077)
    sys.exit(main())
