"""What a list of sessions needs, in memory: some 700 bytes a session, kept up with every save."""

import bisect
import sys
from collections.abc import Iterator
from typing import Any

import msgspec

from mochi_server.domain.session import Session


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """One session in a list."""

    session_id: str
    model: str
    title: str | None
    created_at: str
    updated_at: str
    message_count: int
    summary: dict[str, Any] | None
    preview: str


class Listed(msgspec.Struct, frozen=True, gc=False):
    """A session's place in the list.

    `stamp` tells one state of its file from another; `line` is its Summary as JSON, encoded once for all lists.
    """

    session_id: str
    updated_at: str
    model: str
    stamp: bytes
    line: bytes


class Damaged(msgspec.Struct, frozen=True):
    """A file that cannot be read, and why."""

    session_id: str
    reason: str
    stamp: bytes


Place = tuple[str, str]
"""Where a session stands in the list: `updated_at`, then its id."""

_json = msgspec.json.Encoder()


class Index:
    """Sessions, newest `updated_at` first, and the damaged files."""

    def __init__(self) -> None:
        self._listed: dict[str, Listed] = {}
        self._order: list[Listed] = []
        self._damaged: dict[str, Damaged] = {}

    def fill(self, listed: list[Listed]) -> None:
        """Begin with these; quicker than adding them one by one."""
        self._listed = {one.session_id: one for one in listed}
        self._order = sorted(listed, key=place)

    def put(self, listed: Listed) -> None:
        """Add a session, or bring it up to date."""
        self.drop(listed.session_id)
        self._listed[listed.session_id] = listed
        bisect.insort(self._order, listed, key=place)

    def put_damaged(self, damaged: Damaged) -> None:
        """Note that the session's file cannot be read."""
        self.drop(damaged.session_id)
        self._damaged[damaged.session_id] = damaged

    def drop(self, session_id: str) -> None:
        """Forget a session; one that is not there is forgotten already."""
        self._damaged.pop(session_id, None)
        if (old := self._listed.pop(session_id, None)) is not None:
            del self._order[bisect.bisect_left(self._order, place(old), key=place)]

    def newest_first(self, before: Place | None = None) -> Iterator[Listed]:
        """The sessions from the newest on, or from the first behind `before` on."""
        end = len(self._order) if before is None else bisect.bisect_left(self._order, before, key=place)
        for position in range(end - 1, -1, -1):
            yield self._order[position]

    def known(self) -> dict[str, Listed | Damaged]:
        """A copy of what is in the index, by session id."""
        return {**self._listed, **self._damaged}

    def find(self, session_id: str) -> Listed | Damaged | None:
        """What the index has of a session."""
        return self._listed.get(session_id) or self._damaged.get(session_id)

    def damaged(self) -> list[Damaged]:
        """The files that cannot be read, by id."""
        return [self._damaged[session_id] for session_id in sorted(self._damaged)]

    def __len__(self) -> int:
        """How many sessions can be read."""
        return len(self._listed)


def listed(session: Session, stamp: bytes) -> Listed:
    """The session as a list has it."""
    metadata = session.metadata
    summary = Summary(
        session_id=metadata.session_id,
        model=metadata.model,
        title=metadata.title,
        created_at=metadata.created_at,
        updated_at=metadata.updated_at,
        message_count=metadata.message_count,
        summary=metadata.summary,
        preview=session.preview(),
    )
    # Few models, many sessions: one string for all that name it.
    model = sys.intern(metadata.model)
    return Listed(metadata.session_id, metadata.updated_at, model, stamp, _json.encode(summary))


def place(one: Listed) -> Place:
    """Where a session stands in the list."""
    return (one.updated_at, one.session_id)
