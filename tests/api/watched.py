"""A server that is held to a model of its sessions at each step."""

import json
import re
from typing import Any

import httpx

from mochi_server.ollama.standin import Behaviour
from tests.api.talks import NO_REVISION, Said, Talk, in_short, newest_first
from tests.server import API, Server, told
from tests.standin_thread import StandInThread

REVISION = re.compile('"([0-9a-f]{16})"')

CONDITIONS: dict[str, tuple[str | None, tuple[int, str] | None]] = {
    "none": (None, None),
    "current": ('"{now}"', None),
    "any": ("*", None),
    "a list with the current": ('"{old}" ,W/"x","{now}"', None),
    "old": ('"{old}"', (412, "revision_conflict")),
    "a list of others": ('"{old}", "ffffffffffffffff"', (412, "revision_conflict")),
    "weak": ('W/"{now}"', (412, "revision_conflict")),
    "no quotes": ("{now}", (422, "validation_error")),
    "a star among others": ('*, "{now}"', (422, "validation_error")),
}
"""What `If-Match` may say, and how it is refused."""

MISSING = (404, "session_not_found")
DAMAGED = (409, "session_damaged")
Refusals = tuple[tuple[int, str], ...]


class Watched:
    """The server, and what must be true of it. Sessions that are not in `talks` are not there."""

    def __init__(self, server: Server, standin: StandInThread) -> None:
        self.server = server
        self.standin = standin
        self.talks: dict[str, Talk] = {}
        self.kept: set[str] = set()
        """The sessions whose file the server itself has written last."""
        self._chats = len(standin.chats)
        self._scripted = 0

    def script(self, behaviour: Behaviour) -> None:
        """How the next reply goes."""
        self._scripted += 1
        self.standin.script(behaviour)

    def write(
        self,
        session_id: str,
        method: str,
        path: str,
        body: object = None,
        *,
        condition: str = "none",
        refusals: Refusals = (),
        reply: Behaviour | None = None,
    ) -> httpx.Response | None:
        """Send a change: the answer if it is to go through, None once it was refused as it must be.

        `refusals` are what else stands in its way. `{}` in the path is the session.
        """
        talk = self.talks.get(session_id)
        template, refusal = CONDITIONS[condition]
        wrong = self.refusals(session_id) or (*refusals, *([refusal] if refusal else []))
        if refusal and refusal[0] == 422:
            wrong = (*wrong, refusal)
        headers: dict[str, str] = {}
        if template is not None:
            now, old = (talk.revision, talk.old) if talk else (NO_REVISION, NO_REVISION)
            headers["If-Match"] = template.format(now=now, old=old)
        if reply is not None and not wrong:
            self.script(reply)
        asked = len(self.standin.chats)
        response = self.server.call(method, path.format(session_id), body, **headers)
        if not wrong:
            return response
        status, code, details = told(response)
        assert (status, code) in wrong
        if code == "revision_conflict":
            assert talk is not None
            assert details == {"session_id": session_id, "revision": talk.revision}
            assert response.headers["etag"] == f'"{talk.revision}"'
        assert len(self.standin.chats) == asked
        self.check(session_id)
        return None

    def refusals(self, session_id: str) -> Refusals:
        """What any access to the session meets."""
        talk = self.talks.get(session_id)
        if talk is None:
            return (MISSING,)
        return (DAMAGED,) if talk.whole is not None else ()

    def saved(self, talk: Talk, response: httpx.Response, *, changed: bool = True) -> None:
        """Note what a write that went through has done."""
        assert response.is_success, response.text
        self.seen(talk, response, changed=changed)
        if changed:
            self.kept.add(talk.session_id)

    def seen(self, talk: Talk, response: httpx.Response, *, changed: bool = True) -> None:
        """Note the revision that an answer tells: never one of before, unless nothing was changed."""
        match = REVISION.fullmatch(response.headers["etag"])
        assert match, response.headers["etag"]
        if changed:
            assert match[1] not in talk.revisions
            talk.revisions.append(match[1])
        assert match[1] == talk.revision

    def check(self, session_id: str, *, moved: bool = False, by_hand: bool = False) -> dict[str, Any]:
        """All ways to read the session tell what the model knows; the session as it was read.

        With `moved` its `updated_at` must be newer than before, with `by_hand` its revision another one.
        """
        talk = self.talks.get(session_id)
        if wrong := self.refusals(session_id):
            for below in ("", "/messages", "/tree", "/status"):
                assert self.server.error("GET", f"/sessions/{session_id}{below}")[:2] in wrong
            return {}
        assert talk is not None
        response = self.server.call("GET", f"/sessions/{session_id}")
        session: dict[str, Any] = response.json()
        if by_hand:
            assert session["revision"] != talk.revision
            talk.revisions.append(session["revision"])
        assert response.headers["etag"] == f'"{talk.revision}"' == f'"{session["revision"]}"'
        assert session["updated_at"] > talk.updated_at if moved else session["updated_at"] == talk.updated_at
        talk.updated_at = session["updated_at"]
        assert in_short(session["messages"]) == talk.messages
        known = (session["model"], session["title"], session["options"], session["message_count"])
        assert known == (talk.model, talk.title, talk.options, len(talk.messages))
        assert {name: session[name] for name in talk.notes} == talk.notes
        self._check_other_reads(talk, session)
        self._check_file(talk)
        return session

    def _check_other_reads(self, talk: Talk, session: dict[str, Any]) -> None:
        at = f"/sessions/{talk.session_id}"
        assert self.server.ok("GET", f"{at}/messages") == {"messages": session["messages"]}
        response = self.server.call("GET", f"{at}/tree")
        assert response.headers["etag"] == f'"{talk.revision}"'
        tree = response.json()
        assert tree["head"] == talk.head
        nodes = in_short(tree["messages"])
        assert len(nodes) == len(talk.tree)
        assert {node.message_id: node for node in nodes} == talk.tree
        status = self.server.ok("GET", f"{at}/status")
        assert (status["message_count"], status["generation"]) == (len(talk.messages), None)

    def _check_file(self, talk: Talk) -> None:
        file = self.server.file(talk.session_id)
        path, detached = in_short(file["messages"]), in_short(file["detached"])
        assert {m.message_id for m in (*path, *detached)} >= {*talk.tree, *talk.prompts}
        assert talk.prompts.items() <= {m.message_id: m.content for m in detached}.items()
        if talk.session_id in self.kept:
            assert path == talk.messages
            assert file["metadata"]["revision"] == talk.revision
            assert file["metadata"]["message_count"] == len(talk.messages)

    def learn(self, talk: Talk, *expected: tuple[str, str]) -> list[Said]:
        """What was said since: new messages of these roles and contents, each after the head, added to the model."""
        nodes = in_short(self.server.ok("GET", f"/sessions/{talk.session_id}/tree")["messages"])
        learnt: list[Said] = []
        for one in expected:
            (said,) = [n for n in nodes if (n.role, n.content) == one and n.message_id not in talk.tree]
            talk.add(said)
            learnt.append(said)
        return learnt

    def listed(self, query: dict[str, str | int], q: str | None, model: str | None) -> tuple[list[str], str | None]:
        """One page's ids and cursor; its total, its `damaged` and each session's line are as the model has them."""
        response = self.server.client.get(f"{API}/sessions", params=query)
        assert response.status_code == 200, response.text
        page = response.json()
        assert page["total"] == len(newest_first(self.talks.values(), q, model))
        damaged = sorted(talk.session_id for talk in self.talks.values() if talk.whole is not None)
        assert [one["session_id"] for one in page["damaged"]] == damaged
        for one in page["sessions"]:
            talk = self.talks[one["session_id"]]
            known = (talk.title, talk.model, talk.updated_at, len(talk.messages), talk.preview())
            assert (one["title"], one["model"], one["updated_at"], one["message_count"], one["preview"]) == known
        return [one["session_id"] for one in page["sessions"]], page["next_cursor"]

    def by_hand(self, talk: Talk, content: bytes, *, in_place: bool) -> None:
        """Write the session's file as an editor does: over it, or a new one in its place."""
        file = self.server.sessions / f"{talk.session_id}.json"
        self.kept.discard(talk.session_id)
        if in_place:
            file.write_bytes(content)
        else:
            beside = file.with_suffix(".json.swp")
            beside.write_bytes(content)
            beside.replace(file)

    def clean_up(self) -> None:
        """Leave nothing of this model's sessions, and nothing of what was scripted."""
        if self.server.process.poll() is not None:
            self.server.start()
        for session_id in self.talks:
            (self.server.sessions / f"{session_id}.json").unlink(missing_ok=True)
            self.server.call("GET", f"/sessions/{session_id}")
        for _ in range(self._scripted - (len(self.standin.chats) - self._chats)):
            said = {"model": "tiny", "messages": [{"role": "user", "content": "the rest"}]}
            httpx.post(f"{self.standin.url}/api/chat", json=said, timeout=5, trust_env=False)


def as_json(content: dict[str, Any]) -> bytes:
    """As somebody's editor would indent it."""
    return json.dumps(content, indent=4, ensure_ascii=False).encode()
