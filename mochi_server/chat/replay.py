"""A reply that has ended, listened to once more: from its journal, or from its saved message."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from functools import partial

import msgspec

from mochi_server.chat.generation import Outcome, Taker, complete_event
from mochi_server.domain.events import ContentDelta, Done, Entry, ErrorEvent, Event, ThinkingDelta, entry
from mochi_server.domain.messages import AssistantMessage
from mochi_server.errors import Retold
from mochi_server.store.journal import Kept

_errors = msgspec.json.Decoder(ErrorEvent)


class Replay:
    """A Listener to what is over."""

    def __init__(
        self,
        session_id: str,
        generation_id: str,
        revision: str,
        entries: list[Entry],
        outcome: Callable[[], Outcome],
        after: int = 0,
    ) -> None:
        self.session_id = session_id
        self.generation_id = generation_id
        self.revision = revision
        self._entries = entries
        self._outcome = outcome
        self._after = after

    async def batches(
        self,
        most: int = 256,
        at_once: Taker | None = None,  # noqa: ARG002 - nothing more comes
    ) -> AsyncGenerator[tuple[int, list[Entry]], None]:
        """As Listener has it."""
        for start in range(self._after, len(self._entries), most):
            yield start + 1, self._entries[start : start + most]
            await asyncio.sleep(0)  # a client as fast as this would keep all others waiting

    async def ended(self) -> Outcome:
        """As Listener has it."""
        return self._outcome()

    def close(self) -> None:
        """As Listener has it: nobody waits for who listens to what is over."""


def from_journal(kept: Kept, revision: str, after: int = 0) -> Replay:
    """The reply as its journal has it. All listeners to it hold the same."""
    return Replay(kept.head.session_id, kept.head.generation_id, revision, kept.entries, partial(_outcome, kept), after)


def from_message(session_id: str, generation_id: str, revision: str, message: AssistantMessage) -> Replay:
    """The reply as its saved message has it, its words in one delta."""
    events: list[Event] = []
    if message.thinking:
        events.append(ThinkingDelta(message.thinking))
    if message.content:
        events.append(ContentDelta(message.content))
    done = Done(session_id=session_id, generation_id=generation_id, status=message.status)
    entries = [entry(event) for event in (*events, complete_event(message), done)]
    outcome = Outcome(message=message, revision=revision)
    return Replay(session_id, generation_id, revision, entries, lambda: outcome)


def _outcome(kept: Kept) -> Outcome:
    for one in reversed(kept.entries):
        if one.name == "error":
            told = _errors.decode(one.data)
            return Outcome(failure=Retold(told.code, told.message, told.details))
    return Outcome(message=kept.message())
