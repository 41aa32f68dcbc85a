"""Listening to a reply that somebody else asked for: one that runs, or the last one that has ended."""

from collections.abc import Awaitable, Callable

import msgspec

from mochi_server.chat.generation import Generation, Listener
from mochi_server.chat.replay import from_journal
from mochi_server.chat.unsettled import Unsettled
from mochi_server.errors import NoGeneration, ValidationFailed
from mochi_server.store.files import storage_error
from mochi_server.store.journal import Kept
from mochi_server.store.sessions import SessionStore


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """The last event that a client has: its reply's id, its number, and which part of the request says so."""

    generation_id: str
    number: int
    told_in: str


class Joining:
    """Finds replies to listen to. `begun` knows a session's running one."""

    def __init__(
        self, store: SessionStore, unsettled: Unsettled, begun: Callable[[str], Awaitable[Generation | None]]
    ) -> None:
        self._store = store
        self._unsettled = unsettled
        self._begun = begun

    async def last(self, session_id: str, after: Known | None) -> Listener | None:
        """Listen to the session's running reply, or to its last one, from its first event on or behind one that is
        known. None behind the last event of one that has ended.

        Raises what loading raises, NoGeneration, ValidationFailed for an event that there never was.
        """
        await self._unsettled.settle(session_id)
        revision = (await self._store.load(session_id)).metadata.revision
        if (generation := await self._begun(session_id)) is not None:
            return generation.subscribe(_seen(after, session_id, generation.id, len(generation.log)))
        kept = await self._kept(session_id)
        if kept is None:
            raise _no_generation(session_id)
        seen = _seen(after, session_id, kept.head.generation_id, len(kept.entries))
        return None if seen == len(kept.entries) else from_journal(kept, revision, seen)

    async def reply(self, session_id: str, generation_id: str) -> Listener | None:
        """Listen to this reply, if it runs or its journal is kept."""
        if (generation := await self._begun(session_id)) is not None and generation.id == generation_id:
            return generation.subscribe()
        kept = await self._kept(session_id)
        if kept is None or kept.head.generation_id != generation_id:
            return None
        return from_journal(kept, (await self._store.load(session_id)).metadata.revision)

    async def _kept(self, session_id: str) -> Kept | None:
        """What is kept of the session's last reply that has ended."""
        try:
            return await self._unsettled.last(session_id)
        except OSError as error:
            raise storage_error(error) from None


def _no_generation(session_id: str) -> NoGeneration:
    return NoGeneration(
        "No such reply runs in this session, and its last one is another. Listen without an event's id to hear that "
        "one, or GET the session.",
        {"session_id": session_id},
    )


def _seen(after: Known | None, session_id: str, generation_id: str, shown: int) -> int:
    """How many events of this reply the client has. Raises NoGeneration, ValidationFailed."""
    if after is None:
        return 0
    if after.generation_id != generation_id:
        raise _no_generation(session_id)
    if after.number > shown:
        raise ValidationFailed(f"{after.told_in}: the reply has no event {after.number} yet.", {"path": after.told_in})
    return after.number
