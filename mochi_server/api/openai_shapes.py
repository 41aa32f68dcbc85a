"""The body of `POST /v1/chat/completions`, typed. A field that is not here is ignored, as OpenAI's own server does."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from mochi_server.api.shapes import ModelName
from mochi_server.domain.options import Float, Seed

Count = Annotated[int, Meta(ge=1, le=2**31 - 1)]
StopText = Annotated[str, Meta(min_length=1, max_length=1000)]
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


class TextPart(msgspec.Struct, tag_field="type", tag="text"):
    """A piece of a message's text."""

    text: str


class RefusalPart(msgspec.Struct, tag_field="type", tag="refusal"):
    """What a model said in place of an answer."""

    refusal: str


class ImageUrl(msgspec.Struct):
    """An image as a `data:` URL."""

    url: str


class ImagePart(msgspec.Struct, tag_field="type", tag="image_url"):
    """An image of a message."""

    image_url: ImageUrl


class CalledFunction(msgspec.Struct):
    """What a model called; `arguments` is JSON."""

    name: str
    arguments: str


class ToolCall(msgspec.Struct, tag_field="type", tag="function"):
    """A tool call that a model made before."""

    id: str
    function: CalledFunction


class SystemMessage(msgspec.Struct, tag_field="role", tag="system"):
    """What the model is to be."""

    content: str | list[TextPart]


class DeveloperMessage(SystemMessage, tag_field="role", tag="developer"):
    """The same, under its later name."""


class UserMessage(msgspec.Struct, tag_field="role", tag="user"):
    """What a person said."""

    content: str | list[TextPart | ImagePart]


class AssistantMessage(msgspec.Struct, tag_field="role", tag="assistant"):
    """What a model said before."""

    content: str | list[TextPart | RefusalPart] | None = None
    refusal: str | None = None
    tool_calls: list[ToolCall] | None = None
    function_call: None = None


class ToolMessage(msgspec.Struct, tag_field="role", tag="tool"):
    """A tool's result."""

    content: str | list[TextPart]
    tool_call_id: str


Message = SystemMessage | DeveloperMessage | UserMessage | AssistantMessage | ToolMessage


class Function(msgspec.Struct, omit_defaults=True):
    """A tool that a model may call; `parameters` is a JSON schema."""

    name: Annotated[str, Meta(min_length=1, max_length=256)]
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Tool(msgspec.Struct, tag_field="type", tag="function"):
    """A tool of the one kind there is here."""

    function: Function


class PlainFormat(msgspec.Struct, tag_field="type", tag="text"):
    """Any text."""


class JsonFormat(msgspec.Struct, tag_field="type", tag="json_object"):
    """Any JSON."""


class Schema(msgspec.Struct):
    """A JSON schema with a name."""

    schema: dict[str, Any]


class SchemaFormat(msgspec.Struct, tag_field="type", tag="json_schema"):
    """JSON by a schema."""

    json_schema: Schema


class StreamOptions(msgspec.Struct):
    """What a stream is to tell beside the reply."""

    include_usage: bool | None = None


class ChatCompletion(msgspec.Struct, kw_only=True):
    """The whole body. The fields of the second group are refused, but for values that ask for nothing."""

    model: ModelName
    messages: Annotated[list[Message], Meta(min_length=1)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Float | None = None
    top_p: Float | None = None
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    stop: StopText | Annotated[list[StopText], Meta(max_length=4)] | None = None
    seed: Seed | None = None
    presence_penalty: Float | None = None
    frequency_penalty: Float | None = None
    response_format: PlainFormat | JsonFormat | SchemaFormat | None = None
    reasoning_effort: Effort | None = None
    tools: Annotated[list[Tool], Meta(max_length=128)] | None = None
    tool_choice: Any = None

    n: Any = None
    logprobs: Any = None
    top_logprobs: Any = None
    logit_bias: Any = None
    modalities: Any = None
    audio: Any = None
    functions: Any = None
    function_call: Any = None
    web_search_options: Any = None
    moderation: Any = None


ASKING_FOR_NOTHING: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "modalities": ([], ["text"]),
    "audio": (),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "web_search_options": (),
    "moderation": (),
}
"""The fields of the second group, with what of them is let pass beside null: it is what happens anyway."""
