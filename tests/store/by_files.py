"""What a list and a search are to answer, found out from the session files alone, with nothing of ours."""

import json
import unicodedata
from pathlib import Path
from typing import Any

from mochi_server.store.sessions import SessionStore
from tests.store.opened import saying, summaries

Line = tuple[str, str | None, str, int, str]
"""A session's id, title, `updated_at`, number of messages, and last message."""


def sessions_in(folder: Path) -> list[Any]:
    """The content of all files, newest first."""
    sessions = [json.loads(path.read_text("utf-8")) for path in folder.glob("*.json")]
    return sorted(sessions, key=lambda s: (s["metadata"]["updated_at"], s["metadata"]["session_id"]), reverse=True)


def list_of(folder: Path) -> list[Line]:
    """What the list is to show, where the last messages are single lines."""
    return [line(session) for session in sessions_in(folder)]


def line(session: Any) -> Line:
    metadata, messages = session["metadata"], session["messages"]
    preview = messages[-1]["content"][:120].rstrip() if messages else ""
    return (metadata["session_id"], metadata["title"], metadata["updated_at"], len(messages), preview)


def found_in(folder: Path, text: str) -> list[str]:
    """The ids of the sessions that say this in a message of their active path, or in their title."""
    return [
        session["metadata"]["session_id"]
        for session in sessions_in(folder)
        if any(alike(text) in alike(said) for said in texts(session))
    ]


def texts(session: Any) -> list[str]:
    return [session["metadata"]["title"] or "", *(message["content"] for message in session["messages"])]


def alike(text: str) -> str:
    """The same text for all that a search takes for the same."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())


async def shown(store: SessionStore) -> list[Line]:
    """What the list does show."""
    return [(s.session_id, s.title, s.updated_at, s.message_count, s.preview) for s in await summaries(store)]


async def assert_answers(store: SessionStore, folder: Path, *looked_for: str) -> None:
    """The list and these searches answer what the files say."""
    assert await shown(store) == list_of(folder)
    for text in looked_for:
        assert (text, await saying(store, text)) == (text, found_in(folder, text))
