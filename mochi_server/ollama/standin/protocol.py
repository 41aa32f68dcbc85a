"""What the stand-in knows of Ollama's protocol: requests read and refused as Ollama does, prompts and replies counted
and cut as it does. Pure: no I/O, no clock.

The words of the errors, the keys of the lines and the counts were seen on Ollama 0.24; `tests/recordings` holds them.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import msgspec

JSON = "application/json; charset=utf-8"
JSON_STREAM = "application/x-ndjson"

_NAME_PART = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"
_NAME = re.compile(rf"(?:{_NAME_PART}(?::\d+)?/)?(?:{_NAME_PART}/)?{_NAME_PART}(?::{_NAME_PART})?")
_NOT_BASE64 = re.compile(r"[^A-Za-z0-9+/]")
_DURATION = re.compile(r"(?P<sign>[-+]?)(?P<parts>(?:\d+(?:\.\d*)?(?:ns|us|µs|ms|s|m|h))+|0)")
_DURATION_PART = re.compile(r"([\d.]+)([a-zµ]+)")
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_WRONG_TYPE = re.compile(r"got `(?P<kind>\w+)`(?: - at `\$\.(?P<path>.*)`)?")
_GO_KINDS = {"str": "string", "int": "number", "float": "number"}
_GO_TYPES = {
    "messages": "[]api.Message",
    "stream": "bool",
    "truncate": "bool",
    "shift": "bool",
    "tools": "api.Tools",
    "options": "map[string]interface {}",
}
_INTEGERS = ("num_ctx", "num_batch", "num_gpu", "main_gpu", "num_thread", "num_keep", "seed", "num_predict", "top_k")
_FLOATS = ("temperature", "top_p", "min_p", "typical_p", "repeat_penalty", "presence_penalty", "frequency_penalty")
_OPTION_TYPES: Mapping[str, tuple[type | tuple[type, ...], str]] = {
    **dict.fromkeys((*_INTEGERS, "repeat_last_n"), ((int, float), "integer")),
    **dict.fromkeys(_FLOATS, ((int, float), "float32")),
    "use_mmap": (bool, "boolean"),
    "stop": (list, "array"),
}
_THINK_LEVELS = ("high", "medium", "low", "max")
_SCHEMA_TYPES = ("string", "number", "integer", "boolean", "null", "array", "object")


class Refused(Exception):
    """An answer that is no reply: `status` with `{"error": error}`.

    `late` ones come from where the reply would have begun: a streaming request gets them framed as a stream.
    """

    def __init__(self, status: int, error: str, *, late: bool = False) -> None:
        super().__init__(error)
        self.status = status
        self.error = error
        self.late = late


class TooLong(Refused):
    """A prompt that its window cannot hold."""


class Called(msgspec.Struct, frozen=True):
    """The function of a tool call, its place among the calls of one reply, and its arguments."""

    name: str
    arguments: dict[str, Any]
    index: int = 0


class ToolCall(msgspec.Struct, frozen=True):
    """One tool call, in a request's history or in a reply."""

    function: Called
    id: str = ""


class Message(msgspec.Struct, frozen=True):
    """One message of a request; `images` in base64."""

    role: str = ""
    content: str = ""
    thinking: str = ""
    images: tuple[str, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()


class ChatCall(msgspec.Struct, frozen=True, kw_only=True):
    """The decoded body of `POST /api/chat`, as far as a model may care; a null counts as left out."""

    model: str = ""
    messages: tuple[Message, ...] = ()
    stream: bool = True
    think: bool | str | None = None
    format: Any = None
    tools: tuple[dict[str, Any], ...] = ()
    options: dict[str, Any] = msgspec.field(default_factory=dict)
    keep_alive: float | str | None = None
    truncate: bool = True
    shift: bool = True

    @property
    def seconds_kept(self) -> float:
        """How long the model stays loaded after this call; less than 0 is for ever. Raises `Refused`."""
        return 300.0 if self.keep_alive is None else _seconds(self.keep_alive)


class Said(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one line of a reply says: its `message`, whose keys stand in this order."""

    role: str
    content: str
    thinking: str = ""
    tool_calls: tuple[dict[str, Any], ...] = ()


class Line(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of a reply, or the whole of one that is not streamed. Durations in nanoseconds; zeros are left out."""

    model: str
    created_at: str
    message: Said
    done: bool
    done_reason: str = ""
    total_duration: int = 0
    load_duration: int = 0
    prompt_eval_count: int = 0
    prompt_eval_duration: int = 0
    eval_count: int = 0
    eval_duration: int = 0


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """What a model says: each piece is one token and becomes one line. `pieces` may go on for ever: a reply is cut
    where Ollama cuts it. `interval`: seconds between pieces. `call_tokens`: what the tool calls cost together.
    """

    thinking: Iterable[str] = ()
    pieces: Iterable[str] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    call_tokens: int = 1
    interval: float = 0.0


def count_words(message: Message) -> int:
    """Count one token a word: the default way for a model to count a message."""
    return len(message.content.split())


def count_nothing(_call: ChatCall) -> int:
    """Count no tokens beside the messages' own."""
    return 0


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """One model that the stand-in has. `name` with its tag, `size` in bytes, `digest` 64 hex digits.

    `count_message` and `count_frame` say what one message costs in tokens, and what a prompt costs beside them.
    """

    name: str
    reply: Callable[[ChatCall], Reply]
    digest: str
    modified_at: str = "2026-01-01T00:00:00Z"
    size: int = 0
    capabilities: tuple[str, ...] = ("completion",)
    context_length: int = 4096
    family: str = "llama"
    parameter_size: str = "4.43M"
    quantization_level: str = "unknown"
    count_message: Callable[[Message], int] = count_words
    count_frame: Callable[[ChatCall], int] = count_nothing


def encode(value: object) -> bytes:
    """JSON with the escapes of Go's encoder, which Ollama uses."""
    text = msgspec.json.encode(value)
    for raw, escaped in ((b"<", rb"\u003c"), (b">", rb"\u003e"), (b"&", rb"\u0026")):
        text = text.replace(raw, escaped)
    return text.replace("\u2028".encode(), rb"\u2028").replace("\u2029".encode(), rb"\u2029")


def decode(body: bytes) -> Any:
    """Decode a request's body; members that are null are left out. Raises `Refused`."""
    if not body.strip():
        raise Refused(400, "missing request body")
    try:
        return _without_nulls(msgspec.json.decode(body.decode("utf-8", "replace")))
    except msgspec.DecodeError as error:
        raise Refused(400, "unexpected EOF" if "truncated" in str(error) else f"invalid JSON: {error}") from error
    except RecursionError as error:
        raise Refused(400, "exceeded max depth") from error


def read_chat(body: bytes) -> ChatCall:
    """Decode and check what of a chat request can be checked without its model. Raises `Refused`."""
    value = decode(body)
    think = value.get("think", False) if isinstance(value, dict) else False
    if not isinstance(think, bool) and think not in _THINK_LEVELS:
        levels = 'must be "high", "medium", "low", "max", true, or false'
        raise Refused(400, f"invalid think value: {json.dumps(think)} ({levels})")
    try:
        call = msgspec.convert(value, ChatCall)
    except msgspec.ValidationError as error:
        raise Refused(400, _go_type_error(str(error))) from error
    for image in (image for message in call.messages for image in message.images):
        _refuse_bad_base64(image)
    _ = call.seconds_kept  # a bad one is refused before the model is looked for
    return call


def full_name(name: str) -> str:
    """Give a model's name with its tag. Raises `Refused` for none and for an impossible one."""
    if not name:
        raise Refused(400, "model is required")
    if not _NAME.fullmatch(name):
        raise Refused(400, "invalid model name")
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def refuse_unable(model: Model, call: ChatCall) -> None:
    """Raise `Refused` if the model cannot do what is asked, or if an option or the format is broken."""
    if call.think and "thinking" not in model.capabilities:
        raise Refused(400, f'"{call.model}" does not support thinking')
    if call.tools and "tools" not in model.capabilities:
        raise Refused(400, f"registry.ollama.ai/library/{model.name} does not support tools")
    for name, value in call.options.items():
        kinds, go_type = _OPTION_TYPES.get(name, (object, ""))
        if not isinstance(value, kinds) or (isinstance(value, bool) and go_type in {"integer", "float32"}):
            raise Refused(500, f'option "{name}" must be of type {go_type}')
    if call.format in (None, "", "json"):
        return
    if not isinstance(call.format, dict):
        raw = json.dumps(encode(call.format).decode(), ensure_ascii=False)
        raise Refused(500, f'invalid format: {raw}; expected "json" or a valid JSON Schema object', late=True)
    if not _is_schema(call.format):
        raise Refused(500, "invalid JSON schema in format", late=True)


def window_of(model: Model, asked: int) -> int:
    """Give the context window in tokens that is in force when `asked` is asked for: at least 4, at most the model's."""
    return max(4, min(asked, model.context_length))


def fit(model: Model, call: ChatCall, window: int) -> tuple[ChatCall, int]:
    """Cut the oldest messages until the prompt fits: the call as the model sees it, and its tokens.

    System messages and the last message stay, and are cut themselves if need be. Raises `Refused` for a call that
    forbids the cutting.
    """
    costs = [model.count_message(message) for message in call.messages]
    total = model.count_frame(call) + sum(costs)
    if total > window and not call.truncate:
        raise TooLong(400, "the input length exceeds the context length", late=True)
    kept = list(call.messages)
    for message, cost in zip(call.messages[:-1], costs, strict=False):
        if total <= window:
            break
        if message.role != "system":
            kept.remove(message)
            total -= cost
    return msgspec.structs.replace(call, messages=tuple(kept)), min(total, window)


class Speech:
    """A reply being said, cut where Ollama cuts it: at `limit` tokens and before any of `stops`.

    Iterate once for what each line says; after that `tokens` and `reason` ("stop", "length") say how it ended.
    """

    def __init__(self, reply: Reply, limit: int, stops: tuple[str, ...] = ()) -> None:
        self.interval = reply.interval
        self.tokens = 0
        self.reason = "stop"
        self._reply = reply
        self._limit = limit
        self._stops = stops

    def __iter__(self) -> Iterator[Said]:
        held = ""
        for said, tokens in self._costed():
            if not self._spend(tokens):
                break
            if not said.content:
                yield said
                continue
            held, stopped = self._before_stop(held + said.content)
            if stopped:
                break
            if not any(held.endswith(stop[:n]) for stop in self._stops for n in range(1, len(stop))):
                yield Said(role="assistant", content=held)
                held = ""
        else:
            self._spend(1)  # the end token
        if held:
            yield Said(role="assistant", content=held)

    def _spend(self, tokens: int) -> bool:
        if self.tokens + tokens > self._limit:
            self.tokens, self.reason = self._limit, "length"
            return False
        self.tokens += tokens
        return True

    def _before_stop(self, text: str) -> tuple[str, bool]:
        places = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        return (text[: min(places)], True) if places else (text, False)

    def _costed(self) -> Iterator[tuple[Said, int]]:
        # The tags around the thinking are tokens too; they are counted with the piece that follows them.
        tokens, tag = 2, 1
        for piece in self._reply.thinking:
            yield Said(role="assistant", content="", thinking=piece), tokens
            tokens, tag = 1, 2
        for piece in self._reply.pieces:
            yield Said(role="assistant", content=piece), tag
            tag = 1
        if self._reply.tool_calls:
            calls = tuple(_as_sent(call) for call in self._reply.tool_calls)
            yield Said(role="assistant", content="", tool_calls=calls), self._reply.call_tokens


def speech_limit(call: ChatCall, prompt_tokens: int, window: int) -> int:
    """Give the most tokens a reply may have: `num_predict`, ten windows, with `shift: false` what is left of one."""
    asked = int(call.options.get("num_predict", -1))
    limit = min(asked if asked > 0 else window * 10, window * 10)
    return limit if call.shift else min(limit, window - prompt_tokens + 1)


def _as_sent(call: ToolCall) -> dict[str, Any]:
    function = call.function
    named = {"index": function.index, "name": function.name, "arguments": function.arguments}
    return {"id": call.id, "function": named}


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(member) for key, member in value.items() if member is not None}
    return [_without_nulls(member) for member in value] if isinstance(value, list) else value


def _go_type_error(text: str) -> str:
    if not (match := _WRONG_TYPE.search(text)):
        return f"json: {text}"
    kind, path = match["kind"], re.sub(r"\[[^\]]*\]", "", match["path"] or "")
    field = f"Go struct field ChatRequest.{path}" if path else "Go value"
    go_type = _GO_TYPES.get(path, "string") if path else "api.ChatRequest"
    return f"json: cannot unmarshal {_GO_KINDS.get(kind, kind)} into {field} of type {go_type}"


def _refuse_bad_base64(text: str) -> None:
    body = text.rstrip("=") if len(text) % 4 == 0 and not text.endswith("===") else text
    if bad := _NOT_BASE64.search(body):
        raise Refused(400, f"illegal base64 data at input byte {bad.start()}")
    if len(text) % 4:
        raise Refused(400, f"illegal base64 data at input byte {len(text) // 4 * 4}")


def _seconds(keep_alive: float | str) -> float:
    if not isinstance(keep_alive, str):
        return float(keep_alive)
    match = _DURATION.fullmatch(keep_alive)
    if not match:
        raise Refused(400, f'time: invalid duration "{keep_alive}"')
    total = sum(float(number) * _SECONDS[unit] for number, unit in _DURATION_PART.findall(match["parts"]))
    return -total if match["sign"] == "-" else total


def _is_schema(schema: object) -> bool:
    if not isinstance(schema, dict):
        return False
    named = schema.get("type", "object")
    types = named if isinstance(named, list) else [named]
    properties = schema.get("properties", {})
    if not isinstance(properties, dict) or not all(kind in _SCHEMA_TYPES for kind in types):
        return False
    return all(map(_is_schema, properties.values()))
