"""What a client is told while nothing can flow yet: told from what Ollama shows, and from what runs there for us."""

import asyncio
from collections.abc import Callable, Iterable

from mochi_server.chat.generation import Generation
from mochi_server.chat.windows import Windows
from mochi_server.domain.events import Phase, StatusEvent

SECOND = 1.0
"""No more than one event a second. Ollama is not asked in a reply's first: nearly all begin by then."""

A_MOMENT = 0.1
"""Who is in the queue for less is not told so."""


class Phases:
    """Tells the phases of replies that wait. Ollama is asked only while one does, once a second for all of them."""

    def __init__(self, windows: Windows, running: Callable[[], Iterable[Generation]]) -> None:
        self._windows = windows
        self._running = running
        self._telling: set[asyncio.Task[None]] = set()

    def watch(self, generation: Generation) -> asyncio.TimerHandle:
        """Begin to tell, should there be no token by then. Cancel what is returned once there is."""
        delay = SECOND if generation.ticket.position is None else A_MOMENT
        return asyncio.get_running_loop().call_later(delay, self._begin, generation)

    def _begin(self, generation: Generation) -> None:
        task = asyncio.get_running_loop().create_task(self._tell(generation))
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    async def _tell(self, generation: Generation) -> None:
        if generation.ticket.position is None:
            await asyncio.sleep(SECOND - generation.age_ms() / 1000)
        while _waits(generation):
            phase = await self._phase(generation)
            if not _waits(generation):
                return  # its first token came while we looked
            generation.tell(StatusEvent(phase, generation.age_ms(), generation.ticket.position))
            await asyncio.sleep(SECOND)

    async def _phase(self, generation: Generation) -> Phase:
        if generation.ticket.position is not None:
            return "queued"
        load = generation.ticket.load
        loaded = await self._windows.loaded()
        if load is None or loaded is None:
            return "waiting"
        mine = next((one for one in loaded if one.is_called(load.model)), None)
        if mine is None:
            return "loading"
        if load.window is not None and mine.window not in {None, load.window}:
            return "waiting"  # for whoever has it loaded in another way
        return "waiting" if any(_before(other, generation) for other in self._running()) else "prefill"


def _waits(generation: Generation) -> bool:
    return generation.running and generation.phase != "generating" and not generation.upstream.cancel_called


def _before(other: Generation, generation: Generation) -> bool:
    """Whether this other reply is at Ollama with the same model, and came first."""
    theirs, ours = other.ticket.load, generation.ticket.load
    same = theirs is not None and ours is not None and theirs.model == ours.model
    return same and other is not generation and other.ticket.position is None and other.began <= generation.began
