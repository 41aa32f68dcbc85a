"""What Ollama says in the soak: each question says itself how it is to be answered, and how that is to fail."""

import random
from typing import NamedTuple

from mochi_server.ollama.standin import Behaviour, ChatCall, Fault, Model, Reply, StandIn

MODEL = "soak"
SILENCE = 5.0
"""Seconds without a token after which the server gives a reply up; no other reply pauses for nearly as long."""

_ODD = ("— naïve 日本語 👩‍🚀 ", "\u2028next\u0085line\r\n", '"quoted" \\ and\ttabbed ')
_SLOWEST = 0.02
"""Seconds between two pieces."""

FAULTS: dict[str, tuple[Fault, int, str]] = {
    "refused": ("status", 500, "ollama_error"),
    "busy": ("status", 503, "ollama_busy"),
    "error_line": ("error_line", 200, "ollama_error"),
    "reset": ("reset", 200, "ollama_error"),
    "early_end": ("early_end", 200, "ollama_error"),
    "no_done": ("no_done", 200, "ollama_error"),
    "garbage": ("garbage", 200, "ollama_error"),
    "silence": ("silence", 200, "ollama_timeout"),
}
"""By name: what the stand-in does, with which status, and the code that clients are told."""


class Question(NamedTuple):
    """A user's message, and all that is known of its answer. `after` so many pieces it fails, if it does."""

    word: str
    pieces: int
    thoughts: int
    pace: float
    fault: str = ""
    after: int = 0

    @property
    def text(self) -> str:
        """As it is sent."""
        fields = (self.word, self.pieces, self.thoughts, self.pace, self.fault or "-", self.after)
        return " ".join(map(str, fields))

    @property
    def code(self) -> str:
        """Of the error that it ends with; empty where it ends well."""
        return FAULTS[self.fault][2] if self.fault else ""

    def answer(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The pieces that are said, and those that are thought: always the same."""
        chance = random.Random(self.word)  # noqa: S311 - it is to be guessed

        def piece(number: int) -> str:
            return f"{self.word}.{number} " + (chance.choice(_ODD) if chance.random() < 0.1 else "")

        spoken = [piece(number) for number in range(self.thoughts + self.pieces)]
        return tuple(spoken[self.thoughts :]), tuple(spoken[: self.thoughts])

    def content(self) -> str:
        """All that is said."""
        return "".join(self.answer()[0])

    def thinking(self) -> str:
        """All that is thought."""
        return "".join(self.answer()[1])


def question(chance: random.Random, *, fault: bool = False) -> Question:
    """A new one, of which the answer fails if it is to."""
    word = f"w{chance.getrandbits(48):012x}"
    pieces, thoughts = chance.randint(3, 40), chance.choice((0, 0, 0, 3))
    pace = round(chance.choice((0.0, chance.uniform(0.0005, _SLOWEST))), 4)
    kind = chance.choices([*FAULTS], [1 if name == "silence" else 6 for name in FAULTS])[0] if fault else ""
    # A silence before the first piece is another limit's, of minutes.
    after = 0 if kind in {"refused", "busy"} else chance.randint(int(kind == "silence"), thoughts + pieces)
    return Question(word, pieces, thoughts, pace, kind, after)


def read(text: str) -> Question:
    """The question that was sent as this."""
    word, pieces, thoughts, pace, fault, after = text.split(" ")
    return Question(word, int(pieces), int(thoughts), float(pace), fault.replace("-", ""), int(after))


def standin() -> StandIn:
    """An Ollama that answers questions as they say."""
    told: list[StandIn] = []

    def reply(call: ChatCall) -> Reply:
        asked = read(call.messages[-1].content)
        content, thinking = asked.answer()
        return Reply(pieces=content, thinking=thinking, interval=asked.pace)

    def script(call: ChatCall) -> int:
        # The stand-in counts a prompt just before it looks at how its reply is to go: so that goes to this one.
        asked = read(call.messages[-1].content)
        if asked.fault:
            fault, status, _ = FAULTS[asked.fault]
            told[0].script(Behaviour(fault=fault, status=status, after=asked.after, interval=asked.pace))
        return 0

    model = Model(
        name=f"{MODEL}:latest",
        reply=reply,
        digest="50a" + "0" * 61,
        capabilities=("completion", "thinking", "vision"),
        context_length=32_768,
        count_message=lambda _message: 1,
        count_frame=script,
    )
    told.append(StandIn([model]))
    return told[0]
