"""Where a reply is kept, while it comes and in the end: in its session, or nowhere."""

import contextlib
from collections.abc import Iterable

import msgspec

from mochi_server.chat.generation import Outcome
from mochi_server.chat.upkeep import Upkeep
from mochi_server.domain.events import Entry
from mochi_server.domain.images import Image
from mochi_server.domain.messages import AssistantMessage
from mochi_server.domain.session import Session
from mochi_server.errors import MochiError, SessionDamaged, StorageFull, StorageUnavailable
from mochi_server.store.journal import Head, Journal
from mochi_server.store.sessions import SessionStore


class InSession:
    """A Keeping: the events in the session's journal, the message in its file, as the answer to `parent_id`."""

    def __init__(self, session_id: str, parent_id: str, journal: Journal, store: SessionStore, upkeep: Upkeep) -> None:
        self._session_id = session_id
        self._parent_id = parent_id
        self._journal = journal
        self.append = journal.append
        """As Keeping has it: bound here, so that a token takes no way round."""
        self._store = store
        self._upkeep = upkeep
        upkeep.begin()

    def begin(self, head: Head) -> None:
        """As Keeping has it."""
        self._journal.begin(head)

    def read_image(self, reference: str) -> bytes | None:
        """As Keeping has it."""
        return self._store.images.read(reference)

    async def save(self, message: AssistantMessage, failure: MochiError | None) -> Outcome:
        """As Keeping has it."""
        with contextlib.suppress(OSError):
            # Should the save fail, or the process end here, the journal has all of it.
            self._journal.ending(message)
        replaced = ""

        def answered(session: Session) -> Session:
            nonlocal replaced
            replaced = session.metadata.revision
            return session.answered(self._parent_id, message, message.timestamp)

        try:
            session = await self._store.update(self._session_id, answered)
        except (StorageFull, StorageUnavailable) as error:
            error.message += " What was shown of the reply is kept beside the sessions, and added as soon as it can be."
            return Outcome(failure=error, settled=False)
        except SessionDamaged as error:
            error.message += " The reply is kept beside the sessions, and added once the file is mended."
            return Outcome(failure=error, settled=False)
        except MochiError as error:
            return Outcome(failure=error)
        if failure is not None:
            failure.message += " What had come is kept."
            failure.details["message_id"] = message.message_id
        saved = msgspec.structs.replace(message, parent_id=self._parent_id)
        return Outcome(message=saved, revision=session.metadata.revision, replaced=replaced, failure=failure)

    async def end(self, outcome: Outcome, last: list[Entry]) -> None:
        """As Keeping has it."""
        await self._upkeep.end(self._session_id, self._journal, outcome, last)


class Nowhere:
    """A Keeping that keeps nothing: who asked has the reply, and nobody else ever will. The images came with it."""

    def __init__(self, images: Iterable[Image]) -> None:
        self._images = {image.reference: image.data for image in images}

    def begin(self, head: Head) -> None:
        """As Keeping has it."""

    def append(self, entries: Iterable[Entry]) -> None:
        """As Keeping has it."""

    def read_image(self, reference: str) -> bytes | None:
        """As Keeping has it."""
        return self._images.get(reference)

    async def save(self, message: AssistantMessage, failure: MochiError | None) -> Outcome:
        """As Keeping has it."""
        return Outcome(message=message, failure=failure)

    async def end(self, outcome: Outcome, last: list[Entry]) -> None:
        """As Keeping has it."""
