"""Has schemathesis send to a server whatever its document allows and forbids, and look at every answer."""

import argparse
import secrets
import shutil
import sys
import tempfile
from pathlib import Path

from tests.fuzz.run import fuzz

LAST_STEPS = 300.0
"""Seconds that what was begun in time may take beyond it."""


def main() -> None:
    """Run it; exit code 1 where anything was found."""
    parser = argparse.ArgumentParser(prog="scripts/fuzz-test", description=__doc__)
    parser.add_argument("--minutes", type=float, default=2.0, help="how long (default: %(default)g)")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1_000_000), help="the run to repeat")
    asked = parser.parse_args()
    seconds = max(1, round(asked.minutes * 60))
    folder = Path(tempfile.mkdtemp(prefix="mochi-fuzz-"))
    arguments = ["--seed", str(asked.seed), "--max-time", str(seconds), "--suppress-health-check", "all"]
    found = fuzz(folder, arguments, seconds + LAST_STEPS, live=True)
    for bug in found.bugs:
        sys.stderr.write(f"{bug}\n")
    if found.held and not found.bugs:
        shutil.rmtree(folder)
        return
    sys.stderr.write(f"Seed {asked.seed} found something; the server's folder and log are in {folder}.\n")
    sys.exit(1)


if __name__ == "__main__":
    main()
