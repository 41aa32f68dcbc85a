"""One client: random operations on its own sessions, one after the other, until the server is gone."""

import random
import threading
from collections.abc import Callable
from contextlib import suppress
from http.client import HTTPResponse

from tests.crash.client import Answer, Client, Cut, Event, events
from tests.crash.known import History, Known, Reply, Said, Violation
from tests.crash.talker import MODEL, Talker, first_word

MOST_SESSIONS = 3


class Moments:
    """When operations begin, for who wants to strike just then."""

    def __init__(self) -> None:
        self._changes = threading.Condition()
        self._count = 0

    def began(self) -> None:
        """One begins."""
        with self._changes:
            self._count += 1
            self._changes.notify_all()

    def wait(self, limit: float) -> None:
        """Until the next one begins, or for so many seconds."""
        with self._changes:
            count = self._count
            self._changes.wait_for(lambda: self._count != count, limit)


class Worker:
    """Has a few sessions, and keeps account of what it was told of them."""

    def __init__(self, chance: random.Random, talker: Talker, moments: Moments) -> None:
        self.sessions: list[Known] = []
        self.operations = 0
        self.events = 0
        self._chance = chance
        self._talker = talker
        self._moments = moments
        self._client = Client(0)

    def work(self, port: int) -> None:
        """Go on until the connection is lost, which raises Cut. Raises Violation."""
        self._client = Client(port)
        while True:
            self._moments.began()
            self._operation()()
            self.operations += 1

    def _operation(self) -> Callable[[], None]:
        """Something that can be done now."""
        chance = self._chance
        mine = [known for known in self.sessions if not known.gone]
        if not mine or (len(mine) < MOST_SESSIONS and chance.random() < 0.1):
            return chance.choice((self._create, self._create_by_a_message))
        known = chance.choice(mine)
        history = known.history
        can: list[tuple[int, Callable[[Known], None]]] = [
            (35, self._stream),
            (6, self._whole),
            (8, self._rename),
            (5, self._set_system),
            (2, self._look),
            (3, self._delete),
        ]
        if history.question() is not None:
            can += [(12, self._regenerate), (12, self._edit)]
        if history.path:
            can.append((6, self._truncate))
        if any(leaf.name in known.ids for leaf in history.leaves()):
            can.append((8, self._set_head))
        (operation,) = chance.choices([one for _, one in can], [weight for weight, _ in can])
        return lambda: operation(known)

    def _create(self) -> None:
        known = self._new()
        known.session_id = f"{self._chance.getrandbits(40):010x}"
        known.title = known.label()
        system = known.text(self._chance) if self._chance.random() < 0.5 else None
        known.history = History(system)
        answer = self._ask(
            "POST",
            "/sessions",
            {"model": MODEL, "session_id": known.session_id, "title": known.title, "system_prompt": system},
        )
        known.learn(known.history, answer.revision)

    def _create_by_a_message(self) -> None:
        known = self._new()
        message = known.text(self._chance)
        self._streamed(known, "/chat/stream", known.asks(message), {"model": MODEL, "message": message})

    def _stream(self, known: Known) -> None:
        message = known.text(self._chance)
        self._streamed(known, f"/chat/{known.session_id}/stream", known.asks(message), {"message": message})

    def _regenerate(self, known: Known) -> None:
        self._streamed(known, f"/chat/{known.session_id}/stream", known.asks(None), {"message": None})

    def _whole(self, known: Known) -> None:
        message = known.text(self._chance)
        reply = known.asks(message)
        answer = self._ask("POST", f"/chat/{known.session_id}", {"message": message})
        words = self._talker.newest(reply.question.name)
        if answer.body:
            told = answer.body["message"]
            known.ids[first_word(*words)] = told["message_id"]
            self._same("the whole reply", (told["thinking"] or "", told["content"]), words)
        known.learn(reply.history.then(reply.said(words, "complete stop")), answer.revision)
        known.answered = None

    def _edit(self, known: Known) -> None:
        history = known.history
        place = self._chance.choice([n for n, said in enumerate(history.path) if said.role == "user"])
        content, old = known.text(self._chance), history.path[place]
        new = Said(first_word("", content), "user", content, old.parent)
        known.maybe_history = history.cut(place, new)
        answer = self._ask("PUT", self._message(known, place), {"content": content})
        if answer.body:
            known.ids[new.name] = answer.body["message"]["message_id"]
        known.learn(known.maybe_history, answer.revision)

    def _truncate(self, known: Known) -> None:
        place = self._chance.randrange(len(known.history.path))
        known.maybe_history = known.history.cut(place)
        answer = self._ask("DELETE", self._message(known, place))
        known.learn(known.maybe_history, answer.revision)

    def _set_head(self, known: Known) -> None:
        leaf = self._chance.choice([one for one in known.history.leaves() if one.name in known.ids])
        known.maybe_history = known.history.with_leaf(leaf)
        answer = self._ask("PUT", f"/sessions/{known.session_id}/head", {"message_id": known.ids[leaf.name]})
        known.learn(known.maybe_history, answer.revision)

    def _set_system(self, known: Known) -> None:
        content = known.text(self._chance) if self._chance.random() < 0.7 else None
        known.maybe_history = known.history.with_system(content)
        path = f"/sessions/{known.session_id}/system-prompt"
        answer = self._ask("PUT", path, {"content": content}) if content else self._ask("DELETE", path)
        known.learn(known.maybe_history, answer.revision)

    def _rename(self, known: Known) -> None:
        known.maybe_title = known.label()
        answer = self._ask("PATCH", f"/sessions/{known.session_id}", {"title": known.maybe_title})
        known.title, known.maybe_title = known.maybe_title, None
        # Under a reply the revision is soon another one.
        known.revision = answer.revision if known.reply is None else None

    def _delete(self, known: Known) -> None:
        known.maybe_gone = True
        self._ask("DELETE", f"/sessions/{known.session_id}")
        known.gone = True

    def _look(self, known: Known) -> None:
        answer = self._ask("GET", f"/sessions/{known.session_id}")
        if answer.body is None:
            return
        history = known.history
        contents = ([] if history.system is None else [history.system]) + [said.content for said in history.path]
        self._same("a session that was read", [m["content"] for m in answer.body["messages"]], contents)
        self._same("the title", answer.body["title"], known.title)
        self._same("the revision", answer.revision, known.revision or answer.revision)

    def _streamed(self, known: Known, path: str, reply: Reply, body: object) -> None:
        """Read a stream to its end, doing something else on the way now and then."""
        known.answered = None
        aside = self._chance.randint(1, 60) if self._chance.random() < 0.3 else 0
        with self._client.asking("POST", path, body) as response:
            if response.status != 200:
                raise Violation(f"POST {path}: {response.status} {response.read().decode()[:500]}")
            self._begun(known, reply, response)
            for event in events(response):
                self._take(reply, event)
                if event.number == aside:
                    # Should the server die of it, the rest of what it showed is still to be read.
                    with suppress(Cut):
                        (self._delete if self._chance.random() < 0.15 else self._rename)(known)
        self._ended(known, reply)

    def _begun(self, known: Known, reply: Reply, response: HTTPResponse) -> None:
        known.there = reply.begun = True
        known.session_id = response.getheader("X-Session-Id") or ""
        known.revision = (response.getheader("ETag") or "").strip('"')

    def _take(self, reply: Reply, event: Event) -> None:
        self.events += 1
        reply.generation = reply.generation or event.generation
        self._same("an event's id", (event.generation, event.number), (reply.generation, len(reply.events) + 1))
        reply.events.append(event)

    def _ended(self, known: Known, reply: Reply) -> None:
        if not reply.events or reply.events[-1].name != "done":
            raise Violation("a stream ended without `done`, and its connection properly")
        if known.gone:
            return
        if known.maybe_gone:
            raise Cut
        words, message_id = reply.shown(), reply.message_id()
        if message_id is None:
            raise Violation(f"a stream ended without its message: {reply.events[-2:]}")
        self._same("the words of a stream", words, self._talker.newest(reply.question.name))
        known.ids[first_word(*words)] = message_id
        known.learn(reply.history.then(reply.said(words, "complete stop")), None)
        known.answered = reply

    def _new(self) -> Known:
        known = Known(f"word-{self._chance.getrandbits(40):010x}")
        self.sessions.append(known)
        return known

    def _message(self, known: Known, place: int) -> str:
        index = place + (known.history.system is not None)
        return f"/sessions/{known.session_id}/messages/{index}"

    def _ask(self, method: str, path: str, body: object = None) -> Answer:
        answer = self._client.ask(method, path, body)
        if not 200 <= answer.status < 300:
            raise Violation(f"{method} {path}: {answer.status} {answer.body}")
        return answer

    @staticmethod
    def _same(what: str, seen: object, wanted: object) -> None:
        if seen != wanted:
            raise Violation(f"{what} is {str(seen)[:500]}, not {str(wanted)[:500]}")
