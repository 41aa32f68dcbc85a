"""How many tokens a history is: estimated from its characters, corrected by what Ollama counted before."""

import math
from collections.abc import Sequence
from itertools import accumulate

import msgspec

from mochi_server.domain.elements import KEPT_FROM, Elements
from mochi_server.domain.messages import AssistantMessage, Message, SystemMessage, UserMessage

CHARACTERS_PER_TOKEN = 4
"""A rule of thumb for text in Latin script."""

TOKENS_PER_FURTHER_BYTE = 0.4
"""For what UTF-8 needs beside a character's first byte: a character of Chinese is about one token."""

TOKENS_PER_MESSAGE = 4
"""What a chat template puts around each message, about."""

TOKENS_PER_IMAGE = 768
"""What Ollama itself reckons with (server/prompt.go of 0.24)."""

SURE = 0.25
"""Text that was never counted is taken to be at least this part of what is estimated."""

ALMOST = 0.9
"""Text that was counted with others has this part of its share at least."""

USUAL_TOKENS = 100
"""How many tokens of usual text a count is weighed against: of a short prompt it is mostly the template's own."""

_MOST_FACTOR = 8.0
_json = msgspec.json.Encoder()
_tokens = msgspec.json.Decoder(list[float])


class Estimate(msgspec.Struct, frozen=True):
    """Tokens of a prompt: `likely`, and how many it has at `least`, which is as good as certain."""

    likely: int
    least: int


class Measured(msgspec.Struct, frozen=True):
    """What Ollama counted of a prompt, what it was estimated at, and how many messages of the path were in it."""

    counted: int
    estimated: float
    messages: int


class Costs:
    """The tokens of a history, message by message, so that any end of it can be told at once.

    `factor` corrects what no reply of this history has measured, such as one known of the model; `beside` is a text
    that is sent with it (definitions of tools); `tokens` are those of each message, as `path_tokens` gives them.
    """

    def __init__(
        self,
        system: SystemMessage | None,
        path: Sequence[Message],
        measured: Measured | None = None,
        factor: float | None = None,
        beside: str = "",
        tokens: Sequence[float] | None = None,
    ) -> None:
        if measured is not None:
            factor = factor_of(measured.counted, measured.estimated)
        # What is new may be of another kind than what was counted, so it is not taken to be cheaper than usual.
        self._factor = max(factor or 1.0, 1.0)
        self._counted = measured.counted / measured.estimated if measured else None
        self._new = len(path) - (measured.messages if measured else 0)
        self._always = plain_tokens(beside) + (0 if system is None else message_tokens(system))
        self._newest = [0.0, *accumulate(reversed(_each(path) if tokens is None else tokens))]

    def plain(self, messages: int) -> float:
        """Of the system prompt and so many of the newest messages, uncorrected."""
        return self._always + self._newest[messages]

    def newest(self, messages: int) -> Estimate:
        """Of the system prompt and so many of the newest messages."""
        new = self._newest[min(messages, self._new)]
        if self._counted is None:
            return Estimate(math.ceil((self._always + new) * self._factor), int((self._always + new) * SURE))
        counted = (self._always + self._newest[messages] - new) * self._counted
        return Estimate(math.ceil(counted + new * self._factor), int(counted * ALMOST + new * SURE))


def measured(
    system: SystemMessage | None, path: Sequence[Message], model: str, tokens: Sequence[float] | None = None
) -> Measured | None:
    """What the newest reply of this model tells of its tokens; None where none was counted. `tokens` as in Costs."""
    for place in range(len(path) - 1, -1, -1):
        reply = path[place]
        if isinstance(reply, AssistantMessage) and reply.model == model and reply.context and reply.prompt_eval_count:
            each = _each(path) if tokens is None else tokens
            sent = each[min(reply.context.messages_left_out, place) : place]
            estimated = sum(sent) + (0 if system is None else message_tokens(system))
            return None if estimated == 0 else Measured(reply.prompt_eval_count, estimated, place)
    return None


def path_tokens(elements: Elements, path: tuple[Message, ...]) -> list[float]:
    """The tokens of each message of a session's path, uncorrected; `elements` keeps those of a long one."""
    if len(path) < KEPT_FROM:
        return _each(path)
    return _tokens.decode(b"[%b]" % b"".join(elements.of(path, _tokens_element, keep=True))[:-1])


def factor_of(counted: int, estimated: float) -> float:
    """How many tokens there are likely to be for each that is estimated, where so many were counted."""
    return min((counted + USUAL_TOKENS) / (estimated + USUAL_TOKENS), _MOST_FACTOR)


def message_tokens(message: Message) -> float:
    """A message's tokens, uncorrected."""
    tokens = plain_tokens(message.content) + TOKENS_PER_MESSAGE
    if isinstance(message, UserMessage) and message.images:
        tokens += TOKENS_PER_IMAGE * len(message.images)
    if isinstance(message, AssistantMessage) and message.tool_calls:
        tokens += len(_json.encode(message.tool_calls)) / CHARACTERS_PER_TOKEN
    return tokens


def _each(path: Sequence[Message]) -> list[float]:
    return [message_tokens(message) for message in path]


def _tokens_element(message: Message) -> bytes:
    return b"%b," % _json.encode(message_tokens(message))


def plain_tokens(text: str) -> float:
    """A text's tokens, uncorrected."""
    tokens = len(text) / CHARACTERS_PER_TOKEN
    if not text.isascii():
        tokens += (len(text.encode("utf-8", "surrogatepass")) - len(text)) * TOKENS_PER_FURTHER_BYTE
    return tokens
