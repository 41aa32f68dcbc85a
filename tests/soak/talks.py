"""A client's sessions: what was said in them as it was shown, and whether that is what is kept."""

import json
import random
import time
from typing import Any

from tests.server import LIMIT
from tests.soak.client import Client, Heard, Wrong
from tests.soak.speech import MODEL, Question, question

Said = tuple[str, str]
"""A role, and what was said."""


class Talk:
    """One session. `path` is what its active path must be, a system prompt first."""

    def __init__(self, session_id: str, system: str | None = None) -> None:
        self.id = session_id
        self.path: list[Said] = [] if system is None else [("system", system)]
        self.turns = 0

    @property
    def users(self) -> list[int]:
        """The places of the user's messages."""
        return [place for place, (role, _) in enumerate(self.path) if role == "user"]

    @property
    def chat(self) -> str:
        """The path of its replies."""
        return f"/chat/{self.id}"

    def at(self, place: int) -> str:
        """The path of a message."""
        return f"/sessions/{self.id}/messages/{place}"


def messages(client: Client, talk: Talk) -> list[dict[str, Any]]:
    """What is kept on the active path."""
    kept: list[dict[str, Any]] = client.ok("GET", f"/sessions/{talk.id}/messages")["messages"]
    return kept


def check_path(client: Client, talk: Talk) -> None:
    """Raises Wrong where the session is not what its client made of it."""
    kept = [(one["role"], one["content"]) for one in messages(client, talk)]
    if kept != talk.path:
        raise Wrong(f"session {talk.id} has {str(kept)[-500:]}, where {str(talk.path)[-500:]} was said")


def wait_until_idle(client: Client, talk: Talk) -> None:
    """Until no reply runs in the session. Raises Wrong where one does not end."""
    end = time.monotonic() + LIMIT
    while client.ok("GET", f"/sessions/{talk.id}/status")["generation"] is not None:
        if time.monotonic() > end:
            raise Wrong(f"the reply in session {talk.id} does not end")
        time.sleep(0.02)


def check_heard(client: Client, talk: Talk, asked: Question, heard: Heard, *, may_be_cut: bool = False) -> None:
    """Hold what was shown to what Ollama said, to how that was to end, and to what is kept. Raises Wrong."""
    content, thinking = heard.text("content_delta"), heard.text("thinking_delta")
    check_words(asked, content, thinking)
    error = heard.told("error")
    code = "" if error is None else str(error["code"])
    wanted = {"error"} if asked.fault else {"complete", "interrupted"} if may_be_cut else {"complete"}
    if code != asked.code or heard.ending not in wanted:
        raise Wrong(f"the reply to {asked.text!r} ended as {heard.ending!r}, with {error}")
    if heard.ending == "complete" and (content, thinking) != (asked.content(), asked.thinking()):
        raise Wrong(f"{asked.text!r} was answered {content!r}")
    _keep(client, talk, content, thinking, heard.message_id)


def check_words(asked: Question, content: str, thinking: str = "") -> None:
    """Raises Wrong where this is not what Ollama began to say."""
    if not (asked.content().startswith(content) and asked.thinking().startswith(thinking)):
        raise Wrong(f"{asked.text!r} was answered {content!r}, with the thought {thinking!r}")


def _keep(client: Client, talk: Talk, content: str, thinking: str, message_id: str | None) -> None:
    """The reply is the newest message, exactly as it was shown; where nothing was shown nothing is."""
    if message_id is not None:
        talk.path.append(("assistant", content))
    elif content or thinking:
        raise Wrong(f"{content!r} was shown in session {talk.id}, and not saved")
    check_path(client, talk)
    last = messages(client, talk)[-1]
    if message_id is not None and (last["message_id"], last["thinking"] or "") != (message_id, thinking):
        raise Wrong(f"message {message_id} is kept as {last}, where {thinking!r} was thought")


def check_left(client: Client, talk: Talk, asked: Question, heard: Heard) -> None:
    """Of a reply that was left alone: what was shown is kept, and perhaps a little more of what Ollama said."""
    kept = messages(client, talk)
    last = kept[-1]
    if last["role"] == "assistant" and len(kept) == len(talk.path) + 1:
        check_words(asked, last["content"], last["thinking"] or "")
        talk.path.append(("assistant", last["content"]))
        if not last["content"].startswith(heard.text("content_delta")):
            raise Wrong(f"{heard.text('content_delta')!r} was shown in session {talk.id}, {last['content']!r} is kept")
    elif heard.text("content_delta") or heard.text("thinking_delta"):
        raise Wrong(f"what was shown in session {talk.id} is not kept")
    check_path(client, talk)


def new_talk(client: Client, chance: random.Random) -> Talk:
    """A session, with a system prompt now and then."""
    system = f"prompt {chance.getrandbits(32)}" if chance.random() < 0.3 else None
    told = client.ok("POST", "/sessions", {"model": MODEL, "system_prompt": system, "title": "a soak"})
    return Talk(told["session_id"], system)


def asks(talk: Talk, chance: random.Random, *, fault: bool = False) -> Question:
    """A new message in it."""
    asked = question(chance, fault=fault)
    talk.path.append(("user", asked.text))
    talk.turns += 1
    return asked


def chunks(body: bytes) -> tuple[str, list[dict[str, Any]]]:
    """The text in a stream for OpenAI's clients, and all its chunks."""
    lines = [line.removeprefix(b"data: ") for line in body.split(b"\n\n") if line.startswith(b"data: ")]
    if not lines or lines.pop() != b"[DONE]":
        raise Wrong(f"a stream for OpenAI's clients ended with {body[-200:]!r}")
    told = [json.loads(line) for line in lines]
    return "".join(one["choices"][0]["delta"].get("content") or "" for one in told if one.get("choices")), told
