"""Who may talk to Ollama now, who waits, and who is told to come back. In order of arrival."""

import asyncio
from collections import deque
from typing import Protocol

import msgspec

from mochi_server.errors import QueueFull

RETRY_AFTER_SECONDS = 5


RELOADING = ("num_batch", "num_gpu", "num_thread", "main_gpu", "use_mmap")
"""The options beside `num_ctx` of which another value has Ollama load the model anew."""


class Load(msgspec.Struct, frozen=True):
    """What a reply needs Ollama to have loaded: a model, with this `window` (num_ctx) and these values of RELOADING."""

    model: str
    window: int | None
    others: tuple[object, ...] = ()

    def fits(self, other: "Load") -> bool:
        """Whether both can be served without a reload between them."""
        return self.model != other.model or self == other


class Need(Protocol):
    """Who waits, and what it needs then: a window may have been made larger by the time."""

    def load(self) -> Load:
        """What it needs as things are."""
        ...

    def admitted(self) -> None:
        """It is let in, with what it said last."""
        ...


class Ticket:
    """A place: in the queue first, then at Ollama. Release it in the end, wherever it is."""

    def __init__(self, admission: "Admission") -> None:
        self._admission = admission
        self.load: Load | None = None
        self.admitted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done once it is its turn."""
        self._need: Need | None = None

    def need(self, need: Need) -> None:
        """Say what it needs, and be let in if it can be. Until it has said so nobody overtakes it."""
        self._need = need
        self.look()
        self._admission.admit()

    def again(self) -> None:
        """Give up the place at Ollama for the first one in the queue: what it needs has changed."""
        self.load, self._need = None, None
        self.admitted = asyncio.get_running_loop().create_future()
        self._admission.first_again(self)

    def look(self) -> None:
        """See what it needs now."""
        if self._need is not None:
            self.load = self._need.load()

    def enter(self) -> None:
        """Let it in."""
        if self._need is not None:
            self._need.admitted()
        if not self.admitted.done():  # who has left has cancelled it, and gives the place back at once
            self.admitted.set_result(None)

    @property
    def position(self) -> int | None:
        """1 is next; None at Ollama."""
        return self._admission.position(self)

    def release(self) -> None:
        """Give the place to the next. Releasing twice is releasing once."""
        self._admission.release(self)


class Admission:
    """At most `places` replies at Ollama, at most `queue` more that wait.

    Ollama serves requests of one model together, but those that need it loaded in another way wait for all that run,
    silently, and then for the reload. So whose needs do not fit with those at Ollama waits here, where it is told so.
    """

    def __init__(self, places: int, queue: int) -> None:
        self._places = places
        self._queue = queue
        self._waiting: deque[Ticket] = deque()
        self._at_ollama: set[Ticket] = set()

    @property
    def running(self) -> int:
        """How many are at Ollama."""
        return len(self._at_ollama)

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def ticket(self) -> Ticket:
        """A place at the end of the queue. Raises QueueFull where there is none."""
        self.check_room()
        ticket = Ticket(self)
        self._waiting.append(ticket)
        return ticket

    def check_room(self) -> None:
        """Raise QueueFull where `ticket` would."""
        # Who is first and has said what it needs waits for a reload to be due: nobody behind it gets a free place.
        blocked = bool(self._waiting) and self._waiting[0].load is not None
        free = 0 if blocked else self._places - len(self._at_ollama)
        if len(self._waiting) >= free + self._queue:
            raise queue_full(
                f"There is no room: replies being generated: {len(self._at_ollama)}, waiting: {len(self._waiting)} "
                "(--max-concurrent, --max-queue)."
            )

    def admit(self) -> None:
        """Let in who can be let in, in order."""
        while self._waiting and len(self._at_ollama) < self._places:
            first = self._waiting[0]
            first.look()
            load = first.load
            if load is None or not all(load.fits(other.load) for other in self._at_ollama if other.load):
                return
            self._waiting.popleft()
            self._at_ollama.add(first)
            first.enter()

    def first_again(self, ticket: Ticket) -> None:
        """Put a ticket that is at Ollama before all that wait."""
        self._at_ollama.discard(ticket)
        self._waiting.appendleft(ticket)

    def position(self, ticket: Ticket) -> int | None:
        """The ticket's place in the queue, from 1."""
        return self._waiting.index(ticket) + 1 if ticket in self._waiting else None

    def release(self, ticket: Ticket) -> None:
        """Take it out, and let in who follows."""
        if ticket in self._at_ollama:
            self._at_ollama.discard(ticket)
        elif ticket in self._waiting:
            self._waiting.remove(ticket)
        self.admit()


def queue_full(reason: str) -> QueueFull:
    """No place at Ollama, for this reason."""
    return QueueFull(f"{reason} Try again in a while.", headers={"Retry-After": str(RETRY_AFTER_SECONDS)})
