"""Uses a server for a long time as many clients do, and says whether anything grows or is answered wrongly."""

import argparse
import os
import secrets
import shutil
import sys
import tempfile
from pathlib import Path

from tests.soak.quiet import Line, Sample, judged
from tests.soak.soak import Soak

TURN = 30.0
"""Seconds of work between two quiet moments."""

FEWEST_TURNS = 5
"""A short run has shorter ones, for there must be something to compare."""

_TOLD = 5


def main() -> int:
    """The exit code: 1 where anything was wrong, 130 after Ctrl-C where nothing was."""
    parser = argparse.ArgumentParser(prog="scripts/soak", description=__doc__)
    parser.add_argument(
        "--minutes", type=float, default=10, metavar="N", help="how long the clients work (default: 10)"
    )
    parser.add_argument("--clients", type=int, default=8, metavar="N", help="how many at a time (default: 8)")
    parser.add_argument(
        "--seed",
        type=int,
        default=secrets.randbelow(1_000_000),
        help="what the clients do; the machine's own timing it cannot repeat",
    )
    asked = parser.parse_args()
    if asked.minutes <= 0 or asked.clients < 1:
        parser.error("--minutes and --clients take numbers above 0")
    folder = Path(tempfile.mkdtemp(prefix="mochi-soak-"))
    sys.stderr.write(f"seed {asked.seed}\n")
    with Soak(folder, asked.seed, asked.clients) as soak:
        stopped = _run(soak, asked.minutes * 60)
        lines = judged(soak.watched.samples)
        soak.stop()
    good = _tell(soak, lines)
    if good:
        shutil.rmtree(folder)
        return 130 if stopped else 0
    sys.stdout.write(f"Seed {asked.seed}; the server's log is in {folder}\n")
    return 1


def _run(soak: Soak, seconds: float) -> bool:
    """Whether it was stopped by Ctrl-C. Ends early where something is wrong: what comes behind says little."""
    turns = max(FEWEST_TURNS, round(seconds / TURN))
    try:
        for number in range(1, turns + 1):
            sample = soak.turn(seconds / turns)
            if sample is not None:
                sys.stderr.write(_progress(soak, sample, number / turns))
                sys.stderr.flush()
            if soak.wrong:
                break
    except KeyboardInterrupt:
        sys.stderr.write("\nStopped; this is what was seen so far.\n")
        return True
    return False


def _progress(soak: Soak, sample: Sample, part: float) -> str:
    return (
        f"{part:4.0%} {sample.seconds:5.0f} s: "
        f"{soak.operations.total():,} operations, {soak.answers.total():,} answers, {soak.compared:,} replies equal; "
        f"{sample.memory:.1f} MiB, {sample.files} files, {sample.threads} threads, {sample.tasks.total()} tasks\n"
    )


def _tell(soak: Soak, lines: list[Line]) -> bool:
    """Print what came of it; whether all is well."""
    done = ", ".join(f"{count} {name}" for name, count in sorted(soak.operations.items()))
    told = [f"Done: {done}.", f"Answers by status: {dict(sorted(soak.answers.items()))}.", ""]
    told.append(f"{'at quiet moments (medians)':28} {'first third':>12} {'last third':>12}")
    told += [f"{line.what:28} {line.first:12,.1f} {line.last:12,.1f}  {line.wrong or 'ok'}" for line in lines]
    if not lines:
        told.append("too few of them to tell")
    if soak.wrong:
        told += ["", f"{len(soak.wrong)} wrong:", *(f"  {text[:1000]}" for text in soak.wrong[:_TOLD])]
    good = not soak.wrong and not any(line.wrong for line in lines)
    well = "Nothing grows, and nothing was wrong." if lines else "Nothing was wrong."
    told += ["", well if good else "FAILED."]
    sys.stdout.write("\n".join([*told, ""]))
    sys.stdout.flush()
    return good


if __name__ == "__main__":
    os.umask(0o077)
    sys.exit(main())
