"""The moment before a reply: its question, its turn and its journal are made ready, then the question is saved."""

import contextlib
import time
from collections.abc import Callable
from datetime import UTC, datetime

import msgspec

from mochi_server.chat.admission import Ticket
from mochi_server.chat.images import SightUnknown, check_there, to_be_shown
from mochi_server.chat.prompt import Ask
from mochi_server.chat.repeats import Key
from mochi_server.chat.turn import Turn
from mochi_server.domain.clock import timestamp
from mochi_server.domain.messages import UserMessage
from mochi_server.domain.session import Session
from mochi_server.errors import EmptyHistory
from mochi_server.store.journal import Journal
from mochi_server.store.keys import Used
from mochi_server.store.sessions import SessionStore, new_id


class Start:
    """A reply about to begin: made ready in a thread, with its images, journal and key, before its question is saved.

    `seeing` is the model that may be shown images: it sees them, or nobody can tell.
    """

    def __init__(
        self,
        session_id: str,
        ask: Ask,
        key: Key | None,
        ticket: Ticket,
        turn: Callable[[Session, Ask], Turn],
        store: SessionStore,
        seeing: str | None,
    ) -> None:
        self.generation_id = new_id()
        self.ask = ask
        self.ticket = ticket
        self.begun = False
        self.held: frozenset[str] = frozenset()
        """The images that are held for it."""
        self._key = key
        self._used: Used | None = None
        self._turn: Turn | None = None
        self._journal: Journal | None = None
        self._make_turn = turn
        self._session_id = session_id
        self._store = store
        self._seeing = seeing

    def prepared(self, session: Session) -> Session:
        """The session with what is asked, its images stored. Blocks.

        Raises EmptyHistory, SightUnknown, ImageNotFound, OSError.
        """
        asked = with_question(session, self.ask)
        self._store_images(asked)
        # The history has them: their bytes are not to be held while the reply waits for its turn.
        self._turn = self._make_turn(asked, msgspec.structs.replace(self.ask, images=()))
        head = self._turn.head(self.generation_id)
        if self._journal is None:
            self._journal = self._store.journals.open(self._session_id)
        self._journal.begin(head)
        if self._key is not None:
            self._used = Used(
                key=self._key.key,
                body=self._key.body,
                session_id=self._session_id,
                generation_id=self.generation_id,
                question_id=head.question_id,
                message_id=head.reply.message_id,
                at=time.time(),
            )
            self._store.keys.add(self._key.scope, self._used)
        return asked

    def _store_images(self, asked: Session) -> None:
        if not (shown := to_be_shown(asked, self.ask.history_limit)):
            return
        if asked.metadata.model != self._seeing:
            raise SightUnknown(asked.metadata.model, shown)
        check_there(shown, self._store.images, {image.reference for image in self.ask.images})
        if self.ask.images and not self.held:
            self.held = frozenset(image.digest for image in self.ask.images)
            self._store.images.hold(self.held)
            self._store.images.put(self.ask.images)

    def ready(self) -> tuple[Turn, Journal]:
        """What was prepared. From now on the reply is on its way."""
        if self._turn is None or self._journal is None:
            raise RuntimeError("it was not prepared")
        self.begun = True
        return self._turn, self._journal

    def abandon(self) -> None:
        """Leave nothing behind. Blocks."""
        with contextlib.suppress(OSError):
            if self._journal is not None:
                self._store.journals.discard(self._journal)
        with contextlib.suppress(OSError):
            if self._key is not None and self._used is not None:
                self._store.keys.remove(self._key.scope, self._used)


def with_question(session: Session, ask: Ask) -> Session:
    """The session with what is asked as its last message.

    Raises EmptyHistory. A message equal to the last one, still unanswered, is a second try and is not added twice.
    """
    if ask.message is None:
        if session.last_user() is None:
            raise EmptyHistory(
                "There is no user message to answer in this session. Send one in `message`.",
                {"session_id": session.metadata.session_id},
            )
        return session
    head = session.head
    images = tuple(image.reference for image in ask.images)
    if isinstance(head, UserMessage) and head.content == ask.message and (head.images or ()) == images:
        return session
    now = timestamp(datetime.now(UTC))
    asked = UserMessage(content=ask.message, images=images or None, message_id=new_id(), timestamp=now)
    return session.append(asked, now)
