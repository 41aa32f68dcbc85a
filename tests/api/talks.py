"""What must be true of sessions: a model of its own, simpler than what keeps them."""

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

NO_REVISION = "0" * 16


@dataclass
class Said:
    """One message, as far as it matters here."""

    role: str
    content: str
    message_id: str
    parent_id: str | None
    timestamp: str


@dataclass
class Talk:
    """One session. `path` holds ids of `tree`; `prompts` are the texts of replaced system prompts, by id."""

    session_id: str
    model: str
    title: str | None
    options: dict[str, Any] | None
    updated_at: str = ""
    system: Said | None = None
    path: list[str] = field(default_factory=list)
    tree: dict[str, Said] = field(default_factory=dict)
    prompts: dict[str, str] = field(default_factory=dict)
    revisions: list[str] = field(default_factory=list)
    """All that were seen, the one in force last."""
    notes: dict[str, Any] = field(default_factory=dict)
    """What was written beside the metadata by hand."""
    whole: bytes | None = None
    """What the file held before it was damaged."""

    @property
    def revision(self) -> str:
        return self.revisions[-1]

    @property
    def old(self) -> str:
        """A revision of before; one that never was, if there is none."""
        return next((r for r in self.revisions if r != self.revision), NO_REVISION)

    @property
    def head(self) -> str | None:
        return self.path[-1] if self.path else None

    @property
    def messages(self) -> list[Said]:
        """What clients see."""
        return ([self.system] if self.system else []) + [self.tree[i] for i in self.path]

    @property
    def first(self) -> int:
        """The index of the path's first message."""
        return 0 if self.system is None else 1

    def place(self, index: int) -> int | None:
        """Where in the path the message is that clients call this."""
        place = index - self.first
        return place if 0 <= place < len(self.path) else None

    def can_edit(self, index: int) -> bool:
        place = self.place(index)
        return place is not None and self.tree[self.path[place]].role == "user"

    def unanswered(self) -> str | None:
        """The content of the last message, if it is a question."""
        last = self.tree[self.path[-1]] if self.path else None
        return last.content if last and last.role == "user" else None

    def last_question(self) -> int | None:
        """The place of the path's last user message."""
        return next((p for p in range(len(self.path) - 1, -1, -1) if self.tree[self.path[p]].role == "user"), None)

    def add(self, said: Said) -> None:
        """A message after the head."""
        assert said.message_id not in self.tree
        assert said.parent_id == self.head
        self.tree[said.message_id] = said
        self.path.append(said.message_id)

    def cut(self, place: int) -> None:
        """This message and what follows it leave the path."""
        del self.path[place:]

    def turn_to(self, message_id: str) -> None:
        """The path to this message and on to the newest leaf below it."""
        below = [i for i in self.tree if message_id in self._way_to(i)]
        parents = {said.parent_id for said in self.tree.values()}
        leaves = [i for i in below if i not in parents]
        self.path = self._way_to(max(leaves, key=lambda i: self.tree[i].timestamp))
        self.chain()

    def chain(self) -> None:
        """Each message of the path follows the one before."""
        for parent, message_id in zip([None, *self.path], self.path, strict=False):
            self.tree[message_id].parent_id = parent

    def prompt(self, system: Said | None) -> None:
        """Another system prompt, or none."""
        if self.system is not None:
            self.prompts[self.system.message_id] = self.system.content
        self.system = system

    def forget(self, place: int) -> None:
        """A message of the path is removed by hand: nothing has it any more."""
        del self.tree[self.path.pop(place)]
        self.chain()

    def says(self, text: str) -> bool:
        texts = [said.content for said in self.messages] + ([self.title] if self.title else [])
        return any(folded(text) in folded(one) for one in texts)

    def preview(self) -> str:
        """One line of the newest message that is not the system's."""
        return " ".join(self.tree[self.path[-1]].content.split())[:120] if self.path else ""

    def _way_to(self, message_id: str) -> list[str]:
        way = [message_id]
        while (parent := self.tree[way[0]].parent_id) is not None and parent in self.tree:
            way.insert(0, parent)
        return way


def folded(text: str) -> str:
    """Without what a search does not distinguish."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())


def newest_first(talks: Iterable[Talk], q: str | None, model: str | None) -> list[str]:
    """The ids of a list, whole."""
    found = [
        talk
        for talk in talks
        if talk.whole is None and (not q or talk.says(q)) and (model is None or talk.model == model)
    ]
    return [talk.session_id for talk in sorted(found, key=lambda t: (t.updated_at, t.session_id), reverse=True)]


def in_short(messages: list[dict[str, Any]]) -> list[Said]:
    """Messages of the API or of a file."""
    return [Said(m["role"], m["content"], m["message_id"], m["parent_id"], m["timestamp"]) for m in messages]
