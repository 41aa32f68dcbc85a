"""One client of the soak: whatever can be done with a server, at random, each time holding what comes of it."""

import itertools
import random
from collections import Counter
from collections.abc import Callable

from tests.pictures import base64_of, digest, png
from tests.soak.client import Answer, Client, Heard, Wrong
from tests.soak.refusals import REFUSALS
from tests.soak.speech import MODEL, Question, question
from tests.soak.talks import (
    Talk,
    asks,
    check_heard,
    check_left,
    check_path,
    chunks,
    messages,
    new_talk,
    wait_until_idle,
)

MOST_TALKS, MOST_TURNS = 3, 12
"""How many sessions a client has, and how many turns one: what there is must not grow by itself."""

FAULTY = 0.12
"""How many of the replies fail at Ollama."""


class Worker:
    """Has a few sessions and works with them, until it is told to have none."""

    def __init__(self, port: int, seed: int) -> None:
        self.client = Client(port)
        self.done: Counter[str] = Counter()
        self.compared = 0
        self.provoked: Counter[int] = Counter()
        """Answers of a status from 500 on that were Ollama's own fault, by status."""
        self._chance = random.Random(seed)  # noqa: S311 - it must be repeatable
        self._talks: list[Talk] = []

    def work(self) -> None:
        """Do one thing. Raises Wrong, OSError."""
        talk = self._talk()
        (operation,) = self._chance.choices([*self._operations()], [*self._operations().values()])
        operation(talk)
        self.done[operation.__name__.strip("_")] += 1
        if talk.turns >= MOST_TURNS or self._chance.random() < 0.02:
            self._delete(talk)

    def tidy(self) -> None:
        """Have no session any more."""
        for talk in self._talks.copy():
            self._delete(talk)

    def _operations(self) -> dict[Callable[[Talk], None], int]:
        return {
            self._stream: 20,
            self._whole: 10,
            self._leave_and_resume: 12,
            self._leave: 8,
            self._stop: 8,
            self._join: 6,
            self._regenerate: 6,
            self._edit: 5,
            self._truncate: 4,
            self._go_back: 3,
            self._set_system: 3,
            self._rename: 4,
            self._show_an_image: 5,
            self._repeat: 4,
            self._openai_whole: 4,
            self._openai_stream: 5,
            self._openai_in_a_session: 5,
            self._first_message: 4,
            self._prompt_file: 3,
            self._be_refused: 12,
            self._look: 8,
            self._speak_no_http: 3,
        }

    def _talk(self) -> Talk:
        if len(self._talks) < MOST_TALKS and (not self._talks or self._chance.random() < 0.2):
            self._talks.append(new_talk(self.client, self._chance))
        return self._chance.choice(self._talks)

    def _faulty(self) -> bool:
        return self._chance.random() < FAULTY

    def _stream(self, talk: Talk) -> None:
        asked, heard = asks(talk, self._chance, fault=self._faulty()), Heard()
        with self.client.streaming("POST", f"{talk.chat}/stream", {"message": asked.text}) as events:
            for event in events:
                heard.take(event)
        self._compare(talk, asked, heard)

    def _whole(self, talk: Talk) -> None:
        asked = asks(talk, self._chance, fault=self._faulty())
        answer = self.client.ask("POST", talk.chat, {"message": asked.text})
        if asked.fault:
            self._check_failed(talk, asked, answer)
            return
        self._same(answer.status, 200, f"the status of {answer.body[:300]!r}")
        self._same(answer.json()["message"]["content"], asked.content(), "a whole reply")
        self._said(talk, asked)

    def _leave_and_resume(self, talk: Talk) -> None:
        asked, heard = asks(talk, self._chance), Heard()
        with self.client.streaming("POST", f"{talk.chat}/stream", {"message": asked.text}) as events:
            for event in itertools.islice(events, self._chance.randint(1, 10)):
                heard.take(event)
        if self._chance.random() < 0.5:
            way, headers = f"{talk.chat}/stream", {"Last-Event-ID": heard.last_id}
        else:
            way, headers = f"{talk.chat}/stream?after={heard.last_id}", {}
        if not heard.ending:
            with self.client.streaming("GET", way, None, headers) as events:
                for event in events:
                    heard.take(event)
        self._compare(talk, asked, heard, may_be_cut=True)
        over = self.client.ask("GET", f"{talk.chat}/stream", None, {"Last-Event-ID": heard.last_id})
        self._same(over.status, 204, "the answer to who has heard all")

    def _leave(self, talk: Talk) -> None:
        asked, heard = asks(talk, self._chance), Heard()
        with self.client.streaming("POST", f"{talk.chat}/stream", {"message": asked.text}) as events:
            for event in itertools.islice(events, self._chance.randint(0, 10)):
                heard.take(event)
        wait_until_idle(self.client, talk)
        check_left(self.client, talk, asked, heard)
        self.compared += 1

    def _stop(self, talk: Talk) -> None:
        asked, heard = asks(talk, self._chance), Heard()
        last = self._chance.randint(1, 10)
        with self.client.streaming("POST", f"{talk.chat}/stream", {"message": asked.text}) as events:
            for event in events:
                heard.take(event)
                if event.number == last:
                    self.client.ok("POST", f"{talk.chat}/stop")
        self._compare(talk, asked, heard, may_be_cut=True)

    def _join(self, talk: Talk) -> None:
        asked, first, second = asks(talk, self._chance, fault=self._faulty()), Heard(), Heard()
        with self.client.streaming("POST", f"{talk.chat}/stream", {"message": asked.text}) as events:
            first.take(next(events))
            with self.client.streaming("GET", f"{talk.chat}/stream") as joined:
                for event in events:
                    first.take(event)
                for event in joined:
                    second.take(event)
        self._same(second.events, first.events, "what a second listener heard")
        self._compare(talk, asked, first)

    def _regenerate(self, talk: Talk) -> None:
        asked = asks(talk, self._chance)
        self.client.ok("POST", talk.chat, {"message": asked.text})
        heard = Heard()
        with self.client.streaming("POST", f"{talk.chat}/stream", {"message": None}) as events:
            for event in events:
                heard.take(event)
        self._compare(talk, asked, heard)

    def _edit(self, talk: Talk) -> None:
        if not talk.users:
            return
        place, asked = self._chance.choice(talk.users), question(self._chance)
        self.client.ok("PUT", talk.at(place), {"content": asked.text})
        talk.path[place:] = [("user", asked.text)]
        check_path(self.client, talk)

    def _truncate(self, talk: Talk) -> None:
        if not talk.users:
            return
        place = self._chance.choice(talk.users)
        self.client.ok("DELETE", talk.at(place))
        del talk.path[place:]
        check_path(self.client, talk)

    def _go_back(self, talk: Talk) -> None:
        tree = self.client.ok("GET", f"/sessions/{talk.id}/tree")["messages"]
        if not tree:
            return
        chosen = self._chance.choice(tree)["message_id"]
        told = self.client.ok("PUT", f"/sessions/{talk.id}/head", {"message_id": chosen})["messages"]
        if chosen not in {one["message_id"] for one in told}:
            raise Wrong(f"message {chosen} of session {talk.id} is not on the path to it")
        talk.path = [(one["role"], one["content"]) for one in told]
        check_path(self.client, talk)

    def _set_system(self, talk: Talk) -> None:
        path, had = f"/sessions/{talk.id}/system-prompt", bool(talk.path) and talk.path[0][0] == "system"
        content = f"prompt {self._chance.getrandbits(32)}"
        if had and self._chance.random() < 0.5:
            self.client.ok("DELETE", path)
            del talk.path[0]
        else:
            self.client.ok("PUT", path, {"content": content})
            talk.path[: int(had)] = [("system", content)]
        check_path(self.client, talk)

    def _rename(self, talk: Talk) -> None:
        title = f"title {self._chance.getrandbits(32)}"
        told = self.client.ok("PATCH", f"/sessions/{talk.id}", {"title": title})
        self._same(told["title"], title, "a new title")
        found = self.client.ok("GET", f"/sessions?q={title.replace(' ', '%20')}")["sessions"]
        self._same([one["session_id"] for one in found], [talk.id], "the sessions of that title")

    def _show_an_image(self, talk: Talk) -> None:
        image = png(self._chance.randrange(65_536), filler=self._chance.choice((0, 20_000)))
        asked = asks(talk, self._chance)
        self.client.ok("POST", talk.chat, {"message": asked.text, "images": base64_of(image)})
        self._same(self.client.ask("GET", f"/images/{digest(image)}").body, image, "an image")
        self._said(talk, asked)

    def _repeat(self, talk: Talk) -> None:
        asked = asks(talk, self._chance)
        key = {"Idempotency-Key": asked.word}
        told = [self.client.ok("POST", talk.chat, {"message": asked.text}, key)["message"] for _ in range(2)]
        self._same(told[1], told[0], "what was asked for twice under one key")
        self._said(talk, asked)

    def _openai_whole(self, _talk: Talk) -> None:
        asked = question(self._chance, fault=self._faulty())
        answer = self.client.ask("POST", "/chat/completions", self._completion(asked), root="/v1")
        if asked.fault:
            self._check_code(asked, answer)
            return
        self._same(answer.json()["choices"][0]["message"]["content"], asked.content(), "a completion")

    def _openai_stream(self, _talk: Talk) -> None:
        asked = question(self._chance)
        answer = self.client.ask("POST", "/chat/completions", self._completion(asked, stream=True), root="/v1")
        self._same(chunks(answer.body)[0], asked.content(), "a completion's stream")

    def _openai_in_a_session(self, talk: Talk) -> None:
        asked = asks(talk, self._chance)
        body, memory = self._completion(asked, stream=True), {"X-Session-Id": talk.id}
        said, told = chunks(self.client.ask("POST", "/chat/completions", body, memory, root="/v1").body)
        self._same(said, asked.content(), "a completion's stream in a session")
        self._said(talk, asked)
        self._same(
            told[-1].get("message_id"), messages(self.client, talk)[-1]["message_id"], "the id of what was saved"
        )

    def _first_message(self, _talk: Talk) -> None:
        asked, heard = question(self._chance), Heard()
        with self.client.streaming("POST", "/chat/stream", {"message": asked.text, "model": MODEL}) as events:
            for event in events:
                heard.take(event)
        talk = Talk((heard.told("done") or {})["session_id"])
        talk.path.append(("user", asked.text))
        self._compare(talk, asked, heard)
        self._delete(talk)

    def _prompt_file(self, _talk: Talk) -> None:
        name = f"p{self._chance.getrandbits(40):x}.md"
        self.client.ok("POST", "/system-prompts", {"filename": name, "content": "Be brief."})
        self.client.ok("PUT", f"/system-prompts/{name}", {"content": "Be long."})
        self._same(self.client.ok("GET", f"/system-prompts/{name}")["content"], "Be long.", "a prompt file")
        self.client.ok("DELETE", f"/system-prompts/{name}")

    def _be_refused(self, talk: Talk) -> None:
        refusal = self._chance.choice(REFUSALS)
        path = refusal.path.replace("{session}", talk.id)
        answer = self.client.ask(refusal.method, path, refusal.body, refusal.headers, root="")
        self._same((answer.status, answer.code()), (refusal.status, refusal.code), f"{refusal.method} {path}")
        check_path(self.client, talk)

    def _look(self, talk: Talk) -> None:
        paths = ("/sessions?limit=5", "/sessions?q=prompt", "/models", f"/models/{MODEL}", "/system-prompts", "/health")
        for path in (*paths, "/health/ready", f"/sessions/{talk.id}", f"/sessions/{talk.id}/status"):
            self.client.ok("GET", path)
        for path in ("/metrics", "/openapi.json", "/docs", "/v1/models"):
            self._same(self.client.ask("GET", path, root="").status, 200, path)

    def _speak_no_http(self, _talk: Talk) -> None:
        answer = self.client.raw(
            self._chance.choice((b"\x16\x03\x01\0\0", b"GARBAGE\r\n\r\n", b"GET / HTTP/1.1\r\nHost"))
        )
        if answer and not answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 408")):
            raise Wrong(f"bytes that are no HTTP were answered {answer[:200]!r}")

    def _delete(self, talk: Talk) -> None:
        self.client.ok("DELETE", f"/sessions/{talk.id}")
        self._same(self.client.ask("GET", f"/sessions/{talk.id}").status, 404, "the status of a deleted session")
        if talk in self._talks:
            self._talks.remove(talk)

    def _compare(self, talk: Talk, asked: Question, heard: Heard, *, may_be_cut: bool = False) -> None:
        check_heard(self.client, talk, asked, heard, may_be_cut=may_be_cut)
        self.compared += 1

    def _said(self, talk: Talk, asked: Question) -> None:
        """The reply was shown whole: it is what is kept."""
        talk.path.append(("assistant", asked.content()))
        check_path(self.client, talk)
        self.compared += 1

    def _check_failed(self, talk: Talk, asked: Question, answer: Answer) -> None:
        """A whole reply that failed at Ollama: part of it may be kept."""
        self._check_code(asked, answer)
        check_left(self.client, talk, asked, Heard())

    def _check_code(self, asked: Question, answer: Answer) -> None:
        self._same(answer.code(), asked.code, f"the error that {asked.text!r} is to end with")
        self.provoked[answer.status] += 1

    @staticmethod
    def _completion(asked: Question, *, stream: bool = False) -> dict[str, object]:
        return {"model": MODEL, "messages": [{"role": "user", "content": asked.text}], "stream": stream}

    @staticmethod
    def _same(seen: object, wanted: object, what: str) -> None:
        if seen != wanted:
            raise Wrong(f"{what} is {str(seen)[:500]}, not {str(wanted)[:500]}")
