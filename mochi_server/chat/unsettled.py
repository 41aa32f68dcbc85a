"""Replies that are in their journals, but not in their sessions' files yet: the process or the disk failed them."""

import logging
from datetime import UTC, datetime

import msgspec

from mochi_server.chat.generation import complete_event
from mochi_server.domain.clock import timestamp
from mochi_server.domain.events import Done, Entry, Event, entry, said
from mochi_server.domain.messages import AssistantMessage
from mochi_server.domain.session import Session
from mochi_server.errors import MochiError, SessionNotFound
from mochi_server.observability.logs import log
from mochi_server.store import files
from mochi_server.store.journal import RUNNING, Kept
from mochi_server.store.sessions import SessionStore

logger = logging.getLogger(__name__)


class Unsettled:
    """Knows them, and saves them as soon as that can be done."""

    def __init__(self, store: SessionStore) -> None:
        self._store = store
        self._sessions: set[str] = set()
        self._found = False
        """Whether it is known what an earlier process left."""

    def __bool__(self) -> bool:
        """Whether there are any, or may be."""
        return bool(self._sessions) or not self._found

    def add(self, session_id: str) -> None:
        """A reply could not be saved; its journal has it."""
        self._sessions.add(session_id)

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
                await run(journals.settle, session_id, kept, message, _missing(kept, message))
        except SessionNotFound:
            await run(journals.drop, session_id)
        except OSError as error:
            raise files.storage_error(error) from None
        self._sessions.discard(session_id)

    async def _find(self) -> None:
        if self._found:
            return
        try:
            self._sessions.update(await self._store.threads.run(self._store.journals.unsettled))
            self._found = True
        except OSError as error:
            log(logger, logging.WARNING, "the journals cannot be read", reason=files.reason(error))

    async def _asked(self, kept: Kept) -> bool:
        """Whether the process lived long enough to save what was asked."""
        session = await self._store.load(kept.head.session_id)
        return any(m.message_id == kept.head.question_id for m in (*session.path, *session.detached))

    async def _saved(self, session_id: str, kept: Kept) -> AssistantMessage | None:
        """The reply as it is in the session's file now; None where nothing was said."""
        message = _message(kept)
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


def _message(kept: Kept) -> AssistantMessage | None:
    """The reply that the journal's events make: as it ended, or as it was when its process died."""
    content, thinking = said(kept.entries)
    reply = kept.ending
    if reply is None:
        if not content and not thinking:
            return None
        written = timestamp(datetime.fromtimestamp(kept.written_at, UTC))
        reply = msgspec.structs.replace(kept.head.reply, status="interrupted", done_reason="crashed", timestamp=written)
    return msgspec.structs.replace(reply, content=content, thinking=thinking or None)


def _missing(kept: Kept, message: AssistantMessage | None) -> list[Entry]:
    """The events that the stream would have ended with, and did not."""
    if kept.ended:
        return []
    events: list[Event] = []
    if message is not None and all(one.name != "message_complete" for one in kept.entries):
        events.append(complete_event(message))
    status = message.status if message is not None else "interrupted"
    events.append(Done(session_id=kept.head.session_id, generation_id=kept.head.generation_id, status=status))
    return [entry(event) for event in events]
