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


TOOL_CHOICES = ("auto", "none")
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
"""The fields of a request that are refused, with what of them is let pass beside null: it is what happens anyway."""


def _only(name: str) -> Meta:
    """What one of these may be, for the document: who looks is `api/openai_request.py`, in words that say why."""
    return Meta(extra_json_schema={"enum": [None, *ASKING_FOR_NOTHING[name]]})


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
    tool_choice: Annotated[Any, Meta(extra_json_schema={"enum": [None, *TOOL_CHOICES]})] = None

    n: Annotated[Any, _only("n")] = None
    logprobs: Annotated[Any, _only("logprobs")] = None
    top_logprobs: Annotated[Any, _only("top_logprobs")] = None
    logit_bias: Annotated[Any, _only("logit_bias")] = None
    modalities: Annotated[Any, _only("modalities")] = None
    audio: Annotated[Any, _only("audio")] = None
    functions: Annotated[Any, _only("functions")] = None
    function_call: Annotated[Any, _only("function_call")] = None
    web_search_options: Annotated[Any, _only("web_search_options")] = None
    moderation: Annotated[Any, _only("moderation")] = None
