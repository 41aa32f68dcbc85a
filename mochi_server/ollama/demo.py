"""The stand-in of `--demo`: a model `demo` that shows a newcomer what the server does, without any Ollama."""

import hashlib
import re

from mochi_server.ollama.standin import ChatCall, Message, Model, Reply, StandIn

_ECHO_LENGTH = 60
_REMEMBERED_CALLS = 1000

_TIPS = (
    "GET /api/v1/sessions lists your sessions, the newest first.",
    "This session is one .json file in the sessions folder; open it, it is made to be read.",
    'POST /api/v1/chat/{id}/stream with {"message": null} has your last message answered once more.',
    'PUT /api/v1/sessions/{id}/messages/{index} with {"content": "..."} edits your message, and keeps the old one too.',
    "POST /api/v1/chat/{id}/stop stops a reply, and what it had said by then is kept.",
    "To talk to a real model, start Ollama, and this server without --demo.",
)
_THINKING = (
    "I do not really think. A thinking model would reason here, and its thoughts would come to you as they come now: "
    "before the answer, and apart from it."
)


def demo_standin(words_per_second: float = 30.0) -> StandIn:
    """Make the stand-in that `--demo` starts: it has one model, `demo:latest`, which counts words as tokens."""
    model = Model(
        name="demo:latest",
        reply=_Demo(1 / words_per_second).reply,
        digest=hashlib.sha256(b"demo").hexdigest(),
        capabilities=("completion", "thinking"),
        context_length=8192,
        family="demo",
        parameter_size="",
        quantization_level="",
    )
    return StandIn([model])


class _Demo:
    """Answers in a few sentences, with a tip that goes with the number of the question and of the try."""

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._tries: dict[int, int] = {}

    def reply(self, call: ChatCall) -> Reply:
        said = [message for message in call.messages if message.role != "system"]
        asked = [message for message in said if message.role == "user"]
        tip = _TIPS[(max(len(asked), 1) - 1 + self._earlier_tries(call)) % len(_TIPS)]
        sentences = (
            "Hello! I am the stand-in that is built into mochi-server, not a language model.",
            _echo(asked[-1].content if asked else ""),
            _history(len(said) - 1, has_system_prompt=len(said) < len(call.messages)),
            f"A tip: {tip}",
        )
        return Reply(
            thinking=_words(_THINKING) if call.think else (),
            pieces=_words(" ".join(sentences)),
            interval=self._interval,
        )

    def _earlier_tries(self, call: ChatCall) -> int:
        """Count how often the very same history was answered before, so that a regenerated reply is another one."""
        if len(self._tries) >= _REMEMBERED_CALLS:
            self._tries.clear()
        history = hash(tuple(map(_spoken, call.messages)))
        earlier = self._tries.get(history, 0)
        self._tries[history] = earlier + 1
        return earlier


def _spoken(message: Message) -> tuple[str, str]:
    return message.role, message.content


def _echo(text: str) -> str:
    line = " ".join(text.split())
    if not line:
        return "Your message came without words."
    return f'You wrote: "{line if len(line) <= _ECHO_LENGTH else line[: _ECHO_LENGTH - 1] + "…"}".'


def _history(earlier: int, *, has_system_prompt: bool) -> str:
    prompt = " and the system prompt" if has_system_prompt else ""
    if earlier <= 0:
        with_it = f"With it came no earlier message{prompt and ', but the system prompt'}"
        return f"{with_it}: this is where our session starts."
    messages = "1 earlier message" if earlier == 1 else f"{earlier} earlier messages"
    return f"With it came {messages}{prompt}: the session is remembered."


def _words(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\s*\S+", text))
