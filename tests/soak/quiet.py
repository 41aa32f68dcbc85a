"""What a server holds while nobody asks it anything, and whether that grows."""

import time
from collections import Counter
from collections.abc import Callable
from statistics import median
from typing import NamedTuple

import psutil

from tests.inside import Instrument
from tests.server import Server

MOST_GROWTH = 4.0
"""MiB that memory may grow from the first third to the last. What is freed in pieces is kept for later, by Python and
by the C library, so that two quiet moments of one server differ by up to 2 MiB. A reply that is never let go of costs
10 KB: ten a second would come to 60 MB in ten minutes.
"""

MOST_BLOCKS = 3000
"""Pieces of memory that Python may have in use more, of some 290,000: these are counted exactly. Caches of the library,
such as that of regular expressions, take up to 2,000 in the first minutes. One forgotten for each reply is found after
some five minutes, however small it is.
"""

WARM_UP = 0.2
"""The part of the quiet moments that counts for nothing: threads are begun, caches filled, memory is taken for good."""

PATIENCE = 10.0
"""Seconds in which a quiet server must have let go of what it had."""

OURS = "mochi_server."
POOL = "store_"
"""Threads for work on files: up to 8 of them, each begun when all others are busy, whenever that may be."""


class Sample(NamedTuple):
    """A server at a quiet moment, `seconds` after the start."""

    seconds: float
    memory: float
    """MiB that are resident."""
    blocks: int
    """Pieces of it that Python has in use."""
    files: int
    threads: int
    """But for those of the pool."""
    tasks: Counter[str]
    objects: Counter[str]
    """Of the server's own types."""


class Watched:
    """A server, and what it holds."""

    def __init__(self, server: Server, instrument: Instrument) -> None:
        self._server = server
        self._instrument = instrument
        self._process = psutil.Process(server.process.pid)
        self._began = time.monotonic()
        self.samples: list[Sample] = []

    def sample(self) -> Sample:
        """What it holds, once it does nothing: no more than at the first time, or after a while whatever it is."""
        self._wait_until_idle()
        if self.samples:
            first = self.samples[0]
            self._within(PATIENCE, lambda: self._is_within(first))
        else:
            self._wait_until_it_stays()
        inside = self._instrument.all()
        ours = Counter({name: count for name, count in inside.objects.items() if name.startswith(OURS)})
        sample = Sample(
            seconds=time.monotonic() - self._began,
            memory=self._process.memory_info().rss / 2**20,
            blocks=inside.blocks,
            files=self._process.num_fds(),
            threads=self._process.num_threads() - inside.threads.get(POOL, 0),
            tasks=Counter(inside.tasks),
            objects=ours,
        )
        self.samples.append(sample)
        return sample

    def _is_within(self, first: Sample) -> bool:
        tasks, files = self._size()
        return tasks <= first.tasks.total() and files <= first.files

    def _size(self) -> tuple[int, int]:
        return sum(self._instrument.counts().tasks.values()), self._process.num_fds()

    def _wait_until_idle(self) -> None:
        """Until its own gauges say that nothing runs, and nothing waits."""

        def idle() -> bool:
            lines = self._server.client.get("/metrics").text.splitlines()
            gauges = ("mochi_generations_running ", "mochi_generations_queued ", "mochi_streams ")
            return [float(line.split()[1]) for line in lines if line.startswith(gauges)] == [0.0] * len(gauges)

        self._within(PATIENCE, idle)

    def _wait_until_it_stays(self) -> None:
        """What is done a second later, such as to write the index down, is done."""
        sizes = [self._size()]

        def stays() -> bool:
            sizes.append(self._size())
            return len(sizes) > 30 and len(set(sizes[-30:])) == 1

        self._within(PATIENCE, stays)

    @staticmethod
    def _within(seconds: float, holds: Callable[[], bool]) -> None:
        """Wait until it holds, for so long at most: what never comes to rest shows in the samples."""
        end = time.monotonic() + seconds
        while not holds() and time.monotonic() < end:
            time.sleep(0.05)


class Line(NamedTuple):
    """One line of the table: medians of the first and the last third, and what is wrong with them."""

    what: str
    first: float
    last: float
    wrong: str = ""


def judged(samples: list[Sample], *, memory: bool = True) -> list[Line]:
    """What the samples say; nothing where they are too few. Of memory only where they are of some minutes."""
    counted = samples[max(1, round(len(samples) * WARM_UP)) :]
    if len(counted) < 2:
        return []
    third = max(1, len(counted) // 3)
    first, last = counted[:third], counted[-third:]
    lines = []
    if memory:
        mebibytes, blocks = [one.memory for one in counted], [float(one.blocks) for one in counted]
        lines = [
            _grown("memory, MiB", mebibytes[:third], mebibytes[-third:], MOST_GROWTH),
            _grown("pieces of Python's", blocks[:third], blocks[-third:], MOST_BLOCKS),
        ]
    for what, look in _COUNTED.items():
        was, became = (median(float(look(one).total()) for one in some) for some in (first, last))
        lines.append(Line(what, was, became, _more(last[-1], first[0], look) if became > was else ""))
    return lines


def _grown(what: str, first: list[float], last: list[float], most: float) -> Line:
    was, became = median(first), median(last)
    more = became - was
    return Line(what, was, became, f"{more:,.1f} more, of which {most:,g} are allowed" if more > most else "")


_COUNTED: dict[str, Callable[[Sample], Counter[str]]] = {
    "open files": lambda sample: Counter({"open files": sample.files}),
    "threads": lambda sample: Counter({"threads": sample.threads}),
    "tasks": lambda sample: sample.tasks,
    "objects of its own types": lambda sample: sample.objects,
}


def _more(last: Sample, first: Sample, look: Callable[[Sample], Counter[str]]) -> str:
    """What there is more of, the most first."""
    return ", ".join(f"{count} {name} more" for name, count in (look(last) - look(first)).most_common(4)) or "more"
