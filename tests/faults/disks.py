"""Small disks of memory that can be full, or read-only, in truth."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

FILLER = "filler"


def _run(*command: str) -> str:
    """Its words where it fails, else nothing."""
    ended = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    return "" if ended.returncode == 0 else (ended.stderr.splitlines() or [f"exit code {ended.returncode}"])[0]


class Disk:
    """One that is mounted."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def fill(self) -> None:
        """Leave no room at all."""
        with (self.place / FILLER).open("ab", buffering=0) as file:
            for size in (65_536, 1):
                try:
                    while True:
                        file.write(b"x" * size)
                except OSError:
                    continue

    def make_room(self) -> None:
        """Give back what `fill` took."""
        (self.place / FILLER).unlink()

    def make_read_only(self) -> None:
        """Let nobody write. Nobody may have a file open to write."""
        assert not (wrong := _run("mount", "-o", "remount,ro", str(self.place))), wrong


@contextmanager
def mounted(place: Path, options: str = "size=256k") -> Iterator[Disk]:
    """A disk at this place. Skips where none may be mounted."""
    if sys.platform != "linux":
        pytest.skip("mounts a small disk, as only Linux does")
    place.mkdir()
    if wrong := _run("mount", "-t", "tmpfs", "-o", options, "none", str(place)):
        pytest.skip(f"may not mount a small disk here ({wrong}); `unshare -rm scripts/test tests/faults` may")
    try:
        yield Disk(place)
    finally:
        _run("umount", "-l", str(place))
