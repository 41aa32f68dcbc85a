"""What a stream tells its subscribers while a reply comes about."""

from collections.abc import Iterable
from typing import Any, ClassVar, Literal

import msgspec

from mochi_server.domain.messages import Context, Stats, Status
from mochi_server.domain.options import OptionValues

Phase = Literal["queued", "waiting", "loading", "prefill", "generating"]
"""Where a reply is: waiting here, at Ollama behind others, for the model, while the prompt is read, or on its way."""


class StatusEvent(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why nothing flows yet; `position` is the place in the queue, 1 is next."""

    name: ClassVar[str] = "status"
    phase: Phase
    elapsed_ms: int
    position: int | None = None


class ContentDelta(msgspec.Struct, frozen=True, gc=False):
    """A piece of the reply, exactly as Ollama sent it: joined, the pieces equal the saved message."""

    name: ClassVar[str] = "content_delta"
    content: str
    role: Literal["assistant"] = "assistant"


class ThinkingDelta(msgspec.Struct, frozen=True, gc=False):
    """A piece of what the model thinks before it answers."""

    name: ClassVar[str] = "thinking_delta"
    content: str


class ContextWindow(msgspec.Struct, frozen=True, kw_only=True):
    """The window a reply was made in, in tokens (None: Ollama's own default, not asked for) and what it used of it."""

    current_window: int | None
    usage_tokens: int
    reason: str


class MessageComplete(msgspec.Struct, frozen=True, kw_only=True):
    """The reply is saved, whole or, after a stop, as far as it came: what it was made with and from, as it is saved."""

    name: ClassVar[str] = "message_complete"
    message_id: str
    model: str | None
    eval_count: int | None
    prompt_eval_count: int | None
    done_reason: str | None
    status: Status
    stats: Stats | None
    context_window: ContextWindow
    # Journals of earlier versions lack these.
    model_digest: str | None = None
    options: OptionValues | None = None
    context: Context | None = None


class ErrorEvent(msgspec.Struct, frozen=True, kw_only=True):
    """What went wrong; code and details are those of the error table."""

    name: ClassVar[str] = "error"
    code: str
    message: str
    details: dict[str, Any]
    correlation_id: str


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """The last event of every stream."""

    name: ClassVar[str] = "done"
    session_id: str
    generation_id: str
    status: Literal["complete", "interrupted", "error"]


Event = StatusEvent | ContentDelta | ThinkingDelta | MessageComplete | ErrorEvent | Done


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One event as it is kept and sent: its name, and its data as one line of JSON."""

    name: str
    data: bytes


class _Words(msgspec.Struct, gc=False):
    content: str


_json = msgspec.json.Encoder()
_words = msgspec.json.Decoder(_Words)

# Line ends to Unicode, not to JSON or SSE; who splits with their language's idea of a line breaks on them.
_LINE_SEPARATORS = ((b"\xc2\x85", b"\\u0085"), (b"\xe2\x80\xa8", b"\\u2028"), (b"\xe2\x80\xa9", b"\\u2029"))


def event_json(event: Event) -> bytes:
    """The event's data as one line of JSON."""
    data = _json.encode(event)
    return data if data.isascii() else one_line(data)


def entry(event: Event) -> Entry:
    """The event as it is kept and sent."""
    return Entry(event.name, event_json(event))


def said(entries: Iterable[Entry]) -> tuple[str, str]:
    """What the deltas among these say, joined: content and thinking."""
    words: dict[str, list[str]] = {ContentDelta.name: [], ThinkingDelta.name: []}
    for one in entries:
        if (pieces := words.get(one.name)) is not None:
            pieces.append(_words.decode(one.data).content)
    return "".join(words[ContentDelta.name]), "".join(words[ThinkingDelta.name])


def words_json(delta: Entry) -> bytes:
    """The words of a delta as the JSON text that stands in its data: nothing is decoded for it."""
    return delta.data[_BEFORE_WORDS : len(delta.data) - _BEHIND_WORDS[delta.name]]


def one_line(data: bytes) -> bytes:
    """Compact JSON with every character escaped that anybody takes for the end of a line."""
    for separator, escaped in _LINE_SEPARATORS:
        if separator in data:
            data = data.replace(separator, escaped)
    return data


_BEFORE_WORDS = len(b'{"content":')
_BEHIND_WORDS = {
    ContentDelta.name: len(entry(ContentDelta("")).data) - _BEFORE_WORDS - len(b'""'),
    ThinkingDelta.name: len(entry(ThinkingDelta("")).data) - _BEFORE_WORDS - len(b'""'),
}
