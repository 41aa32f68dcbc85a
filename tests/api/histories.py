"""What clients may do to sessions, in whatever order, and what must come of each request."""

from typing import Any

import httpx
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, multiple, precondition, rule

from mochi_server.ollama.standin import Behaviour
from tests.api.talks import Said, Talk, in_short
from tests.api.watched import CONDITIONS, Watched
from tests.chat.clients import parsed
from tests.server import Server, joined, told
from tests.standin_thread import StandInThread

WORDS = ("plain", "Straße", "ÄPFEL", "a\u0308pfel", "100%", "a_b", "two\nlines", "日本", "\x00", "'\"")
IDS = tuple(f"{n:010x}" for n in range(4))

sessions = Bundle("sessions")
conditions = st.sampled_from(["none"] * 20 + list(CONDITIONS))
words = st.sampled_from(WORDS)
places = st.sampled_from((*range(1, 10), 0, 99))
"""Which of the messages there are, counted around; the last means one that is not there."""

MOST_SESSIONS = 4


class Requests(RuleBasedStateMachine):
    """Sessions that requests are sent to. The server is the same for all histories."""

    server: Server
    standin: StandInThread

    def __init__(self) -> None:
        super().__init__()
        self.watched = Watched(self.server, self.standin)
        self.talks = self.watched.talks
        self._number = 0

    def teardown(self) -> None:
        self.watched.clean_up()

    def text(self, word: str) -> str:
        """Words that were not said before."""
        self._number += 1
        return f"{word} {self._number}"

    def prompted(self, talk: Talk, content: str | None) -> None:
        """Bring the model up to date with a system prompt."""
        system: Said | None = None
        if content is not None:
            system, *_ = in_short(self.server.ok("GET", f"/sessions/{talk.session_id}")["messages"])
            assert (system.role, system.content) == ("system", content)
        talk.prompt(system)

    def intact(self, session_id: str) -> Talk | None:
        """The session, if there is one that can be read."""
        return None if self.watched.refusals(session_id) else self.talks[session_id]

    def index(self, session_id: str, place: int, role: str | None = None) -> int:
        """What clients call that message, of those of a role."""
        talk = self.intact(session_id)
        there = [i for i, said in enumerate(talk.messages) if role in {None, said.role}] if talk else []
        return there[place % len(there)] if there and place != 99 else place

    @initialize(target=sessions, prompt=st.none() | words)
    def begin(self, prompt: str | None) -> Any:
        """A session with two turns, the second one in two versions."""
        session_id = self.create(None, "tiny", None, prompt, 2)
        self.regenerate(session_id, "", "whole", "none")
        return session_id

    @precondition(lambda self: len(self.talks) < MOST_SESSIONS)
    @rule(
        target=sessions,
        proposed=st.none() | st.sampled_from(IDS),
        model=st.sampled_from(("tiny", "tiny-json")),
        title=st.none() | words,
        prompt=st.none() | words,
        turns=st.integers(0, 2),
    )
    def create(self, proposed: str | None, model: str, title: str | None, prompt: str | None, turns: int) -> Any:
        options = {"seed": turns} if turns else None
        asked: dict[str, Any] = {"model": model, "title": title, "system_prompt": prompt, "options": options}
        if proposed is not None:
            asked["session_id"] = proposed
        response = self.server.call("POST", "/sessions", asked)
        if proposed in self.talks:
            assert told(response) == (409, "session_exists", {"session_id": proposed})
            self.watched.check(proposed)
            return multiple()
        assert response.status_code == 201
        made = response.json()
        talk = Talk(made["session_id"], model, title, options)
        assert proposed in {None, talk.session_id}
        self.talks[talk.session_id] = talk
        self.watched.saved(talk, response)
        self.prompted(talk, prompt)
        self.watched.check(talk.session_id, moved=True)
        for _ in range(turns):
            self.send(talk.session_id, "plain", "", "whole", "none", again=False)
        return talk.session_id

    @rule(
        session_id=sessions,
        changes=st.fixed_dictionaries(
            {},
            optional={
                "title": st.none() | words,
                "model": st.sampled_from(("tiny", "tiny-json", "no-such-model")),
                "options": st.none() | st.just({"top_k": 2}),
            },
        ),
        condition=conditions,
    )
    def patch(self, session_id: str, changes: dict[str, Any], condition: str) -> None:
        refusals = ((400, "model_not_found"),) if changes.get("model") == "no-such-model" else ()
        response = self.watched.write(
            session_id, "PATCH", "/sessions/{}", changes, condition=condition, refusals=refusals
        )
        if response is not None:
            talk = self.talks[session_id]
            for name, value in changes.items():
                setattr(talk, name, value)
            self.watched.saved(talk, response, changed=bool(changes))
            self.watched.check(session_id, moved=bool(changes))

    @precondition(lambda self: len(self.talks) == MOST_SESSIONS)
    @rule(session_id=sessions, condition=conditions)
    def delete(self, session_id: str, condition: str) -> None:
        response = self.watched.write(session_id, "DELETE", "/sessions/{}", condition=condition)
        if response is not None:
            assert response.status_code == 204
            del self.talks[session_id]
            assert not list(self.server.sessions.rglob(f"*{session_id}*"))
            self.watched.check(session_id)

    @rule(
        session_id=sessions,
        word=words,
        again=st.booleans(),
        form=st.sampled_from(("", "/stream")),
        fate=st.sampled_from(("whole", "whole", "refused", "broken", "no_done")),
        condition=conditions,
    )
    def send(self, session_id: str, word: str, form: str, fate: str, condition: str, *, again: bool) -> None:
        talk = self.talks.get(session_id)
        unanswered = talk.unanswered() if talk else None
        message = unanswered if again and unanswered else self.text(word)
        question = [] if message == unanswered else [("user", message)]
        self._reply(session_id, {"message": message}, question, form, fate, condition)

    @rule(
        session_id=sessions,
        form=st.sampled_from(("", "/stream")),
        fate=st.sampled_from(("whole", "whole", "refused", "broken")),
        condition=conditions,
    )
    def regenerate(self, session_id: str, form: str, fate: str, condition: str) -> None:
        self._reply(session_id, {"message": None}, [], form, fate, condition)

    def _reply(
        self, session_id: str, body: Any, question: list[tuple[str, str]], form: str, fate: str, condition: str
    ) -> None:
        """Ask for a reply that goes as `fate` has it."""
        talk = self.intact(session_id)
        empty = talk is not None and body["message"] is None and talk.last_question() is None
        pieces = (self.text("said"), " and", " more")
        behaviour = {
            "whole": Behaviour(pieces=pieces),
            "refused": Behaviour(fault="status"),
            "broken": Behaviour(pieces=pieces, fault="error_line", after=1),
            "no_done": Behaviour(pieces=pieces, fault="no_done", after=2),
        }[fate]
        refusals = ((400, "empty_history"),) if empty else ()
        path = "/chat/{}" + form
        response = self.watched.write(
            session_id, "POST", path, body, condition=condition, refusals=refusals, reply=behaviour
        )
        if response is None:
            return
        assert talk is not None
        shown = {"whole": "".join(pieces), "refused": "", "broken": pieces[0], "no_done": "".join(pieces[:2])}[fate]
        self.answered(talk, question, shown, changed=bool(question or shown))
        told_last = self._told_whole(response, shown, fate) if not form else self._told_stream(response, shown, fate)
        last = talk.messages[-1]
        assert told_last == (last.message_id if shown else None)
        if question or shown:
            self.watched.kept.add(session_id)
        session = self.watched.check(session_id, moved=bool(question or shown))
        if not form:
            assert response.headers["etag"] == f'"{session["revision"]}"'
        assert response.headers["x-session-id"] == session_id
        if shown:
            assert session["messages"][-1]["status"] == ("complete" if fate == "whole" else "interrupted")

    def answered(self, talk: Talk, question: list[tuple[str, str]], shown: str, *, changed: bool) -> None:
        """Bring the model up to date with a reply of which so much was shown; its revision is what the server says."""
        if shown and not question:
            place = talk.last_question()
            assert place is not None
            talk.cut(place + 1)
        self.watched.learn(talk, *question, *([("assistant", shown)] if shown else []))
        now = self.server.call("GET", f"/sessions/{talk.session_id}")
        self.watched.seen(talk, now, changed=changed)

    def _told_whole(self, response: httpx.Response, shown: str, fate: str) -> str | None:
        """The id of the message that the answer tells."""
        if fate == "whole":
            message: dict[str, Any] = response.json()["message"]
            assert message["content"] == shown
            return str(message["message_id"])
        status, code, details = told(response)
        assert (status, code) == (502, "ollama_error")
        return details.get("message_id")

    def _told_stream(self, response: httpx.Response, shown: str, fate: str) -> str | None:
        events = parsed(response.content)
        assert joined(events) == shown
        ending = {"whole": "complete"}.get(fate, "error")
        assert (events[-1].name, events[-1].data["status"]) == ("done", ending)
        before = events[-2].data
        message_id: str | None = before["message_id"] if fate == "whole" else before["details"].get("message_id")
        return message_id

    @rule(session_id=sessions, place=places, word=words, condition=conditions)
    def edit(self, session_id: str, place: int, word: str, condition: str) -> None:
        content, talk = self.text(word), self.intact(session_id)
        index = self.index(session_id, place, "user" if place % 4 else None)
        refusals = () if talk and talk.can_edit(index) else ((400, "invalid_message_index"),)
        path = f"/sessions/{{}}/messages/{index}"
        response = self.watched.write(
            session_id, "PUT", path, {"content": content}, condition=condition, refusals=refusals
        )
        if response is not None:
            assert talk is not None
            at = talk.place(index)
            assert at is not None
            talk.cut(at)
            (new,) = self.watched.learn(talk, ("user", content))
            answer = response.json()
            assert in_short([answer["message"]]) == [new]
            assert (answer["message_index"], answer["message_count"]) == (index, len(talk.messages))
            self.watched.saved(talk, response)
            self.watched.check(session_id, moved=True)

    @rule(session_id=sessions, place=places, condition=conditions)
    def truncate(self, session_id: str, place: int, condition: str) -> None:
        talk, index = self.intact(session_id), self.index(session_id, place)
        at = talk.place(index) if talk else None
        refusals = () if at is not None else ((400, "invalid_message_index"),)
        path = f"/sessions/{{}}/messages/{index}"
        response = self.watched.write(session_id, "DELETE", path, condition=condition, refusals=refusals)
        if response is not None:
            assert talk is not None
            assert at is not None
            talk.cut(at)
            assert response.json() == {"session_id": session_id, "message_count": len(talk.messages)}
            self.watched.saved(talk, response)
            self.watched.check(session_id, moved=True)

    @rule(session_id=sessions, which=st.integers(0, 30), condition=conditions)
    def turn(self, session_id: str, which: int, condition: str) -> None:
        talk = self.intact(session_id)
        there = sorted(talk.tree) if talk else []
        asked = there[which % len(there)] if there and which else "0123456789"
        refusals = () if asked in there else ((404, "message_not_found"),)
        response = self.watched.write(
            session_id, "PUT", "/sessions/{}/head", {"message_id": asked}, condition=condition, refusals=refusals
        )
        if response is not None:
            assert talk is not None
            talk.turn_to(asked)
            self.watched.saved(talk, response)
            session = self.watched.check(session_id, moved=True)
            assert response.json() == session
            assert asked in talk.path

    @rule(session_id=sessions, word=st.none() | words, condition=conditions)
    def prompt(self, session_id: str, word: str | None, condition: str) -> None:
        path, talk = "/sessions/{}/system-prompt", self.intact(session_id)
        before = talk.system if talk else None
        if word is None:
            response = self.watched.write(session_id, "DELETE", path, condition=condition)
        else:
            response = self.watched.write(session_id, "PUT", path, {"content": word}, condition=condition)
        if response is not None:
            assert talk is not None
            changed = word is not None or before is not None
            self.watched.saved(talk, response, changed=changed)
            self.prompted(talk, word)
            self.watched.check(session_id, moved=changed)
