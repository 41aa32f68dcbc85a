"""What a session's clients were told of it and shown, and what they asked for and were not told about."""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from tests.crash.client import Event
from tests.crash.talker import Words, first_word


class Violation(Exception):
    """Something that must always hold does not; the text says what."""


@dataclass(frozen=True)
class Said:
    """One message. `name` and `parent` are the first words of it and of what it follows; a reply's `ending` is its
    status and done_reason.
    """

    name: str
    role: str
    content: str
    parent: str | None = None
    thinking: str = ""
    ending: str = ""


@dataclass(frozen=True)
class History:
    """A session's messages: the system prompt's text, the active path, and what left it."""

    system: str | None = None
    path: tuple[Said, ...] = ()
    off: frozenset[Said] = frozenset()

    def all(self) -> Iterator[Said]:
        """Every message, but for the system prompt."""
        yield from self.path
        yield from self.off

    def question(self) -> int | None:
        """The place in the path of the last user message."""
        return next((n for n in range(len(self.path) - 1, -1, -1) if self.path[n].role == "user"), None)

    def then(self, said: Said) -> "History":
        """With one more message, after that which is its parent."""
        place = next((n for n, one in enumerate(self.path) if one.name == said.parent), -1)
        return self.cut(place + 1, said)

    def cut(self, place: int, *then: Said) -> "History":
        """What stands from this place on leaves the path; something else may take its place."""
        return replace(self, path=(*self.path[:place], *then), off=self.off | set(self.path[place:]))

    def with_system(self, content: str | None) -> "History":
        """With another system prompt."""
        old = set() if self.system is None else {Said(first_word("", self.system), "system", self.system)}
        return replace(self, system=content, off=self.off | old)

    def leaves(self) -> list[Said]:
        """The messages that nothing follows, other than the path's last."""
        tree = [one for one in self.all() if one.role != "system"]
        followed = {one.parent for one in tree} | {one.name for one in self.path[-1:]}
        return sorted((one for one in tree if one.name not in followed), key=lambda one: one.name)

    def with_leaf(self, leaf: Said) -> "History":
        """With the path that ends in this message."""
        by_name = {one.name: one for one in self.all()}
        path: list[Said] = []
        above: Said | None = leaf
        while above is not None:
            path.insert(0, above)
            above = by_name.get(above.parent or "")
        return replace(self, path=tuple(path), off=frozenset(self.all()) - set(path))


@dataclass
class Reply:
    """A reply that was asked for, in a history that holds its question. `begun` once its question is acknowledged."""

    history: History
    question: Said
    begun: bool = False
    generation: str = ""
    events: list[Event] = field(default_factory=list)

    def shown(self) -> Words:
        """What was shown of it."""
        said = {"thinking_delta": "", "content_delta": ""}
        for event in self.events:
            if event.name in said:
                said[event.name] += json.loads(event.data)["content"]
        return Words(said["thinking_delta"], said["content_delta"])

    def message_id(self) -> str | None:
        """The id under which it was told to be saved."""
        done = [event for event in self.events if event.name == "message_complete"]
        return json.loads(done[-1].data)["message_id"] if done else None

    def said(self, words: Words, ending: str) -> Said:
        """It, as a message that says this."""
        name = first_word(*words)
        return Said(name, "assistant", words.content, self.question.name, words.thinking, ending)


@dataclass
class Known:
    """One session as its one client knows it.

    `history`, `title` and `revision` (None: not known) are what was acknowledged; `ids` the message ids by first words.
    What begins with `maybe` was asked for, and no answer came yet. Its `word` is in all that is ever said in it.
    """

    word: str
    session_id: str = ""
    there: bool = False
    gone: bool = False
    title: str | None = None
    history: History = field(default_factory=History)
    revision: str | None = None
    ids: dict[str, str] = field(default_factory=dict)
    maybe_title: str | None = None
    maybe_history: History | None = None
    maybe_gone: bool = False
    reply: Reply | None = None
    answered: Reply | None = None
    """The last reply, if its stream was seen to its end since the server's start."""
    marks: int = 0

    def label(self) -> str:
        """A title that nothing had before."""
        self.marks += 1
        return f"{self.word}.{self.marks} it was called"

    def text(self, chance: random.Random) -> str:
        """Something to say that nobody said before."""
        self.marks += 1
        long = " and so on" * chance.randint(2000, 20_000) if chance.random() < 0.04 else ""
        return f"{self.word}.{self.marks} she said{long}"

    def asks(self, content: str | None) -> Reply:
        """Ask for a reply: to a new message, or to the last one anew."""
        if content is None:
            place = self.history.question()
            assert place is not None
            question, history = self.history.path[place], self.history
        else:
            parent = self.history.path[-1].name if self.history.path else None
            question = Said(first_word("", content), "user", content, parent)
            history = self.history.then(question)
        self.reply = Reply(history, question)
        return self.reply

    def learn(self, history: History, revision: str | None) -> None:
        """This is acknowledged."""
        self.there = True
        self.history, self.maybe_history, self.reply = history, None, None
        self.revision = revision
