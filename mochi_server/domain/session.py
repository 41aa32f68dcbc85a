"""A session: its messages form a tree, of which one path is active.

The path is what the model is shown and what clients see; every message that ever left it is `detached`, reachable
by its parent ids. A session is a value: each change gives a new one, which counts only once it is saved. So a save
that fails leaves the old state, on disk and in memory.
"""

from collections.abc import Iterable
from typing import Any, Literal

import msgspec

from mochi_server.domain.clock import later
from mochi_server.domain.elements import Elements
from mochi_server.domain.messages import AssistantMessage, Message, SystemMessage, UserMessage
from mochi_server.domain.options import OptionValues
from mochi_server.errors import InvalidMessageIndex, MessageNotFound

FORMAT_VERSION = "2.0"
HistoryLimit = int | Literal["fit"] | None


class Metadata(msgspec.Struct, frozen=True, kw_only=True):
    """A session without its messages, in the order of its file.

    `revision` is a digest of all the rest of the session: a file that was changed by hand has another one.
    """

    session_id: str
    model: str
    title: str | None = None
    created_at: str
    updated_at: str
    message_count: int = 0
    summary: dict[str, Any] | None = None
    summary_model: str | None = None
    format_version: str = FORMAT_VERSION
    revision: str = ""
    options: OptionValues | None = None
    tool_settings: dict[str, Any] | None = None
    agent_settings: dict[str, Any] | None = None
    context_window_config: dict[str, Any] | None = None
    history_limit: HistoryLimit = None
    unknown: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """Metadata, system prompt, active path (oldest first) and everything that was ever on a path.

    What was made of the messages of either list before is kept beside them, see there.
    """

    metadata: Metadata
    system: SystemMessage | None = None
    path: tuple[Message, ...] = ()
    detached: tuple[Message, ...] = ()
    unknown: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET
    path_elements: Elements = msgspec.field(default_factory=Elements)
    detached_elements: Elements = msgspec.field(default_factory=Elements)

    @property
    def messages(self) -> tuple[Message, ...]:
        """What clients see: the system prompt, if there is one, then the active path."""
        return self.path if self.system is None else (self.system, *self.path)

    @property
    def head(self) -> Message | None:
        """The last message of the active path."""
        return self.path[-1] if self.path else None

    @property
    def has_images(self) -> bool:
        """Whether any message of the active path has images."""
        return any(self.path_elements.of(self.path, _image_marks, keep=True))

    def tree(self) -> tuple[Message, ...]:
        """Every message that was ever on a path: the active one first, then the detached. No system prompts."""
        # What was a prompt never had a parent; a system message from within a path does.
        return (*self.path, *(m for m in self.detached if not isinstance(m, SystemMessage) or m.parent_id is not None))

    def last_user(self) -> UserMessage | None:
        """The newest user message of the active path."""
        return next((m for m in reversed(self.path) if isinstance(m, UserMessage)), None)

    def called(self, call_id: str) -> str | None:
        """The name of the tool that was called under this id; None where none was."""
        replies = (m for m in reversed(self.path) if isinstance(m, AssistantMessage) and m.tool_calls)
        for call in (call for reply in replies for call in reply.tool_calls or ()):
            # What a hand wrote may be anything.
            if isinstance(call, dict) and call.get("id") == call_id and isinstance(call.get("function"), dict):
                name = call["function"].get("name")
                return name if isinstance(name, str) else None
        return None

    def preview(self) -> str:
        """Up to 120 characters of the newest user or assistant message, on one line."""
        spoken = (m for m in reversed(self.path) if isinstance(m, UserMessage | AssistantMessage) and m.content)
        newest = next(spoken, None)
        # The slice bounds the work on a message of a million characters.
        return "" if newest is None else " ".join(newest.content.lstrip()[:2000].split())[:120].rstrip()

    def append(self, message: Message, now: str) -> "Session":
        """The session with a message that follows its head."""
        return self.extend((message,), now)

    def extend(self, messages: Iterable[Message], now: str) -> "Session":
        """The session with messages that follow its head, and each other."""
        parent = self.head.message_id if self.head else None
        return self._changed(now, path=(*self.path, *chained(messages, parent)))

    def edit(self, index: int, content: str, message_id: str, now: str) -> "Session":
        """A new version of the user message at `index`, in its place; what followed leaves the active path.

        Raises InvalidMessageIndex where there is no user message.
        """
        place = self._place(index, "edited")
        old = self.path[place]
        if not isinstance(old, UserMessage):
            raise InvalidMessageIndex(
                f"Message {index} is from {old.__struct_config__.tag}: only a user's message can be edited.",
                {"index": index, "message_count": self.metadata.message_count},
            )
        new = msgspec.structs.replace(old, content=content, message_id=message_id, timestamp=now)
        return self._cut(place, now, new)

    def truncate(self, index: int, now: str) -> "Session":
        """The session before the message at `index`. Raises InvalidMessageIndex."""
        return self._cut(self._place(index, "removed"), now)

    def taken_back_to(self, message_id: str) -> "Session":
        """The view in which nothing follows this message, as a regenerate shows it from its first token on.

        A session whose active path does not hold the message is returned as it is.
        """
        place = self._find(message_id)
        if place is None or place == len(self.path) - 1:
            return self
        return self._cut(place + 1, self.metadata.updated_at)

    def answered(self, parent_id: str, reply: AssistantMessage, now: str) -> "Session":
        """The session with a reply to the message `parent_id`.

        What followed that message leaves the active path. A message that is no longer on it keeps its reply
        nevertheless: off the path, in the tree.
        """
        reply = msgspec.structs.replace(reply, parent_id=parent_id)
        place = self._find(parent_id)
        if place is None:
            return self._changed(now, detached=(*self.detached, reply))
        return self._cut(place + 1, now, reply)

    def with_head(self, message_id: str, now: str) -> "Session":
        """The path to this message, and on from there to the leaf with the newest timestamp, made active.

        Raises MessageNotFound.
        """
        tree = {m.message_id: m for m in self.tree()}
        if message_id not in tree:
            raise MessageNotFound(
                f"No message of this session has the id {message_id[:64]!r}. GET .../tree lists them.",
                {"message_id": message_id[:64]},
            )
        path = _ancestors(_newest_leaf(tree.values(), tree[message_id]), tree)
        active = {m.message_id for m in path}
        off = tuple(m for m in self.path if m.message_id not in active)
        detached = (*(m for m in self.detached if m.message_id not in active), *off)
        return self._changed(now, path=chained(path), detached=detached)

    def with_system(self, system: SystemMessage | None, now: str) -> "Session":
        """Another system prompt, or none; the old one is kept among the detached messages."""
        kept = () if self.system is None else (self.system,)
        return self._changed(now, system=system, detached=(*self.detached, *kept))

    def with_metadata(self, now: str, **changes: Any) -> "Session":
        """The session with some fields of its metadata changed."""
        return self._changed(now, **changes)

    def _place(self, index: int, verb: str) -> int:
        """The place in the path of the message that clients call `index`."""
        place = index if self.system is None else index - 1
        facts = {"index": index, "message_count": self.metadata.message_count}
        if self.system is not None and index == 0:
            raise InvalidMessageIndex(
                f"Message 0 is the system prompt and cannot be {verb} here: use .../system-prompt.", facts
            )
        if not 0 <= place < len(self.path):
            count = self.metadata.message_count
            span = f"its messages are 0 to {count - 1}" if count else "it has no messages"
            raise InvalidMessageIndex(f"There is no message {index} in this session: {span}.", facts)
        return place

    def _find(self, message_id: str) -> int | None:
        # From the end: what is looked for is nearly always the newest.
        for place in range(len(self.path) - 1, -1, -1):
            if self.path[place].message_id == message_id:
                return place
        return None

    def _cut(self, place: int, now: str, *then: Message) -> "Session":
        detached = (*self.detached, *self.path[place:])
        return self._changed(now, path=(*self.path[:place], *then), detached=detached)

    def _changed(
        self,
        now: str,
        *,
        path: tuple[Message, ...] | None = None,
        detached: tuple[Message, ...] | None = None,
        system: SystemMessage | msgspec.UnsetType | None = msgspec.UNSET,
        **metadata: Any,
    ) -> "Session":
        path = self.path if path is None else path
        system = self.system if system is msgspec.UNSET else system
        count = len(path) + (system is not None)
        updated_at = later(now, self.metadata.updated_at)
        return msgspec.structs.replace(
            self,
            metadata=msgspec.structs.replace(self.metadata, updated_at=updated_at, message_count=count, **metadata),
            system=system,
            path=path,
            detached=self.detached if detached is None else detached,
        )


def chained(messages: Iterable[Message], parent: str | None = None) -> tuple[Message, ...]:
    """Messages that follow each other, and the first of them `parent`, with parent ids that say so.

    Who moves or removes a message of a path by hand need not know of those.
    """
    path: list[Message] = []
    for message in messages:
        right = message if message.parent_id == parent else msgspec.structs.replace(message, parent_id=parent)
        path.append(right)
        parent = message.message_id
    return tuple(path)


def _image_marks(message: Message) -> bytes:
    """A byte for each of its images."""
    return bytes(len(message.images or ())) if isinstance(message, UserMessage) else b""


def _newest_leaf(tree: Iterable[Message], top: Message) -> Message:
    """The leaf at or below `top` with the newest timestamp."""
    children: dict[str | None, list[Message]] = {}
    for message in tree:
        children.setdefault(message.parent_id, []).append(message)
    newest: Message | None = None
    below, seen = [top], {top.message_id}
    while below:
        message = below.pop()
        # A file edited by hand may hold a circle.
        following = [m for m in children.get(message.message_id, ()) if m.message_id not in seen]
        seen.update(m.message_id for m in following)
        below.extend(following)
        if not following and (newest is None or message.timestamp > newest.timestamp):
            newest = message
    return top if newest is None else newest


def _ancestors(leaf: Message, tree: dict[str, Message]) -> list[Message]:
    """The path from the root to this message. A parent that is missing ends it."""
    path, seen = [leaf], {leaf.message_id}
    while (parent := tree.get(path[-1].parent_id or "")) is not None and parent.message_id not in seen:
        path.append(parent)
        seen.add(parent.message_id)
    return path[::-1]
