"""The tiny models that the recordings were made with: what they say, and what their prompts cost in tokens."""

import json
import secrets
from collections.abc import Callable, Iterable
from itertools import cycle

from mochi_server.ollama.standin import Called, ChatCall, Message, Model, Reply, ToolCall

HELLO = ("Hello", " there", "! I", " am", " a tiny", " model", ", and", " this", " is all", " I say", ".")
UNICODE = (
    *("Café", " — dash", " naïve", "\u2028", "line sep", "\u0085", "nel", " 👩", "\u200d🚀", " 日本", "語", "\r\n"),
    *("tab\t", '"quote" \\ back', " end"),
)
THINKING = ("Let me", " ponder", " this ", "…")
ANSWER = ("The answer", " is 42", "!")
JSON = ('{"', "city", '": "', "Paris", '", "n"', ": 3", "}")
LOOP = tuple(f" w{number}" for number in range(200))
TOOL_JSON = ('{"name"', ': "get_', 'weather"', ', "parameters"', ': {"city"', ': "Pa', 'ris"}', "}")

_ROLES = tuple(f"<|{role}|>" for role in ("user", "system", "assistant", "tool"))
_TAGS = ("<|end|>", "<think>", "</think>")
_PIECES = {*HELLO, *UNICODE, *THINKING, *ANSWER, *JSON, *LOOP, *TOOL_JSON, *_ROLES, *_TAGS}
_LONGEST_FIRST = sorted((piece for piece in _PIECES if len(piece) > 1), key=lambda piece: (-len(piece), piece))


def count_tokens(text: str) -> int:
    """One token for each piece of the vocabulary in the text, longest first, and one for each byte of the rest.

    So a text without any of the pieces costs its length in UTF-8, and a reply put back into the history about as many
    tokens as it had pieces.
    """
    rest, found = [text], 0
    for piece in _LONGEST_FIRST:
        if piece in text:
            parts = [part.split(piece) for part in rest]
            found += sum(len(part) - 1 for part in parts)
            rest = [bit for part in parts for bit in part if bit]
    return found + sum(len(bit.encode()) for bit in rest)


def _count_plain(message: Message) -> int:
    images = "".join(f"[img-{number}]" for number in range(len(message.images)))
    return count_tokens(f"<|{message.role}|>{images}{message.content}<|end|>")


def _count_rich(message: Message) -> int:
    thinking = f"<think>{message.thinking}</think>" if message.thinking else ""
    calls = "".join(
        f'{{"name": "{call.function.name}", "parameters": {_compact(call.function.arguments)}}}'
        for call in message.tool_calls
    )
    return _count_plain(message) + count_tokens(thinking) + count_tokens(calls)


def _count_start(_call: ChatCall) -> int:
    return 1


def _count_start_and_tools(call: ChatCall) -> int:
    return 1 + (count_tokens(f"<|system|>{_compact(call.tools)}<|end|>") if call.tools else 0)


def _compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _says(pieces: Iterable[str]) -> Callable[[ChatCall], Reply]:
    return lambda _call: Reply(pieces=pieces)


def _thinks(call: ChatCall) -> Reply:
    return Reply(pieces=HELLO) if call.think is False else Reply(thinking=THINKING, pieces=ANSWER)


def _calls_a_tool(call: ChatCall) -> Reply:
    if not call.tools or call.messages[-1].role == "tool":
        return Reply(pieces=HELLO)
    name = f"call_{secrets.token_hex(4)}"
    weather = ToolCall(Called("get_weather", {"city": "Paris"}), id=name)
    return Reply(tool_calls=(weather,), call_tokens=len(TOOL_JSON))


def tiny_models() -> tuple[Model, ...]:
    """The six models, with the sizes, digests and dates of the recording of `/api/tags`."""
    return (
        Model(
            name="tiny-loop:latest",
            reply=lambda _call: Reply(pieces=cycle(LOOP)),
            digest="d2a279cac8a6797d05f3c579c0053cd422c5ea94700a03d67003edc068579041",
            modified_at="2026-11-21T07:51:45.095821304Z",
            size=17728217,
            count_message=_count_plain,
            count_frame=_count_start,
        ),
        Model(
            name="tiny-think:latest",
            reply=_thinks,
            digest="fa005544ae2761852efb8fb69c521699628a0d68ea0a9dbf4908749abb7edc4d",
            modified_at="2026-11-21T07:51:45.122865109Z",
            size=17728537,
            capabilities=("completion", "tools", "thinking"),
            count_message=_count_rich,
            count_frame=_count_start_and_tools,
        ),
        Model(
            name="tiny-tools:latest",
            reply=_calls_a_tool,
            digest="ef4cb7d4c1ee43128b788ad35e5c1185de599c90d40a17cc435759d0740a4fc2",
            modified_at="2026-11-21T07:51:45.148751178Z",
            size=17728536,
            capabilities=("completion", "tools", "thinking"),
            count_message=_count_rich,
            count_frame=_count_start_and_tools,
        ),
        Model(
            name="tiny-unicode:latest",
            reply=_says(UNICODE),
            digest="ff9cc3c33a82c2e17d10ffaea704c6532360c0f7ebd69cc2caf25c0be70e4fd3",
            modified_at="2026-11-21T07:51:45.039233433Z",
            size=17728216,
            count_message=_count_plain,
            count_frame=_count_start,
        ),
        Model(
            name="tiny:latest",
            reply=_says(HELLO),
            digest="9330bcdb33d241df33d110babd522c49d22308c05be08460614ce3ad0253360d",
            modified_at="2026-11-21T07:51:45.012054977Z",
            size=17728218,
            count_message=_count_plain,
            count_frame=_count_start,
        ),
        Model(
            name="tiny-json:latest",
            reply=_says(JSON),
            digest="d90451bc01ffb41501f999034e5f6993b0b0d89ca2be00f548921bbf49a2415a",
            modified_at="2026-11-21T07:51:45.067542476Z",
            size=17728217,
            count_message=_count_plain,
            count_frame=_count_start,
        ),
    )
