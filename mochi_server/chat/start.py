"""The moment before a reply: its question, its turn and its journal are made ready, then the question is saved."""

import contextlib
import time
from collections.abc import Callable
from datetime import UTC, datetime

import msgspec

from mochi_server.chat.admission import Ticket
from mochi_server.chat.images import SightUnknown, check_there, to_be_shown
from mochi_server.chat.prompt import Ask, turned_to
from mochi_server.chat.repeats import Key
from mochi_server.chat.turn import Turn
from mochi_server.domain.clock import timestamp
from mochi_server.domain.messages import AssistantMessage, Message, ToolMessage, UserMessage
from mochi_server.domain.session import Metadata, Session
from mochi_server.errors import EmptyHistory, ValidationFailed
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

        Raises EmptyHistory, ValidationFailed, SightUnknown, ImageNotFound, OSError.
        """
        asked = with_question(session, self.ask)
        turned = turned_to(asked, self.ask)
        self._store_images(turned)
        # The history has them: their bytes are not to be held while the reply waits for its turn.
        self._turn = self._make_turn(turned, msgspec.structs.replace(self.ask, images=()))
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
        if not (shown := to_be_shown(asked, self.ask)):
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


def unkept_session() -> Session:
    """A session without a model that no file will ever have, and under an id that no other can have."""
    now = timestamp(datetime.now(UTC))
    metadata = Metadata(session_id=f"unkept-{new_id()}", model="", created_at=now, updated_at=now)
    return Session(metadata=metadata)


def with_question(session: Session, ask: Ask) -> Session:
    """The session with what is asked as its last message.

    Raises EmptyHistory, ValidationFailed. A message equal to the last one, still unanswered, is a second try and is not
    added twice.
    """
    if ask.added:
        return _with_added(session, ask.added)
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


def _with_added(session: Session, added: tuple[Message, ...]) -> Session:
    """The session with these messages behind its head.

    Who repeats a request has not had its answer: messages with which the path ends, with no reply behind them or one
    that was broken off, are not added twice. Raises ValidationFailed for the result of a tool that was never called.
    """
    path = session.path
    if isinstance(session.head, AssistantMessage) and session.head.status == "interrupted":
        path = path[:-1]
    replies = (place for place in range(len(path), 0, -1) if isinstance(path[place - 1], AssistantMessage))
    unanswered = path[next(replies, 0) :]
    overlaps = range(min(len(unanswered), len(added)), 0, -1)
    known = next((n for n in overlaps if all(map(_is_repeated, unanswered[-n:], added[:n]))), 0)
    if known:
        session = session.taken_back_to(path[-1].message_id)
    new = [_of_tool(message, session) for message in added[known:]]
    return session.extend(new, timestamp(datetime.now(UTC))) if new else session


def _is_repeated(said: Message, again: Message) -> bool:
    match said, again:
        case UserMessage(), UserMessage():
            return (said.content, said.images) == (again.content, again.images)
        case ToolMessage(), ToolMessage():
            return (said.content, said.tool_call_id) == (again.content, again.tool_call_id)
    return False


def _of_tool(message: Message, session: Session) -> Message:
    """The message; a tool's result with the tool's name, if it has none."""
    if not isinstance(message, ToolMessage) or message.tool_name is not None:
        return message
    name = session.called(message.tool_call_id or "")
    if name is None:
        raise ValidationFailed(
            f"No tool was called under the id {(message.tool_call_id or '')[:100]!r} whose result this could be.",
            {"path": "$.messages"},
        )
    return msgspec.structs.replace(message, tool_name=name)
