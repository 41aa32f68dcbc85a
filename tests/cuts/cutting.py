"""A reader whose connection is cut over and over, and who goes on each time behind the last event that it has whole."""

import json
import random
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from mochi_server.ollama.standin import Behaviour
from tests.cuts.wire import Answer, Connection
from tests.server import Event, Server, joined
from tests.standin_thread import StandInThread

_ODD = ("\u2028", "\u2029", "\x85", "\n\n", "\r\n", "data: x\n\n", "id: 1\n", '"', "\\", "\N{ROCKET}", "\x00", " ")
_LONGEST = 4000
"""Bytes of an answer that are read before it is cut, at most."""

_MOST_CONNECTIONS = 2000


class Wrong(Exception):
    """What a reader must not see."""


class Transcript:
    """The events that one reader has of one reply, each held against the one before."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    @property
    def last(self) -> str | None:
        return self.events[-1].id if self.events else None

    @property
    def done(self) -> bool:
        return bool(self.events) and self.events[-1].name == "done"

    def add(self, events: list[Event]) -> None:
        """Take what came whole. Raises Wrong where one is missing, comes twice, or comes behind the end."""
        for event in events:
            generation, _, number = event.id.partition("-")
            if self.events and generation != self.events[0].id.partition("-")[0]:
                raise Wrong(f"{event.id} is of another reply than {self.events[0].id}")
            if int(number) != len(self.events) + 1 or self.done:
                raise Wrong(f"{event.id} came behind {self.last}")
            self.events.append(event)

    def texts(self, first: int | None = None) -> tuple[str, str]:
        """Content and thinking, of the first so many events."""
        events = self.events[:first]
        return joined(events), joined(events, "thinking_delta")


class Cutting:
    """A server, and a reader of its replies whose every connection may be cut; every so many cuts it is killed."""

    def __init__(self, folder: Path, seed: int, kill_every: int) -> None:
        self.cuts = self.cuts_in_events = self.kills = self.replies = self.events = self.compared = 0
        self._chance = random.Random(seed)  # noqa: S311 - nobody is to be kept from guessing it
        self._kill_every = kill_every
        self._standin = StandInThread()
        self._folder = folder
        self._session: str | None = None
        self._left = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self._standin)
            self._server = stack.enter_context(Server(self._folder, self._standin.url, "--log-level", "warning"))
            self._left = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.close()

    def reply(self, most: int) -> None:
        """Have one reply made and read it to its end through at most so many cuts. Raises Wrong."""
        session, transcript, places = self._next_session(), Transcript(), list[int]()
        connection: Connection | None = self._ask(session)
        for _ in range(_MOST_CONNECTIONS):
            with connection or self._resume(session, transcript.last) as reading:
                least = connection is not None  # what the server has begun to answer it has surely heard
                connection = None
                answer, cut = self._read(reading, least=least, cutting=len(places) < most)
                transcript.add(answer.events)
            if cut:
                places.append(len(transcript.events))
                self.cuts_in_events += answer.is_cut_in_an_event
            if answer.ended and transcript.done:
                break
            if answer.ended or not cut:
                raise Wrong(f"an answer of status {answer.status} ended behind {transcript.last}")
        self.replies += 1
        self.events += len(transcript.events)
        self._compare(session, transcript, places)

    def _next_session(self) -> str:
        if self._session is None or self._chance.random() < 0.5:
            self._session = self._server.new_session(model="tiny-think")
        return self._session

    def _ask(self, session: str) -> Connection:
        chance = self._chance
        thinking = chance.random() < 0.4
        behaviour = Behaviour(
            pieces=self._pieces(chance.randint(1, 150)),
            thinking=self._pieces(chance.randint(1, 40)) if thinking else (),
            delay=chance.choice((0.0, 0.0, 0.01)),
            interval=chance.choice((0.0, 0.001, 0.003)),
        )
        self._standin.script(behaviour)
        asked: dict[str, Any] = {
            "message": f"number {self.replies}",
            "think": thinking,
            "on_disconnect": chance.choice(("cancel", "continue")),
        }
        return Connection(self._server.port, "POST", f"/chat/{session}/stream", json.dumps(asked).encode())

    def _pieces(self, count: int) -> tuple[str, ...]:
        chance = self._chance
        return tuple(
            chance.choice(_ODD) if chance.random() < 0.2 else f"{number}{'x' * chance.randint(0, 12)} "
            for number in range(count)
        )

    def _resume(self, session: str, last: str | None) -> Connection:
        path = f"/chat/{session}/stream"
        if last is None:
            return Connection(self._server.port, "GET", path)
        if self._chance.random() < 0.5:
            return Connection(self._server.port, "GET", f"{path}?after={last}")
        return Connection(self._server.port, "GET", path, Last_Event_ID=last)

    def _read(self, connection: Connection, *, least: bool, cutting: bool) -> tuple[Answer, bool]:
        """Read until the cut, or the kill, or the end; and whether it was cut, or its server killed."""
        if not cutting:
            return connection.read_rest(), False
        answer = connection.read(self._chance.randint(least, self._chance.choice((200, 1000, _LONGEST))))
        if answer.ended:
            return answer, False
        self.cuts += 1
        if self._kill_every and self.cuts % self._kill_every == 0:
            self._server.kill()
            self.kills += 1
            answer = connection.read_rest()
            self._server.start()
        else:
            connection.cut(rudely=self._chance.random() < 0.5)
        return answer, True

    def _compare(self, session: str, transcript: Transcript, places: list[int]) -> None:
        """Hold what was read against what was saved: as it was read, and as whoever gave up at a cut would read on."""
        saved = self._saved(session)
        if transcript.texts() != saved:
            raise Wrong(f"the deltas of {transcript.last} are not the saved message: {transcript.texts()} and {saved}")
        for place in places:
            again = Transcript()
            again.events = transcript.events[:place]
            with self._resume(session, again.last) as connection:
                answer = connection.read_rest()
            again.add(answer.events)
            if answer.status != (204 if place == len(transcript.events) else 200) or again.events != transcript.events:
                raise Wrong(f"behind {place} events of {transcript.last} another story is told")
            if again.texts() != saved:
                raise Wrong(f"behind {place} events of {transcript.last} the deltas are not the saved message")
            self.compared += 1
        with self._resume(session, transcript.last) as connection:
            if (status := connection.read_rest().status) != 204:
                raise Wrong(f"behind done the answer is {status}")

    def _saved(self, session: str) -> tuple[str, str]:
        """Content and thinking of the last reply in the session's file; empty where nothing was said."""
        message = self._server.file(session)["messages"][-1]
        return (message["content"], message["thinking"] or "") if message["role"] == "assistant" else ("", "")
