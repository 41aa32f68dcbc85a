"""What a list of sessions needs, in memory: built at start from the files, kept up with every save."""

import bisect
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


class Damaged(msgspec.Struct, frozen=True, kw_only=True):
    """A file that cannot be read, and why."""

    session_id: str
    reason: str


Place = tuple[str, str]
"""Where a session stands in the list: `updated_at`, then its id."""


class Index:
    """Summaries, newest `updated_at` first, and the damaged files."""

    def __init__(self) -> None:
        self._summaries: dict[str, Summary] = {}
        self._places: list[Place] = []
        self._damaged: dict[str, Damaged] = {}

    def put(self, summary: Summary) -> None:
        """Add a session, or bring it up to date."""
        self.drop(summary.session_id)
        self._summaries[summary.session_id] = summary
        bisect.insort(self._places, _place(summary))

    def put_damaged(self, session_id: str, reason: str) -> None:
        """Note that the session's file cannot be read."""
        self.drop(session_id)
        self._damaged[session_id] = Damaged(session_id=session_id, reason=reason)

    def drop(self, session_id: str) -> None:
        """Forget a session; one that is not there is forgotten already."""
        self._damaged.pop(session_id, None)
        if (old := self._summaries.pop(session_id, None)) is not None:
            del self._places[bisect.bisect_left(self._places, _place(old))]

    def __contains__(self, session_id: str) -> bool:
        """Whether the folder holds something under this id, be it readable or not."""
        return session_id in self._summaries or session_id in self._damaged

    def newest_first(self, before: Place | None = None) -> Iterator[Summary]:
        """The sessions from the newest on, or from the first behind `before` on."""
        end = len(self._places) if before is None else bisect.bisect_left(self._places, before)
        for place in range(end - 1, -1, -1):
            yield self._summaries[self._places[place][1]]

    def damaged(self) -> list[Damaged]:
        """The files that cannot be read, by id."""
        return [self._damaged[session_id] for session_id in sorted(self._damaged)]


def summarize(session: Session) -> Summary:
    """The session as a list shows it."""
    metadata = session.metadata
    return Summary(
        session_id=metadata.session_id,
        model=metadata.model,
        title=metadata.title,
        created_at=metadata.created_at,
        updated_at=metadata.updated_at,
        message_count=metadata.message_count,
        summary=metadata.summary,
        preview=session.preview(),
    )


def _place(summary: Summary) -> Place:
    return (summary.updated_at, summary.session_id)
