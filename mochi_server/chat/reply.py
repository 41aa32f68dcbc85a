"""A reply as it comes about: chunks in, events out, a message at the end. Pure: times are arguments."""

from typing import Any

from mochi_server.domain.events import ContentDelta, Event, ThinkingDelta
from mochi_server.domain.messages import AssistantMessage, Context, Stats, Status
from mochi_server.domain.options import OptionValues
from mochi_server.ollama.wire import Chunk

NANOSECONDS_PER_MS = 1_000_000


class ReplyInProgress:
    """What has come of a reply so far. `began` and all other times are seconds of one monotonic clock."""

    def __init__(self, began: float) -> None:
        self._began = began
        self._content: list[str] = []
        self._thinking: list[str] = []
        self._tool_calls: list[Any] = []
        self._first: float | None = None
        self._last: Chunk | None = None
        self.characters = 0
        """Characters said and thought so far."""

    @property
    def begun(self) -> bool:
        """Whether anything has come that is worth keeping."""
        return self._first is not None

    @property
    def ended(self) -> bool:
        """Whether Ollama said its last line."""
        return self._last is not None

    def add(self, chunk: Chunk, now: float) -> list[Event]:
        """Take a chunk; the events it makes, in order."""
        events: list[Event] = []
        message = chunk.message
        if message is not None:
            if message.thinking:
                self._thinking.append(message.thinking)
                events.append(ThinkingDelta(message.thinking))
            if message.content:
                self._content.append(message.content)
                events.append(ContentDelta(message.content))
            if message.tool_calls:
                self._tool_calls.extend(message.tool_calls)
            self.characters += len(message.thinking or "") + len(message.content or "")
            if self._first is None and (events or message.tool_calls):
                self._first = now
        if chunk.done:
            self._last = chunk
        return events

    def message(
        self,
        *,
        message_id: str,
        timestamp: str,
        model: str,
        status: Status,
        done_reason: str | None,
        options: OptionValues | None,
        context: Context,
        model_digest: str | None,
        now: float,
    ) -> AssistantMessage:
        """The message that the reply makes. Its parent is for the session to say."""
        last = self._last or Chunk()
        return AssistantMessage(
            content="".join(self._content),
            message_id=message_id,
            timestamp=timestamp,
            model=model,
            thinking="".join(self._thinking) or None,
            tool_calls=self._tool_calls or None,
            eval_count=last.eval_count,
            prompt_eval_count=last.prompt_eval_count,
            status=status,
            done_reason=done_reason or last.done_reason,
            model_digest=model_digest,
            options=options,
            context=context,
            stats=self._stats(last, context.window, now),
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


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)
