"""Ollama's chat protocol, typed: what is sent to `/api/chat` and what comes back, one JSON line a chunk."""

import binascii
from collections.abc import Iterable
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from mochi_server.domain.messages import AssistantMessage, Message, SystemMessage, ToolMessage, UserMessage
from mochi_server.domain.options import OptionValues

Format = Literal["json"] | Annotated[dict[str, Any], Meta(description="a JSON schema (an object)")]
"""`json`, or a JSON schema."""

Think = bool | Literal["low", "medium", "high", "max"]


_SLICE = 3 * 65_536
"""How many bytes are made base64 at once: other threads wait for as long as that takes."""


class WireMessage(msgspec.Struct, omit_defaults=True, kw_only=True):
    """One message of a request; `images` as `wire_image` makes them."""

    role: str
    content: str
    images: list[msgspec.Raw] | None = None
    tool_calls: list[Any] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None


class ChatRequest(msgspec.Struct, omit_defaults=True, kw_only=True):
    """The body of `/api/chat`. What is not set is not sent, so that Ollama's own defaults hold.

    `messages` without images are JSON already: `wire_element`s, each of one message or of several, at least one.
    `truncate` is always sent as false: Ollama would otherwise cut a long history in silence.
    """

    model: str
    messages: list[WireMessage] | tuple[bytes, ...]
    truncate: Literal[False] | None = None
    options: OptionValues | None = None
    think: Think | None = None
    format: Format | None = None
    tools: list[dict[str, Any]] | None = None
    keep_alive: str | float | int | None = None


class ChunkMessage(msgspec.Struct, gc=False):
    """What a chunk adds to the reply."""

    content: str | None = None
    thinking: str | None = None
    tool_calls: list[Any] | None = None


class Chunk(msgspec.Struct, gc=False):
    """One line of a reply. Durations are nanoseconds; a count that is zero is left out by Ollama.

    The last line has `done`; a line with `error` ends a reply that failed after it began.
    """

    message: ChunkMessage | None = None
    done: bool = False
    done_reason: str | None = None
    load_duration: int | None = None
    prompt_eval_count: int | None = None
    eval_count: int | None = None
    eval_duration: int | None = None
    error: str | None = None


class ErrorBody(msgspec.Struct):
    """The body of an answer that is an error."""

    error: str


_encoder = msgspec.json.Encoder()
_error_decoder = msgspec.json.Decoder(ErrorBody)


def encode_request(request: ChatRequest) -> list[bytes]:
    """The request's body, in parts: to copy a long history takes its time, and is done on the event loop."""
    elements = request.messages
    if isinstance(elements, list):
        return [_encoder.encode(request)]
    # What the model's name may have of it stands there escaped.
    head, tail = _encoder.encode(msgspec.structs.replace(request, messages=[])).split(b'"messages":[]', 1)
    return [head, b'"messages":[', *elements[:-1], elements[-1].removesuffix(b","), b"]", tail]


decode_chunk = msgspec.json.Decoder(Chunk).decode
"""One line of a reply. Raises one of NO_CHUNK; every token comes this way, so nothing stands around it."""

NO_CHUNK = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def error_words(body: bytes) -> str:
    """What Ollama says in the body of an error, in its own words."""
    try:
        return _error_decoder.decode(body).error
    except NO_CHUNK:
        return body.decode("utf-8", "replace")


def wire_image(data: bytes) -> msgspec.Raw:
    """An image as Ollama is shown it: in base64, as JSON already, so that it need not be looked through again."""
    parts = (data[start : start + _SLICE] for start in range(0, len(data), _SLICE))
    return msgspec.Raw(b'"%b"' % b"".join([binascii.b2a_base64(part, newline=False) for part in parts]))


def wire_message(message: Message, images: Iterable[msgspec.Raw] = ()) -> WireMessage:
    """A message as Ollama is shown it. Thinking is not sent back; an interrupted reply is, as it stands."""
    match message:
        case SystemMessage():
            return WireMessage(role="system", content=message.content)
        case UserMessage():
            return WireMessage(role="user", content=message.content, images=[*images] or None)
        case AssistantMessage():
            return WireMessage(role="assistant", content=message.content, tool_calls=message.tool_calls)
        case ToolMessage():
            return WireMessage(
                role="tool",
                content=message.content,
                tool_name=message.tool_name,
                tool_call_id=message.tool_call_id,
            )


def wire_element(message: Message) -> bytes:
    """The same without images, as an element of a request's `messages`."""
    return _encoder.encode(wire_message(message)) + b","
