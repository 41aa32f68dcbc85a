"""The moment before a reply: its question, its turn and its journal are made ready, then the question is saved."""

import contextlib
from collections.abc import Callable
from datetime import UTC, datetime

from mochi_server.chat.turn import Ask, Turn
from mochi_server.domain.clock import timestamp
from mochi_server.domain.messages import UserMessage
from mochi_server.domain.session import Session
from mochi_server.errors import EmptyHistory
from mochi_server.store.journal import Journal, Journals
from mochi_server.store.sessions import new_id


class Start:
    """A reply that is about to begin: made ready in a thread, with its journal, before its question is saved."""

    def __init__(self, session_id: str, ask: Ask, turn: Callable[[Session, Ask], Turn], journals: Journals) -> None:
        self.generation_id = new_id()
        self.ask = ask
        self.begun = False
        self.journal: Journal | None = None
        self._turn: Turn | None = None
        self._make_turn = turn
        self._session_id = session_id
        self._journals = journals

    def prepared(self, session: Session) -> Session:
        """The session with what is asked. Blocks. Raises EmptyHistory, OSError."""
        asked = with_question(session, self.ask)
        self._turn = self._make_turn(asked, self.ask)
        if self.journal is None:
            self.journal = self._journals.open(self._session_id)
        self.journal.begin(self._turn.head(self.generation_id))
        return asked

    def ready(self) -> tuple[Turn, Journal]:
        """What was prepared. From now on the reply is on its way."""
        if self._turn is None or self.journal is None:
            raise RuntimeError("it was not prepared")
        self.begun = True
        return self._turn, self.journal

    def abandon(self) -> None:
        """Leave nothing behind. Blocks."""
        if self.journal is not None:
            with contextlib.suppress(OSError):
                self._journals.discard(self.journal)


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
    if isinstance(head, UserMessage) and head.content == ask.message and not head.images:
        return session
    now = timestamp(datetime.now(UTC))
    return session.append(UserMessage(content=ask.message, message_id=new_id(), timestamp=now), now)
