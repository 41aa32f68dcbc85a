"""What is on the disk, read without the server."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mochi_server.domain import session_file
from mochi_server.domain.messages import AssistantMessage, Message
from mochi_server.domain.session import Session
from tests.crash.known import History, Said, Violation
from tests.crash.talker import first_word

_WORD = re.compile(rb"word-[0-9a-f]{10}")


@dataclass(frozen=True)
class Found:
    """One session as its file has it. `ids` are the message ids by first words."""

    word: str
    session_id: str
    title: str | None
    history: History
    revision: str
    ids: dict[str, str]
    messages: list[str]
    """The ids of the active path, a system prompt's first."""


def sessions(folder: Path) -> Iterator[Found | Violation]:
    """All that are in the folder. What cannot be read is a violation."""
    for path in sorted(folder.glob("*.json")):
        data = path.read_bytes()
        try:
            session = session_file.decode(data)
        except session_file.DamagedFile as error:
            yield Violation(f"{path.name} ({len(data)} bytes) cannot be read: {error}")
            continue
        spoken = {word.decode() for word in _WORD.findall(data)}
        if len(spoken) != 1 or session.metadata.session_id != path.stem:
            yield Violation(f"{path.name} is of {session.metadata.session_id} and has the words {sorted(spoken)}")
            continue
        yield _found(session, spoken.pop())


def words(folder: Path) -> dict[str, set[str]]:
    """Which words stand in which files below the folder, whatever kind of files these are."""
    found: dict[str, set[str]] = {}
    for path in folder.rglob("*"):
        if path.is_file():
            for word in _WORD.findall(path.read_bytes()):
                found.setdefault(word.decode(), set()).add(path.relative_to(folder).as_posix())
    return found


def leftovers(folder: Path) -> list[str]:
    """What a start should have cleaned up."""
    unwanted = {".tmp", ".running"}
    return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.suffix in unwanted]


def _found(session: Session, word: str) -> Found:
    every = [*session.messages, *session.detached]
    names = {message.message_id: _name(message) for message in every}
    if len(set(names.values())) != len(every):
        raise Violation(f"{session.metadata.session_id} has a message twice: {sorted(names.values())}")
    return Found(
        word=word,
        session_id=session.metadata.session_id,
        title=session.metadata.title,
        history=History(
            system=session.system.content if session.system else None,
            path=tuple(_said(message, names) for message in session.path),
            off=frozenset(_said(message, names) for message in session.detached),
        ),
        revision=session.metadata.revision,
        ids={name: message_id for message_id, name in names.items()},
        messages=[message.message_id for message in session.messages],
    )


def _name(message: Message) -> str:
    return first_word(_thinking(message), message.content)


def _thinking(message: Message) -> str:
    return (message.thinking or "") if isinstance(message, AssistantMessage) else ""


def _said(message: Message, names: dict[str, str]) -> Said:
    ending = f"{message.status} {message.done_reason}" if isinstance(message, AssistantMessage) else ""
    role = str(message.__struct_config__.tag)
    parent = names.get(message.parent_id, message.parent_id) if message.parent_id else None
    return Said(_name(message), role, message.content, parent, _thinking(message), ending)
