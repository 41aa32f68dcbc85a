"""Whatever is done to sessions, in whatever order, over HTTP, by hand and with restarts: all that was said is there.

`EXAMPLES=300 pytest tests/api/test_state_machine.py` tries that many histories, other ones at each run.
"""

import copy
import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import multiple, precondition, rule, run_state_machine_as_test

from mochi_server.ollama.standin import Behaviour, Gate
from tests.api.histories import IDS, MOST_SESSIONS, Requests, places, sessions, words
from tests.api.talks import NO_REVISION, Talk, newest_first
from tests.api.watched import REVISION, as_json
from tests.chat.clients import eventually, raw_chat, read_events
from tests.server import Server
from tests.standin_thread import StandInThread

EXAMPLES = int(os.environ.get("EXAMPLES", "0"))
HOW = settings(
    max_examples=EXAMPLES or 8,
    stateful_step_count=40,
    derandomize=not EXAMPLES,
    database=None,
    deadline=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
    # A history is seconds long: it is made shorter only for who asks for many.
    phases=[Phase.generate, Phase.shrink] if EXAMPLES else [Phase.generate],
)

LOOKED_FOR = (None, "PLAIN", "strasse", "Äpfel", "%", "_", "2", "\x00", "nowhere", "")
COPIES = tuple(f"c{n:09x}" for n in range(4))


class History(Requests):
    """Sessions that requests are sent to, that are changed by hand, and whose server ends and starts."""

    @rule(
        limit=st.none() | st.integers(1, 4),
        q=st.sampled_from(LOOKED_FOR),
        model=st.sampled_from((None, "tiny", "tiny:latest", "tiny-json")),
        touched=st.lists(sessions, max_size=3),
    )
    def page(self, limit: int | None, q: str | None, model: str | None, touched: list[str]) -> None:
        asked = {"limit": limit, "q": q, "model": model}
        query: dict[str, str | int] = {name: value for name, value in asked.items() if value is not None}
        name = model.removesuffix(":latest") if model else None
        expected = newest_first(self.talks.values(), q, name)
        seen: list[str] = []
        moved: set[str] = set()
        while True:
            ids, cursor = self.watched.listed(query, q, name)
            assert not set(ids) & set(seen)
            seen += ids
            if cursor is None:
                break
            assert len(ids) == limit
            query["cursor"] = cursor
            if touched and self.intact(touched[-1]):
                moved.add(touched[-1])
                self.move_up(touched.pop())
        assert [i for i in seen if i not in moved] == [i for i in expected if i not in moved]

    def move_up(self, session_id: str) -> None:
        """Change what no list looks at."""
        talk = self.talks[session_id]
        self.watched.saved(talk, self.server.call("PATCH", f"/sessions/{session_id}", {"history_limit": 3}))
        self.watched.check(session_id, moved=True)

    def __init__(self) -> None:
        super().__init__()
        self._starts_left = 2  # each takes as long as twenty requests

    @precondition(lambda self: self._starts_left)
    @rule(how=st.sampled_from((signal.SIGTERM, signal.SIGKILL)))
    def restart(self, how: signal.Signals) -> None:
        self.start_again(how)
        self.watched.listed({}, None, None)
        for session_id in self.talks:
            self.watched.check(session_id)

    def start_again(self, how: signal.Signals) -> None:
        """End the server with a signal, and start it."""
        self._starts_left -= 1
        assert self.server.stop(how) == (0 if how == signal.SIGTERM else -signal.SIGKILL)
        self.server.start()

    @rule(
        session_id=sessions,
        word=st.none() | words,
        then=st.sampled_from(("prompt", "send", "edit", "truncate", "end", "kill")),
        knowing=st.booleans(),
    )
    def leave(self, session_id: str, word: str | None, then: str, *, knowing: bool) -> None:
        """A client goes away in mid-reply, or the server does; somebody changes the history."""
        talk = self.intact(session_id)
        if talk is None or (word is None and talk.last_question() is None):
            return
        if then in {"end", "kill"} and not self._starts_left:
            return
        pieces = (self.text("half"), " of it")
        message = self.text(word) if word else None
        self.watched.script(Behaviour(pieces=(*pieces, "never said"), gate=Gate(2)))
        with raw_chat(self.server, f"/chat/{session_id}/stream", {"message": message}) as client:
            read_events(client, 2)
            if then in {"end", "kill"}:
                self.start_again(signal.SIGTERM if then == "end" else signal.SIGKILL)
        etag = client.answer.headers["Etag"]
        assert REVISION.fullmatch(etag)
        self.watched.kept.add(session_id)
        condition = {"If_Match": etag} if knowing else {}
        if word is None:
            place = talk.last_question()
            assert place is not None
            talk.cut(place + 1)
        self._changed_then(talk, [("user", message)] if message else [], "".join(pieces), then, condition)
        self.watched.seen(talk, self.server.call("GET", f"/sessions/{session_id}"))
        self.watched.check(session_id, moved=True)

    def _changed_then(
        self, talk: Talk, question: list[tuple[str, str]], half: str, then: str, condition: dict[str, str]
    ) -> None:
        """Change the history of a session whose reply has no listener, or is no more."""
        at, learn = f"/sessions/{talk.session_id}", self.watched.learn
        index = talk.first + len(talk.path) - (not question)
        new = self.text("anew")
        said = [*question, ("assistant", half)]
        match then:
            case "prompt":
                self._once_left("PUT", f"{at}/system-prompt", {"content": new}, condition)
                learn(talk, *said)
                self.prompted(talk, new)
            case "send":
                self.watched.script(Behaviour(pieces=(answer := self.text("after"),)))
                self._once_left("POST", f"/chat/{talk.session_id}", {"message": new}, condition)
                learn(talk, *said, ("user", new), ("assistant", answer))
            case "edit":
                self._once_left("PUT", f"{at}/messages/{index}", {"content": new}, condition)
                learn(talk, *said)
                talk.cut(index - talk.first)
                learn(talk, ("user", new))
            case "truncate":
                self._once_left("DELETE", f"{at}/messages/{index}", None, condition)
                learn(talk, *said)
                talk.cut(index - talk.first)
            case _:
                learn(talk, *said)

    def _once_left(self, method: str, path: str, body: object, condition: dict[str, str]) -> None:
        """Send this as soon as the server knows that nobody listens."""

        def answered() -> int | None:
            status = self.server.call(method, path, body, **condition).status_code
            return None if status == 409 else status

        assert eventually(answered) == 200

    @rule(
        session_id=sessions,
        what=st.sampled_from(("content", "title", "note", "remove", "swap")),
        word=words,
        place=places,
        in_place=st.booleans(),
    )
    def write_by_hand(self, session_id: str, what: str, word: str, place: int, *, in_place: bool) -> None:
        talk = self.intact(session_id)
        if talk is None:
            return
        file, new = self.server.file(session_id), self.text(word)
        messages = file["messages"]
        place %= max(len(talk.path), 1)
        at = place + talk.first
        there = place < len(talk.path)
        match what:
            case "content" if there:
                messages[at]["content"] = talk.tree[talk.path[place]].content = new
            case "remove" if there:
                del messages[at]
                talk.forget(place)
            case "swap" if there and place + 1 < len(talk.path):
                messages[at], messages[at + 1] = messages[at + 1], messages[at]
                talk.path[place], talk.path[place + 1] = talk.path[place + 1], talk.path[place]
                talk.chain()
            case "note":
                file["metadata"]["note"] = talk.notes["note"] = new
            case _:
                file["metadata"]["title"] = talk.title = new
        self.watched.by_hand(talk, as_json(file), in_place=in_place)
        self.watched.check(session_id, by_hand=True)

    @precondition(lambda self: all(talk.whole is None for talk in self.talks.values()))
    @rule(session_id=sessions, rest=st.sampled_from((b"", b"{oops", b"\xff", b"[]")), in_place=st.booleans())
    def damage(self, session_id: str, rest: bytes, *, in_place: bool) -> None:
        talk = self.intact(session_id)
        if talk is not None:
            talk.whole = (self.server.sessions / f"{session_id}.json").read_bytes()
            self.watched.by_hand(talk, rest, in_place=in_place)
            self.watched.check(session_id)
            assert (self.server.sessions / f"{session_id}.json").read_bytes() == rest

    @rule(session_id=sessions, in_place=st.booleans())
    def mend(self, session_id: str, *, in_place: bool) -> None:
        talk = self.talks.get(session_id)
        if talk is not None and talk.whole is not None:
            self.watched.by_hand(talk, talk.whole, in_place=in_place)
            talk.whole = None
            self.watched.check(session_id)

    @precondition(lambda self: len(self.talks) > 1)
    @rule(session_id=sessions)
    def remove_by_hand(self, session_id: str) -> None:
        if self.talks.pop(session_id, None) is not None:
            (self.server.sessions / f"{session_id}.json").unlink()
            self.watched.check(session_id)

    @rule(target=sessions, session_id=sessions, name=st.sampled_from((*COPIES, *IDS)))
    def copy_by_hand(self, session_id: str, name: str) -> object:
        talk = self.intact(session_id)
        if talk is None or name in self.talks or len(self.talks) == MOST_SESSIONS:
            return multiple()
        copied = copy.deepcopy(talk)
        copied.session_id, copied.revisions = name, [NO_REVISION]
        file = self.server.file(session_id)
        file["metadata"]["session_id"] = name
        self.talks[name] = copied
        self.watched.by_hand(copied, as_json(file), in_place=True)
        self.watched.check(name, by_hand=True)
        return name


@pytest.fixture(scope="module")
def watched_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, StandInThread]]:
    """A server that ends replies when it is told to stop, and none because its client is away."""
    environment = {"MOCHI_DISCONNECT_GRACE": "3600", "MOCHI_SHUTDOWN_SECONDS": "1"}
    with (
        StandInThread() as standin,
        Server(tmp_path_factory.mktemp("watched"), standin.url, environment=environment) as server,
    ):
        yield server, standin


def test_whatever_is_done_to_sessions_all_that_was_said_is_there(
    watched_server: tuple[Server, StandInThread],
) -> None:
    class Here(History):
        server, standin = watched_server

    run_state_machine_as_test(Here, settings=HOW)
