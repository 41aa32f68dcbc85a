"""One chat reply of the stand-in on its way to the client: its lines, its pace, and how it fails when told to."""

import asyncio
import time
from datetime import UTC, datetime
from itertools import chain

import msgspec

from mochi_server.ollama.standin.http import Answer
from mochi_server.ollama.standin.protocol import JSON, JSON_STREAM, ChatCall, Line, Said, Speech, encode
from mochi_server.ollama.standin.script import Behaviour

HUGE_LINE = 64 * 1024 * 1024
"""Bytes of the line that the fault "huge_line" sends."""

_GARBAGE = b"<html>not what you asked for</html>\n"
_WRONG_SHAPE = b'{"model":7,"message":["not","a","chunk"],"done":"perhaps"}\n'
_HUGE_START = b'{"model":"huge","message":{"role":"assistant","content":"'


class Turn(msgspec.Struct):
    """One reply: what was asked, how it goes, and when its stages were reached (nanoseconds of `perf_counter_ns`).

    `complete` once nothing that the client still waits for can be lost by its leaving.
    """

    call: ChatCall
    behaviour: Behaviour
    speech: Speech
    prompt_tokens: int
    began: int
    loaded: int = 0
    first: int = 0
    complete: bool = False

    def line(self, said: Said) -> Line:
        """Make one line of the reply."""
        self.first = self.first or time.perf_counter_ns()
        return Line(model=self.call.model, created_at=rfc3339(time.time_ns()), message=said, done=False)

    def last_line(self) -> Line:
        """Make the line that ends the reply, with its counts and durations; the speech must have been iterated."""
        line = self.line(Said(role="assistant", content=""))
        now, behaviour = time.perf_counter_ns(), self.behaviour
        prompt, tokens = behaviour.prompt_eval_count, behaviour.eval_count
        return msgspec.structs.replace(
            line,
            done=True,
            done_reason=behaviour.done_reason or self.speech.reason,
            total_duration=max(1, now - self.began),
            load_duration=max(1, self.loaded - self.began),
            prompt_eval_count=self.prompt_tokens if prompt is None else prompt,
            prompt_eval_duration=max(1, self.first - self.loaded),
            eval_count=self.speech.tokens if tokens is None else tokens,
            eval_duration=max(1, now - self.first),
        )


async def say(turn: Turn, answer: Answer) -> None:
    """Answer with the turn's reply. Raises `ConnectionError` when the client has gone."""
    behaviour = turn.behaviour
    interval = turn.speech.interval if behaviour.interval is None else behaviour.interval
    out = _Streamed(answer, behaviour) if turn.call.stream else _Whole(answer)
    await asyncio.sleep(behaviour.delay)
    for sent, said in enumerate(chain(turn.speech, (None,))):
        if sent and said and interval:
            await asyncio.sleep(interval)
        if gate := behaviour.gate:
            if gate.holds(sent):
                await out.flush()
            await gate.passed(sent)
        due = sent == behaviour.after or (said is None and sent < behaviour.after)
        if behaviour.fault and due and not await _goes_on_after_fault(turn, answer, out):
            return
        turn.complete = said is None
        await out.line(turn.line(said) if said else turn.last_line())
    await out.end()


def rfc3339(nanoseconds: int) -> str:
    """Write a time since the epoch as Ollama does: UTC, to the nanosecond, without trailing zeros."""
    seconds, fraction = divmod(nanoseconds, 1_000_000_000)
    text = f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{fraction:09d}"
    return text.rstrip("0").rstrip(".") + "Z"


class _Streamed:
    """A reply as lines, each in a transfer chunk of its own unless the behaviour says otherwise."""

    def __init__(self, answer: Answer, behaviour: Behaviour) -> None:
        self._answer = answer
        self._behaviour = behaviour
        self._held = b""
        answer.begin(200, JSON_STREAM)

    async def line(self, line: Line) -> None:
        await self.raw(encode(line) + b"\n")

    async def raw(self, data: bytes) -> None:
        self._held += data
        if not self._behaviour.coalesce:
            await self.flush()

    async def flush(self) -> None:
        held, self._held = self._held, b""
        if held:
            await self._answer.chunk(held, dribble=self._behaviour.dribble)

    async def error(self, text: str) -> None:
        await self.raw(encode({"error": text}) + b"\n")
        await self.end()

    async def end(self) -> None:
        await self.flush()
        await self._answer.end()


class _Whole:
    """A reply as one JSON object, sent at its end."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._said = Said(role="assistant", content="")
        self._body = b""
        self._spoilt = b""
        answer.begin(200, JSON)

    async def line(self, line: Line) -> None:
        said, more = self._said, line.message
        self._said = Said(
            role="assistant",
            content=said.content + more.content,
            thinking=said.thinking + more.thinking,
            tool_calls=said.tool_calls + more.tool_calls,
        )
        self._body = encode(msgspec.structs.replace(line, message=self._said))

    async def raw(self, data: bytes) -> None:
        self._spoilt = data

    async def flush(self) -> None:
        pass

    async def error(self, text: str) -> None:
        await self._answer.send(500, JSON, encode({"error": text}))

    async def end(self) -> None:
        await self._answer.send(200, JSON, self._spoilt or self._body)


async def _goes_on_after_fault(turn: Turn, answer: Answer, out: _Streamed | _Whole) -> bool:
    behaviour = turn.behaviour
    turn.complete = behaviour.fault not in {"silence", "huge_line", "garbage", "wrong_shape"}
    await out.flush()
    match behaviour.fault:
        case "status":
            body = encode({"error": behaviour.error}) if behaviour.body is None else behaviour.body
            await answer.send(behaviour.status, JSON, body)
        case "redirect":
            await answer.send(302, "text/plain; charset=utf-8", b"", {"Location": behaviour.location})
        case "error_line":
            await out.error(behaviour.error)
        case "reset":
            answer.reset()
        case "no_done":
            await out.end()
        case "silence":
            await asyncio.Event().wait()
        case "garbage":
            await out.raw(_GARBAGE)
        case "wrong_shape":
            await out.raw(_WRONG_SHAPE)
        case "huge_line":
            await _send_huge_line(answer)
    return behaviour.fault in {"garbage", "wrong_shape"}


async def _send_huge_line(answer: Answer) -> None:
    await answer.chunk(_HUGE_START)
    block = b"a" * 65_536
    for _ in range(HUGE_LINE // len(block)):
        await answer.chunk(block)
