"""A reply as it comes about: chunks in, events out, a message at the end. Pure: times are arguments."""

from typing import Any

import msgspec

from mochi_server.domain.events import ContentDelta, Event, ThinkingDelta
from mochi_server.domain.messages import AssistantMessage, Stats
from mochi_server.ollama.wire import Chunk

NANOSECONDS_PER_MS = 1_000_000

LOADING = 100 * NANOSECONDS_PER_MS
"""What Ollama takes at least to load a model, of those that take it; to find it loaded takes a few milliseconds."""


class ReplyInProgress:
    """What has come of a reply so far, but for its words: those are in its events.

    `began` and all other times are seconds of one monotonic clock.
    """

    def __init__(self, began: float) -> None:
        self._began = began
        self._tool_calls: list[Any] = []
        self._first: float | None = None
        self._last: Chunk | None = None
        self.begun = False
        """Whether anything has come that is worth keeping."""
        self.characters = 0
        """Characters said and thought so far."""

    @property
    def ended(self) -> bool:
        """Whether Ollama said its last line."""
        return self._last is not None

    @property
    def loaded(self) -> bool:
        """Whether Ollama loaded the model for it: what was known of its window is of before."""
        return (self._last.load_duration or 0) > LOADING if self._last is not None else True

    def add(self, chunk: Chunk, now: float) -> list[Event]:
        """Take a chunk; the events it makes, in order."""
        events: list[Event] = []
        message = chunk.message
        if message is not None:
            if thinking := message.thinking:
                events.append(ThinkingDelta(thinking))
                self.characters += len(thinking)
            if content := message.content:
                events.append(ContentDelta(content))
                self.characters += len(content)
            if message.tool_calls:
                self._tool_calls.extend(message.tool_calls)
            if not self.begun and (events or message.tool_calls):
                self.begun, self._first = True, now
        if chunk.done:
            self._last = chunk
        return events

    def measured(self, message: AssistantMessage, now: float) -> AssistantMessage:
        """The message with what Ollama and the clock say of it; its done_reason is Ollama's own unless it has one."""
        last = self._last or Chunk()
        return msgspec.structs.replace(
            message,
            tool_calls=[_named(call, f"call_{message.message_id}{n}") for n, call in enumerate(self._tool_calls)]
            or None,
            eval_count=last.eval_count,
            prompt_eval_count=last.prompt_eval_count,
            done_reason=message.done_reason or last.done_reason,
            stats=self._stats(last, message.context.window if message.context else None, now),
        )

    def _stats(self, last: Chunk, window: int | None, now: float) -> Stats:
        rate = None
        if last.eval_count and last.eval_duration:
            rate = round(last.eval_count / (last.eval_duration / 1e9), 2)
        outgrew = None
        if window is not None and self.ended:
            outgrew = (last.prompt_eval_count or 0) + (last.eval_count or 0) > window
        return Stats(
            ttft_ms=None if self._first is None else _ms(self._first - self._began),
            total_ms=_ms(now - self._began),
            load_ms=None if last.load_duration is None else round(last.load_duration / NANOSECONDS_PER_MS, 1),
            tokens_per_second=rate,
            outgrew_window=outgrew,
        )


def _named(call: Any, name: str) -> Any:
    """A tool call with an id, which a tool's result refers to: Ollama's own, if it gave one."""
    return {**call, "id": name} if isinstance(call, dict) and not call.get("id") else call


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)
