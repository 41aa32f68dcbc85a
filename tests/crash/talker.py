"""What Ollama is in the kill test: a model that never says the same twice, and remembers what it said."""

import itertools
import random
from typing import NamedTuple

from mochi_server.ollama.standin import ChatCall, Model, Reply

MODEL = "talker"
_ODD = (" — naïve 日本語 👩‍🚀", "\u2028next\u0085line\r\n", '"quoted" \\ and\ttabbed')
_SLOWEST = 0.01
"""Seconds between two pieces."""


class Words(NamedTuple):
    """What a reply says."""

    thinking: str
    content: str


def first_word(thinking: str, content: str) -> str:
    """By what a message is known: no two begin with the same word."""
    return (thinking + content).split(" ", 1)[0]


class Talker:
    """Answers with 50 to 200 pieces, each with a word in it that is the session's and the reply's own.

    A question's first word is `<the session's word>.<number>`; the answer to it begins with
    `<the session's word>.r<number>`.
    """

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._numbers = itertools.count(1)
        self._replies: dict[str, list[Reply]] = {}

    def model(self) -> Model:
        """Itself, for the stand-in."""
        return Model(
            name=f"{MODEL}:latest",
            reply=self._reply,
            digest="0" * 64,
            capabilities=("completion", "thinking"),
            count_message=lambda _message: 1,
        )

    def newest(self, question: str) -> Words:
        """All that the newest answer to this question says."""
        reply = self._replies[question][-1]
        return Words("".join(reply.thinking), "".join(reply.pieces))

    def beginnings(self, question: str, first: str) -> list[Words]:
        """What had been said after each piece, the whole at the end, of the answer that begins with this word."""
        for reply in self._replies.get(question, []):
            if first_word("".join(reply.thinking), "".join(reply.pieces)) == first:
                thoughts = list(itertools.accumulate(reply.thinking))
                said = list(itertools.accumulate(reply.pieces))
                whole = thoughts[-1] if thoughts else ""
                return [Words(thought, "") for thought in thoughts] + [Words(whole, content) for content in said]
        return []

    def _reply(self, call: ChatCall) -> Reply:
        question = first_word("", call.messages[-1].content)
        word, chance = question.partition(".")[0], self._chance
        first = f"{word}.r{next(self._numbers)}"
        pieces = [first, *(self._piece(f"{first}.{number}") for number in range(chance.randint(50, 200)))]
        thoughts = chance.randint(1, 20) if chance.random() < 0.25 else 0
        interval = 0.0 if chance.random() < 0.3 else chance.uniform(0.0005, _SLOWEST)
        reply = Reply(thinking=tuple(pieces[:thoughts]), pieces=tuple(pieces[thoughts:]), interval=interval)
        self._replies.setdefault(question, []).append(reply)
        return reply

    def _piece(self, mark: str) -> str:
        rare = self._chance.random()
        if rare < 0.01:
            # More than a page: a write that is killed may be cut there.
            return f" {mark} {'long ' * self._chance.randint(1000, 5000)}"
        return f" {mark}{self._chance.choice(_ODD) if rare < 0.1 else ''}"
