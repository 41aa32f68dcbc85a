"""One running reply: its events, its subscribers, and how it is told to stop.

Whoever subscribes gets every event from the first one on, at their own pace; nobody waits for anybody.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterable
from typing import Literal, Protocol

import anyio
import msgspec

from mochi_server.chat.admission import Ticket
from mochi_server.domain.context_window import context_window
from mochi_server.domain.event_log import EventLog
from mochi_server.domain.events import Done, Entry, ErrorEvent, Event, MessageComplete, Phase, StatusEvent, entry
from mochi_server.domain.messages import AssistantMessage
from mochi_server.errors import MochiError
from mochi_server.store.files import storage_error
from mochi_server.store.journal import Head

OnDisconnect = Literal["cancel", "continue"]
StopReason = Literal["stopped", "disconnected", "superseded", "shutdown", "length"]

Taker = Callable[[int, list[Entry]], bool]
"""Takes consecutive events, of which the first has this number, without waiting; or says that it cannot now."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How a reply ended: the message that was saved, if one was, under which revision of the session and in place of
    which, and the failure, if there was one. One that is not `settled` could not be saved: its journal has it.
    """

    message: AssistantMessage | None = None
    revision: str | None = None
    replaced: str | None = None
    failure: MochiError | None = None
    settled: bool = True


class Stopped(msgspec.Struct, frozen=True, kw_only=True):
    """What a stop did; nulls where there was nothing to stop, or nothing to keep."""

    stopped: bool
    generation_id: str | None = None
    message_id: str | None = None


class Keeping(Protocol):
    """Where a reply goes beside its listeners."""

    def begin(self, head: Head) -> None:
        """Keep what the reply is known by. Raises OSError."""
        ...

    @property
    def append(self) -> Callable[[Iterable[Entry]], None]:
        """Keeps events, before they are shown: all of them, or none. Raises OSError."""
        ...

    def read_image(self, reference: str) -> bytes | None:
        """The bytes of an image that is shown for it; None where they are not there. Blocks. Raises OSError."""
        ...

    async def save(self, message: AssistantMessage, failure: MochiError | None) -> Outcome:
        """Keep the message. `failure` is why it is not whole; how the reply ended is what comes of both."""
        ...

    async def end(self, outcome: Outcome, last: list[Entry]) -> None:
        """Keep how it ended, and these last events. Raises nothing."""
        ...


class Generation:
    """A reply from its start to its `done`, owned by the application and not by the request that asked for it.

    One that is only made for its listeners is stopped when the last of them has been away for `grace` seconds.
    """

    def __init__(
        self,
        *,
        generation_id: str,
        session_id: str,
        parent_id: str,
        revision: str,
        keeping: Keeping,
        ticket: Ticket,
        on_disconnect: OnDisconnect,
        correlation_id: str,
        began: float,
        grace: float,
    ) -> None:
        self.id = generation_id
        self.session_id = session_id
        self.parent_id = parent_id
        """The user message that is answered."""
        self.revision = revision
        """The session's, with that message saved."""
        self.keeping = keeping
        self.ticket = ticket
        """Its place in the queue, or at Ollama."""
        self.on_disconnect: OnDisconnect = on_disconnect
        self.correlation_id = correlation_id
        self.began = began
        self.phase: Phase = "queued"
        self.stop_reason: StopReason | None = None
        self.outcome: Outcome | None = None
        self.failure: MochiError | None = None
        """Why no more of it can be kept, and so no more of it is shown."""
        self.log = EventLog()
        self.upstream = anyio.CancelScope()
        """Around everything that waits for Ollama; what saves the reply is outside of it."""
        self._listeners = 0
        self._waiting: set[_Reader] = set()
        self._grace = grace
        # Asked for once: it costs a system call on some versions of Python.
        self._loop = asyncio.get_running_loop()
        self._leaving: asyncio.TimerHandle | None = None
        self._ended: asyncio.Event | None = None  # made for who waits: most listen, and it would be a KB for each

    @property
    def running(self) -> bool:
        """Whether its `done` is still to come."""
        return self.outcome is None

    def age_ms(self) -> int:
        """Milliseconds since it was asked for."""
        return round((time.monotonic() - self.began) * 1000)

    @property
    def abandoned(self) -> bool:
        """Whether nobody listens to a reply that is only made for listeners."""
        return self.on_disconnect == "cancel" and self._listeners == 0

    def publish(self, entries: list[Entry]) -> None:
        """Keep the events, then log them and give them to who waits for them.

        Where they cannot be kept the reply ends: nothing is shown that is not kept.
        """
        if self.failure is None:
            try:
                self.keeping.append(entries)
            except OSError as error:
                self.failure = storage_error(error)
                self.upstream.cancel()
                return
            self.log.extend(entries)
            for reader in self._waiting:
                reader.shown(entries)

    def tell(self, event: StatusEvent) -> None:
        """Say why nothing flows yet."""
        self.phase = event.phase
        self.publish([entry(event)])

    def last_words(self, outcome: Outcome) -> list[Entry]:
        """The events of the end: the failure or the message that was saved, then `done`."""
        status: Literal["complete", "interrupted", "error"] = "interrupted"
        last: list[Event] = []
        if outcome.failure is not None:
            status = "error"
            last.append(error_event(outcome.failure, self.correlation_id))
        elif outcome.message is not None:
            status = outcome.message.status
            last.append(complete_event(outcome.message))
        done = Done(session_id=self.session_id, generation_id=self.id, status=status)
        return [entry(event) for event in (*last, done)]

    def finish(self, outcome: Outcome, last: list[Entry]) -> None:
        """Show the last events, which are kept already where that could be done."""
        self.outcome = outcome
        self._forget_leaving()
        self.log.extend(last)
        for reader in self._waiting:
            reader.wake()
        if self._ended is not None:
            self._ended.set()

    def stop(self, reason: StopReason) -> None:
        """Ask Ollama for no more. What has come is saved by the reply's own task; the first reason holds."""
        if self.stop_reason is None and self.running:
            self.stop_reason = reason
            self.upstream.cancel()

    async def ended(self) -> Outcome:
        """Wait for the end, the save included."""
        if self.outcome is None:
            self._ended = self._ended or asyncio.Event()
            await self._ended.wait()
        return self.outcome or Outcome()

    def subscribe(self, after: int = 0) -> "Subscription":
        """Listen, from the event behind the one with this number on."""
        self._listeners += 1
        self._forget_leaving()
        return Subscription(self, after)

    async def _wait(self, reader: "_Reader") -> None:
        """Until there is what the reader has not seen and could not take at once, or the end."""
        reader.waiter = self._loop.create_future()
        self._waiting.add(reader)
        try:
            await reader.waiter
        finally:
            self._waiting.discard(reader)

    def _left(self) -> None:
        self._listeners -= 1
        if self.abandoned and self.running:
            self._leaving = self._loop.call_later(self._grace, self.stop, "disconnected")

    def _forget_leaving(self) -> None:
        if self._leaving is not None:
            self._leaving.cancel()
            self._leaving = None


class Listener(Protocol):
    """Who hears a reply's events, of one that runs or of one that has ended."""

    generation_id: str
    session_id: str
    revision: str
    """The session's, as far as it was saved when the listening began."""

    def batches(self, most: int = 256, at_once: Taker | None = None) -> AsyncGenerator[tuple[int, list[Entry]], None]:
        """The events in order, each once: those that are ready together, with the sequence number of the first.

        What comes while this is waited for is given to `at_once`, and here what that does not take: so no task wakes
        up for each event.
        """
        ...

    async def ended(self) -> Outcome:
        """Wait for the end, the save included."""
        ...

    def close(self) -> None:
        """Leave. Leaving twice is leaving once."""
        ...


class _Reader:
    """How far somebody is in a generation's log, and how to reach them while they wait for more."""

    __slots__ = ("_at_once", "seen", "waiter")

    def __init__(self, seen: int, at_once: Taker | None) -> None:
        self.seen = seen
        self.waiter: asyncio.Future[None] | None = None
        self._at_once = at_once

    def shown(self, entries: list[Entry]) -> None:
        """There is more: events right behind what was seen, unless they have been woken for earlier ones."""
        waiter = self.waiter
        if waiter is None or waiter.done():
            return
        try:
            taken = self._at_once is not None and self._at_once(self.seen + 1, entries)
        except Exception:  # noqa: BLE001 - whoever listens, the reply goes on; their own task meets the bug again
            taken = False
        if taken:
            self.seen += len(entries)
        else:
            waiter.set_result(None)

    def wake(self) -> None:
        """See for yourself."""
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)


class Subscription:
    """One listener's place in a running generation's events, behind those that it knows already."""

    def __init__(self, generation: Generation, after: int) -> None:
        self.generation_id = generation.id
        self.session_id = generation.session_id
        self.revision = generation.revision
        self._generation = generation
        self._after = after
        self._open = True

    async def batches(
        self, most: int = 256, at_once: Taker | None = None
    ) -> AsyncGenerator[tuple[int, list[Entry]], None]:
        """As Listener has it. Who is slow is behind in the log, and nobody else is."""
        generation, reader = self._generation, _Reader(self._after, at_once)
        while generation.running or reader.seen < len(generation.log):
            if reader.seen >= len(generation.log):
                await generation._wait(reader)  # noqa: SLF001 - the two are one mechanism
                continue
            batch = generation.log.behind(reader.seen, most)
            yield reader.seen + 1, batch
            reader.seen += len(batch)
            if len(batch) == most:
                await asyncio.sleep(0)  # far behind: who catches up must not keep all others waiting

    async def ended(self) -> Outcome:
        """As Listener has it."""
        return await self._generation.ended()

    def close(self) -> None:
        """As Listener has it."""
        if self._open:
            self._open = False
            self._generation._left()  # noqa: SLF001 - as above


def complete_event(message: AssistantMessage) -> MessageComplete:
    """A saved message as a stream tells it."""
    return MessageComplete(
        message_id=message.message_id,
        model=message.model,
        eval_count=message.eval_count,
        prompt_eval_count=message.prompt_eval_count,
        done_reason=message.done_reason,
        status=message.status,
        stats=message.stats,
        context_window=context_window(message),
        model_digest=message.model_digest,
        options=message.options,
        context=message.context,
    )


def error_event(error: MochiError, correlation_id: str) -> ErrorEvent:
    """A failure as a stream tells it."""
    return ErrorEvent(code=error.code, message=error.message, details=error.details, correlation_id=correlation_id)
