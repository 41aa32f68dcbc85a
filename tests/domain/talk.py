"""Sessions and messages for tests, made by hand."""

from datetime import UTC, datetime, timedelta

from mochi_server.domain.clock import timestamp
from mochi_server.domain.messages import AssistantMessage, Message, SystemMessage, UserMessage
from mochi_server.domain.session import Metadata, Session

SESSION_ID = "0123456789"


def at(second: int) -> str:
    """The timestamp of that second of the test's day."""
    return timestamp(datetime(2026, 1, 31, 9, tzinfo=UTC) + timedelta(seconds=second))


def new_session(session_id: str = SESSION_ID, model: str = "tiny", second: int = 0) -> Session:
    """A session without messages."""
    now = at(second)
    return Session(metadata=Metadata(session_id=session_id, model=model, created_at=now, updated_at=now))


def user(name: str, content: str | None = None, second: int = 0) -> UserMessage:
    """A user's message; its id and, unless another is given, its content are the name."""
    return UserMessage(content=name if content is None else content, message_id=name, timestamp=at(second))


def reply(name: str, content: str | None = None, second: int = 0) -> AssistantMessage:
    """A reply, named as `user` does."""
    return AssistantMessage(content=name if content is None else content, message_id=name, timestamp=at(second))


def system(name: str, second: int = 0) -> SystemMessage:
    """A system prompt, named as `user` does."""
    return SystemMessage(content=name, message_id=name, timestamp=at(second))


def conversation(*names: str, session_id: str = SESSION_ID) -> Session:
    """A session whose active path has these messages, a second apart: user and reply in turn."""
    session = new_session(session_id)
    for second, name in enumerate(names):
        message = reply(name, second=second) if second % 2 else user(name, second=second)
        session = session.append(message, at(second))
    return session


def ids(messages: tuple[Message, ...]) -> list[str]:
    """The messages' ids, in order."""
    return [message.message_id for message in messages]
