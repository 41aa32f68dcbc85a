"""The client: many streams in one event loop, whose tokens are counted and never parsed."""

import asyncio
import random
import time
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple, cast

import uvloop

from benchmarks.processes import Process
from benchmarks.servers.upstream import TOKEN

PATIENCE_SECONDS = 300.0
"""What one run may take at most."""

LOOK_SECONDS = 0.02
"""How often it is looked whether all streams run."""

HEAD_PART, TAIL_PART = 0.1, 0.05
"""The parts of a stream before and behind its steady state."""

Advanced = Callable[[int], object]
"""Takes how many more tokens have come."""


MARK = TOKEN.encode()
"""One byte, since a relay may cut a stream anywhere, and put the frame of a transfer chunk in between."""


class Stream(asyncio.Protocol):
    """One request on a connection of its own: when its tokens came, and whether it had the bytes it ends with."""

    def __init__(self, request: bytes, ending: bytes) -> None:
        self._request = request
        self._ending = ending
        self._reads: deque[bytes] = deque(maxlen=4)
        self.tokens = 0
        self.asked = self.heard = 0.0
        self.times = array("d")
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask."""
        cast("asyncio.Transport", transport).write(self._request)

    def data_received(self, data: bytes) -> None:
        """Count. All tokens of one read have come at one time."""
        new = data.count(MARK)
        self._reads.append(data)
        self.heard = now = time.perf_counter()
        if new:
            self.tokens += new
            for _ in range(new):
                self.times.append(now)

    def connection_lost(self, exc: Exception | None) -> None:
        """Look whether it was whole."""
        tail = b"".join(self._reads)
        if self.ended.done():
            return
        if self._ending in tail:
            self.ended.set_result(None)
        else:
            self.ended.set_exception(RuntimeError(f"a stream was cut short ({exc}): {tail[-300:]!r}"))

    async def taken(self, port: int) -> None:
        """Take it from the connection on to its end. Raises RuntimeError where it was cut short."""
        self.asked = time.perf_counter()
        await asyncio.get_running_loop().create_connection(lambda: self, "127.0.0.1", port)
        await self.ended

    @property
    def first(self) -> float:
        """Milliseconds to the first token, the connection's making included."""
        return (self.times[0] - self.asked) * 1000

    @property
    def whole(self) -> float:
        """Milliseconds to the last byte."""
        return (self.heard - self.asked) * 1000


class Sample(NamedTuple):
    """A moment: seconds, tokens so far, and of each watched process its CPU seconds and bytes of memory so far."""

    at: float
    tokens: int
    cpu: tuple[float, ...]
    memory: tuple[int, ...]


class Load(NamedTuple):
    """One run: its streams, and the first and the last moment of the state in which all of them ran."""

    streams: list[Stream]
    begin: Sample
    end: Sample

    @property
    def tokens(self) -> int:
        """How many came while all ran."""
        return self.end.tokens - self.begin.tokens

    def cpu_of_a_token(self, watched: int = 0) -> float:
        """Microseconds that a watched process took for each."""
        return (self.end.cpu[watched] - self.begin.cpu[watched]) / self.tokens * 1e6

    def share(self, watched: int = 0) -> float:
        """Percent of one core that a watched process had."""
        return (self.end.cpu[watched] - self.begin.cpu[watched]) / (self.end.at - self.begin.at) * 100

    def gaps(self, *, steady: bool = True) -> list[list[float]]:
        """Of each stream the milliseconds from token to token: while all ran, or from its first to its last."""
        begin, end = (self.begin.at, self.end.at) if steady else (0.0, float("inf"))
        inside = ([moment for moment in stream.times if begin <= moment <= end] for stream in self.streams)
        return [[(after - before) * 1000 for before, after in pairwise(moments)] for moments in inside]


def starts(streams: int, seconds: float, seed: int) -> list[float]:
    """When each stream begins: at moments of its own, so that no two keep time with each other."""
    dice = random.Random(seed)  # noqa: S311 - nothing secret
    return [dice.uniform(0, seconds) for _ in range(streams)]


def run(
    port: int,
    requests: Sequence[bytes],
    ending: bytes,
    tokens: int,
    *,
    delays: Sequence[float] = (),
    watched: Sequence[Process] = (),
    advanced: Advanced = int,
    steady: bool = True,
) -> Load:
    """Take all of the streams to their ends, each of so many tokens.

    Each is begun after its delay in seconds, or all at once. Where not `steady`, the first and the last moment are
    those before the first stream and behind the last. Raises RuntimeError for a stream that is not as it should be,
    and where no steady state was seen.
    """
    load = uvloop.run(_run(port, requests, ending, tokens, delays, watched, advanced, steady=steady))
    if load.tokens <= 0:
        raise RuntimeError("the streams did not all run at a time: have them be longer")
    return load


async def take(port: int, request: bytes, ending: bytes) -> Stream:
    """Take one stream, while nothing else is done."""
    stream = Stream(request, ending)
    async with asyncio.timeout(PATIENCE_SECONDS):
        await stream.taken(port)
    return stream


async def _run(
    port: int,
    requests: Sequence[bytes],
    ending: bytes,
    tokens: int,
    delays: Sequence[float],
    watched: Sequence[Process],
    advanced: Advanced,
    *,
    steady: bool,
) -> Load:
    streams = [Stream(request, ending) for request in requests]

    async def begin(stream: Stream, delay: float) -> None:
        await asyncio.sleep(delay)
        await stream.taken(port)

    def sample() -> Sample:
        return Sample(
            time.perf_counter(),
            sum(stream.tokens for stream in streams),
            tuple(process.cpu_seconds for process in watched),
            tuple(process.memory for process in watched),
        )

    async with asyncio.timeout(PATIENCE_SECONDS), asyncio.TaskGroup() as group:
        for stream, delay in zip(streams, delays or [0.0] * len(streams), strict=True):
            group.create_task(begin(stream, delay))
        samples = await _looked_at(streams, tokens if steady else 0, sample, advanced)
    if any(stream.tokens != tokens for stream in streams):
        raise RuntimeError(f"streams had {sorted({stream.tokens for stream in streams})} tokens, not {tokens}")
    return Load(streams, *samples)


async def _looked_at(
    streams: Sequence[Stream], tokens: int, sample: Callable[[], Sample], advanced: Advanced
) -> tuple[Sample, Sample]:
    """The first moment at which all streams have come some way, and the last before the first of them ends.

    Without `tokens`, which is how many each has, the moments before and behind all of them.
    """
    begun, nearly = tokens * HEAD_PART, tokens * (1 - TAIL_PART)
    begin = end = sample()
    is_begun = is_ending = False
    told = 0
    while not all(stream.ended.done() for stream in streams):
        await asyncio.sleep(LOOK_SECONDS)
        now = sum(stream.tokens for stream in streams)
        advanced(now - told)
        told = now
        if tokens and not is_begun and min(stream.tokens for stream in streams) >= begun:
            begin = end = sample()
            is_begun = True
        if tokens and is_begun and not is_ending and max(stream.tokens for stream in streams) >= nearly:
            end = sample()
            is_ending = True
    return begin, end if tokens else sample()
