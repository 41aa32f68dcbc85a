"""From a turn's events and its message to OpenAI's answers: one body, or a stream of chunks."""

import time
from contextlib import aclosing
from typing import Any, Literal

import anyio
import msgspec

from mochi_server.api.openai_errors import envelope
from mochi_server.chat.generation import Listener, Outcome
from mochi_server.domain.events import (
    ContentDelta,
    Done,
    Entry,
    ErrorEvent,
    StatusEvent,
    ThinkingDelta,
    one_line,
    words_json,
)
from mochi_server.domain.messages import AssistantMessage
from mochi_server.errors import MochiError, ReplyStopped, ShuttingDown

FinishReason = Literal["stop", "length", "tool_calls"]

_encoder = msgspec.json.Encoder()
_DONE = b"data: [DONE]\n\n"


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """How many tokens it took, as Ollama counts."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class CalledFunction(msgspec.Struct, frozen=True, kw_only=True):
    """What the model calls; `arguments` is JSON."""

    name: str
    arguments: str


class ToolCall(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A tool call; in a stream with its place among the reply's calls."""

    index: int | None = None
    id: str
    type: str
    function: CalledFunction


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """The reply as a message."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None
    reasoning: str | msgspec.UnsetType = msgspec.UNSET
    tool_calls: list[ToolCall] | msgspec.UnsetType = msgspec.UNSET


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """The one answer that there is."""

    index: int = 0
    message: Said
    logprobs: None = None
    finish_reason: FinishReason


class Completion(msgspec.Struct, frozen=True, kw_only=True):
    """A whole answer."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage


class Delta(msgspec.Struct, frozen=True, kw_only=True):
    """What a chunk adds to the reply."""

    role: Literal["assistant"] | msgspec.UnsetType = msgspec.UNSET
    content: str | msgspec.UnsetType = msgspec.UNSET
    reasoning: str | msgspec.UnsetType = msgspec.UNSET
    tool_calls: list[ToolCall] | msgspec.UnsetType = msgspec.UNSET


class ChunkChoice(msgspec.Struct, frozen=True, kw_only=True):
    """What a chunk says of the one answer that there is; `finish_reason` comes with the last."""

    index: int = 0
    delta: Delta
    logprobs: None = None
    finish_reason: FinishReason | None


class Chunk(msgspec.Struct, frozen=True, kw_only=True):
    """A part of an answer that is streamed: what it adds. `Chunks` frames them by hand, for their speed.

    With `include_usage` all have `usage`, which is null but in the last; that one has no choices. Of a reply that is in
    a session the last ones have its `message_id`.
    """

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | msgspec.UnsetType | None = msgspec.UNSET
    message_id: str | msgspec.UnsetType = msgspec.UNSET


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """What is the same in all parts of one answer; `model` as it was asked for, `created` in seconds since 1970."""

    id: str
    created: int
    model: str


def head(listener: Listener, model: str) -> Head:
    """The head of the answer that begins now."""
    return Head(id=f"chatcmpl-{listener.generation_id}", created=int(time.time()), model=model)


def whole_reply(outcome: Outcome) -> AssistantMessage:
    """The message, if the reply is whole. Raises what it failed with: a reply broken off is no answer at all."""
    message = outcome.message
    if outcome.failure is not None:
        raise outcome.failure
    if message is None or message.status != "complete":
        raise ShuttingDown if message is not None and message.done_reason == "shutdown" else ReplyStopped
    return message


def completion(answer: Head, message: AssistantMessage) -> Completion:
    """The whole answer."""
    calls = _tool_calls(message)
    said = Said(
        content=None if calls and not message.content else message.content,
        reasoning=message.thinking or msgspec.UNSET,
        tool_calls=calls or msgspec.UNSET,
    )
    choice = Choice(message=said, finish_reason=_finish_reason(message))
    return Completion(id=answer.id, created=answer.created, model=answer.model, choices=[choice], usage=_usage(message))


class Chunks:
    """The framing of OpenAI's chunks.

    Until there is something to say the answer's head is held back, for `patience` seconds at most: so what fails before
    has a status, which is what OpenAI's clients make their exceptions of, and what they decide by whether to try again.
    `message_id` goes with the last chunks of a reply that is `kept`.
    """

    def __init__(self, listener: Listener, answer: Head, *, patience: float, include_usage: bool, kept: bool) -> None:
        self._listener = listener
        self._patience = patience
        self._include_usage = include_usage
        self._kept = kept
        self._answer = {"id": answer.id, "object": "chat.completion.chunk", "created": answer.created}
        self._answer["model"] = answer.model
        self.opening = self._chunk({"role": "assistant", "content": ""})
        around = self._chunk({"": 0}).split(b'"":0')
        self._before = {ContentDelta.name: around[0] + b'"content":', ThinkingDelta.name: around[0] + b'"reasoning":'}
        self._behind = around[1]

    async def begun(self) -> None:
        """As Framing has it."""
        with anyio.move_on_after(self._patience):
            async with aclosing(self._listener.batches()) as batches:
                async for _, batch in batches:
                    first = next((one.name for one in batch if one.name != StatusEvent.name), None)
                    if first in {ErrorEvent.name, Done.name}:
                        whole_reply(await self._listener.ended())
                    if first is not None:
                        return

    def frames(self, first: int, batch: list[Entry]) -> bytes:  # noqa: ARG002 - chunks have no numbers
        """As Framing has it: the deltas, around whose words everything is the same."""
        parts: list[bytes] = []
        for one in batch:
            if (before := self._before.get(one.name)) is not None:
                parts += (before, words_json(one), self._behind)
        return b"".join(parts)

    async def closing(self) -> bytes:
        """As Framing has it: the tool calls, how the reply ended, what it took; or what went wrong."""
        try:
            message = whole_reply(await self._listener.ended())
        except MochiError as error:
            return _frame(envelope(error)) + _DONE
        calls = [msgspec.structs.replace(call, index=n) for n, call in enumerate(_tool_calls(message))]
        parts = [self._chunk({"tool_calls": calls})] if calls else []
        ids = {"message_id": message.message_id} if self._kept else {}
        parts.append(self._chunk({}, _finish_reason(message), **ids))
        if self._include_usage:
            parts.append(_frame({**self._answer, "choices": [], "usage": _usage(message), **ids}))
        return b"".join([*parts, _DONE])

    def _chunk(self, delta: object, finish_reason: FinishReason | None = None, **more: str) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        usage = {"usage": None} if self._include_usage else {}
        return _frame({**self._answer, "choices": [choice], **usage, **more})


def _frame(chunk: object) -> bytes:
    return b"data: %b\n\n" % one_line(_encoder.encode(chunk))


def _finish_reason(message: AssistantMessage) -> FinishReason:
    if message.tool_calls:
        return "tool_calls"
    return "length" if message.done_reason == "length" else "stop"


def _usage(message: AssistantMessage) -> Usage:
    prompt, reply = message.prompt_eval_count or 0, message.eval_count or 0
    return Usage(prompt_tokens=prompt, completion_tokens=reply, total_tokens=prompt + reply)


def _tool_calls(message: AssistantMessage) -> list[ToolCall]:
    return [_tool_call(call) for call in message.tool_calls or ()]


def _tool_call(call: dict[str, Any]) -> ToolCall:
    """A tool call of Ollama's, whose arguments are an object, as one of OpenAI's."""
    function: dict[str, Any] = call.get("function") or {}
    arguments = _encoder.encode(function.get("arguments") or {}).decode()
    named = CalledFunction(name=function.get("name", ""), arguments=arguments)
    return ToolCall(id=call.get("id", ""), type="function", function=named)
