"""Replies that are in their journals, but not in their sessions' files yet: the process or the disk failed them."""

import logging

import msgspec

from mochi_server.chat.generation import complete_event
from mochi_server.domain.events import Done, Entry, Event, entry
from mochi_server.domain.messages import AssistantMessage
from mochi_server.domain.session import Session
from mochi_server.errors import MochiError, SessionNotFound, StorageUnavailable
from mochi_server.observability.logs import log
from mochi_server.store import files
from mochi_server.store.journal import ENDED, RUNNING, Kept
from mochi_server.store.sessions import SessionStore

logger = logging.getLogger(__name__)


class Unsettled:
    """Knows them, and saves them as soon as that can be done."""

    def __init__(self, store: SessionStore) -> None:
        self._store = store
        # And how their streams ended, where that is not in the journal either.
        self._sessions: dict[str, list[Entry]] = {}
        self._found = False
        """Whether it is known what an earlier process left."""

    def __contains__(self, session_id: str) -> bool:
        """Whether the session's last reply is one."""
        return session_id in self._sessions

    def __bool__(self) -> bool:
        """Whether there are any, or may be."""
        return bool(self._sessions) or not self._found

    def add(self, session_id: str, last: list[Entry]) -> None:
        """A reply could not be saved; its journal has it, but perhaps not these last events that were shown of it."""
        self._sessions[session_id] = last

    async def last(self, session_id: str) -> Kept | None:
        """What is kept of the session's last reply that has ended, with the end that its listeners heard.

        Raises OSError, StorageUnavailable where that end is still open.
        """
        journals, run = self._store.journals, self._store.threads.run
        if session_id not in self._sessions:
            return await run(journals.kept, session_id, ENDED)
        async with self._store.locked(session_id):
            last = self._sessions.get(session_id)
            kept = await run(journals.kept, session_id, ENDED if last is None else RUNNING)
        if kept is None or kept.ended:
            return kept
        if not last:
            raise StorageUnavailable(
                "The session's last reply was broken off and cannot be saved yet, so how it ended cannot be told. Make "
                "room for the sessions folder, then try again.",
                {"session_id": session_id},
            )
        return msgspec.structs.replace(kept, entries=[*kept.entries, *last])

    async def settle_all(self) -> None:
        """Try to save each of them, with what an earlier process left. What cannot be saved now is told in the log."""
        await self._find()
        for session_id in list(self._sessions):
            await self.settle(session_id)

    async def settle(self, session_id: str) -> None:
        """Try to save the session's reply, if there is one that is not saved."""
        await self._find()
        if session_id not in self._sessions:
            return
        async with self._store.locked(session_id):
            try:
                await self.settle_held(session_id)
            except MochiError as error:
                log(logger, logging.WARNING, "a reply is not saved yet", session_id=session_id, reason=error.code)

    async def settle_held(self, session_id: str) -> None:
        """As `settle`, for who holds the session. Raises SessionDamaged, StorageFull, StorageUnavailable."""
        await self._find()
        if session_id not in self._sessions:
            return
        journals, run = self._store.journals, self._store.threads.run
        try:
            kept = await run(journals.kept, session_id, RUNNING)
            if kept is None:
                await run(journals.set_aside, session_id)
            elif not kept.entries and not await self._asked(kept):
                await run(journals.give_up, session_id)
            else:
                message = await self._saved(session_id, kept)
                missing = [] if kept.ended else self._sessions[session_id] or _missing(kept, message)
                await run(journals.settle, session_id, kept, message, missing)
        except SessionNotFound:
            await run(journals.drop, session_id)
        except OSError as error:
            raise files.storage_error(error) from None
        self._sessions.pop(session_id, None)

    async def _find(self) -> None:
        if self._found:
            return
        try:
            for session_id in await self._store.threads.run(self._store.journals.unsettled):
                self._sessions.setdefault(session_id, [])
            self._found = True
        except OSError as error:
            log(logger, logging.WARNING, "the journals cannot be read", reason=files.reason(error))

    async def _asked(self, kept: Kept) -> bool:
        """Whether the process lived long enough to save what was asked."""
        session = await self._store.load(kept.head.session_id)
        return any(m.message_id == kept.head.question_id for m in (*session.path, *session.detached))

    async def _saved(self, session_id: str, kept: Kept) -> AssistantMessage | None:
        """The reply as it is in the session's file now; None where nothing was said."""
        message = kept.message()
        if message is None or kept.saved:
            return message
        reply, now = message, message.timestamp

        def added(session: Session) -> Session:
            if any(m.message_id == reply.message_id for m in (*session.path, *session.detached)):
                return session
            # Its own question, not what has been asked since, is what it answers.
            return session.answered(kept.head.question_id, reply, max(now, session.metadata.updated_at))

        await self._store.update_held(session_id, added)
        log(logger, logging.INFO, "saved a reply from its journal", session_id=session_id)
        return message


def _missing(kept: Kept, message: AssistantMessage | None) -> list[Entry]:
    """The events that the stream would have ended with, had its process not ended first."""
    events: list[Event] = []
    if message is not None and all(one.name != "message_complete" for one in kept.entries):
        events.append(complete_event(message))
    status = message.status if message is not None else "interrupted"
    events.append(Done(session_id=kept.head.session_id, generation_id=kept.head.generation_id, status=status))
    return [entry(event) for event in events]
