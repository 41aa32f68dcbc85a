"""What is made of each message of a session, joined, for one version of the session after another.

A history of thousands of messages is saved and sent to Ollama with each of its turns, and all but two of them are those
of the turn before. A message is a value, so what was made of it then is still right: only the new ones are encoded.
"""

from collections.abc import Callable

from mochi_server.domain.messages import Message

Element = Callable[[Message], bytes]
"""What is made of one message: an element of a JSON list, with what stands between it and the next, for instance."""

KEPT_FROM = 100
"""Of fewer messages nothing is kept: to encode them takes less time than their memory, for all sessions, is worth."""

MOST_PARTS = 100
"""Elements are joined when there are more parts of them: seldom, since a copy of megabytes takes its time."""

Parts = tuple[bytes, ...]
"""Elements one after another: many in the first part, then those that were added since."""

_NONE: tuple[tuple[Message, ...], dict[Element, Parts]] = ((), {})


class Elements:
    """The elements made of a list of messages, in each of the ways in which they are to be kept.

    A session shares it with the versions that it was made from. Which list it was last asked for is no part of what a
    session is, so any two are equal. It may be used from several threads.
    """

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last = _NONE

    def of(self, messages: tuple[Message, ...], element: Element, *, keep: bool = False) -> Parts:
        """The elements of these messages. With `keep` such elements are kept from now on, if there are many."""
        known, made = self._last
        if len(messages) < KEPT_FROM or not (keep or element in made):
            return _followed((), element, (), messages)
        if messages is not known:
            same = _in_common(known, messages)
            gone, new = known[same:], messages[same:]
            made = {element: _followed(made[element], element, gone, new) for element in made}
        if element not in made:
            made = {**made, element: _followed((), element, (), messages)}
        self._last = messages, made
        return made[element]

    @property
    def size(self) -> int:
        """Bytes that are kept."""
        return sum(len(part) for parts in self._last[1].values() for part in parts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Elements)

    def __hash__(self) -> int:
        return 0


def _followed(parts: Parts, element: Element, gone: tuple[Message, ...], new: tuple[Message, ...]) -> Parts:
    """The elements without those of the last messages, which are `gone`, and with those of `new` ones."""
    if gone:
        left = memoryview(b"".join(parts))
        left = left[: len(left) - sum(len(element(message)) for message in gone)]
        parts = (bytes(left),) if left else ()
    parts = (*parts, *map(element, new))
    return parts if len(parts) <= MOST_PARTS else (b"".join(parts),)


def _in_common(known: tuple[Message, ...], messages: tuple[Message, ...]) -> int:
    """With how many messages both begin. Equal is not enough: 1 equals 1.0, and is written differently."""
    same = 0
    for old, new in zip(known, messages, strict=False):
        if old is not new:
            break
        same += 1
    return same
