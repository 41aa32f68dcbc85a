"""From OpenAI's request to what a turn is asked: messages, options, tools. What cannot be had is refused by name."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from starlette.requests import Request

from mochi_server.api import openai_shapes as shapes
from mochi_server.api.format_schema import check_format
from mochi_server.api.http import state
from mochi_server.api.images import sent_images
from mochi_server.api.new_session import check_length
from mochi_server.api.openai_shapes import ASKING_FOR_NOTHING, TOOL_CHOICES, ChatCompletion
from mochi_server.api.shapes import MOST_IMAGES
from mochi_server.chat.prompt import Ask
from mochi_server.domain.clock import timestamp
from mochi_server.domain.json_depth import DEEPEST_REQUEST, is_deeper_than
from mochi_server.domain.messages import AssistantMessage, Message, SystemMessage, ToolMessage, UserMessage
from mochi_server.domain.options import OptionValues
from mochi_server.errors import CapabilityMissing, EmptyHistory, PayloadTooLarge, ValidationFailed
from mochi_server.ollama.catalog import Catalog
from mochi_server.ollama.wire import Format, Think
from mochi_server.store.sessions import new_id

_EFFORTS: dict[shapes.Effort, Think] = {
    "none": False,
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "max",
    "max": "max",
}
"""Ollama's words for it."""

_USUAL_EFFORT = "medium"
"""What some clients send to every model, since it is what OpenAI's models do anyway."""

_BETWEEN_PARTS = "\n"
_BETWEEN_SYSTEM_MESSAGES = "\n\n"


async def ask_for(request: Request, asked: ChatCompletion, *, in_session: bool) -> Ask:
    """What a turn is asked: to add the whole conversation to nothing or, in a session, what is new of it.

    Raises ValidationFailed, PayloadTooLarge, EmptyHistory.
    """
    _refuse_what_cannot_be_had(asked)
    _check_size(request, asked)
    first = _behind_last_reply(asked.messages) if in_session else 0
    places = _images(asked.messages, first)
    images = await sent_images(request, {place: url for place, (_, url) in places.items()})
    references: dict[int, tuple[str, ...]] = {}
    for (index, _), image in zip(places.values(), images, strict=True):
        references[index] = (*references.get(index, ()), image.reference)
    messages = _messages(asked.messages, references, in_session=in_session)
    system: str | None = None
    if in_session:
        said = [m.content for m in messages if isinstance(m, SystemMessage)]
        system = _BETWEEN_SYSTEM_MESSAGES.join(said) if said else None
        messages = [m for m in messages[first:] if not isinstance(m, SystemMessage)]
        if not messages:
            raise EmptyHistory(
                "There is nothing to add to the session. Behind the last assistant's message must come a user's, or "
                "the results of tools."
            )
    parts = state(request)
    return Ask(
        added=tuple(messages),
        images=images,
        model=asked.model,
        system=system,
        tools=_tools(asked),
        think=await _think(asked, parts["catalog"]),
        options=_options(asked),
        format=await _format(asked),
        on_disconnect=parts["settings"].on_disconnect if in_session else "cancel",
    )


def _refuse_what_cannot_be_had(asked: ChatCompletion) -> None:
    for name, harmless in ASKING_FOR_NOTHING.items():
        value = getattr(asked, name)
        if value is not None and value not in harmless:
            only = " or ".join(f"`{msgspec.json.encode(one).decode()}`" for one in harmless) or "null"
            raise ValidationFailed(
                f"`{name}` cannot be had here: Ollama has nothing like it. Leave it out, or send {only}.",
                {"path": f"$.{name}"},
            )
    if asked.tool_choice is not None and asked.tool_choice not in TOOL_CHOICES:
        raise ValidationFailed(
            "`tool_choice` may be `auto` or `none`: Ollama cannot make a model call a tool. Leave it out, and say in a "
            "message which one is to be called.",
            {"path": "$.tool_choice"},
        )


def _check_size(request: Request, asked: ChatCompletion) -> None:
    settings = state(request)["settings"]
    if len(asked.messages) > settings.max_request_messages:
        raise PayloadTooLarge(
            f"The request has {len(asked.messages)} messages, {settings.max_request_messages} are allowed. Send less, "
            "or raise MOCHI_MAX_REQUEST_MESSAGES.",
            {"path": "$.messages", "limit_messages": settings.max_request_messages},
        )
    characters = 0
    for index, message in enumerate(asked.messages):
        text = _text(message.content or "")
        check_length(request, text, f"$.messages[{index}].content")
        characters += len(text)
        if isinstance(message, shapes.AssistantMessage):
            characters += sum(len(call.function.arguments) for call in message.tool_calls or ())
    if characters > settings.max_request_chars:
        raise PayloadTooLarge(
            f"The request's messages have {characters} characters, {settings.max_request_chars} are allowed. Send "
            "less, or raise MOCHI_MAX_REQUEST_CHARS.",
            {"path": "$.messages", "limit_characters": settings.max_request_chars},
        )


def _behind_last_reply(sent: Sequence[shapes.Message]) -> int:
    """Where in the request that begins which its last assistant's message does not know."""
    replies = (n for n in range(len(sent), 0, -1) if isinstance(sent[n - 1], shapes.AssistantMessage))
    return next(replies, 0)


def _images(sent: Sequence[shapes.Message], first: int) -> dict[str, tuple[int, str]]:
    """The images from this message on, by their places in the request: the message's number, and the image's URL.

    Raises ValidationFailed for too many in one message.
    """
    found: dict[str, tuple[int, str]] = {}
    for index, message in enumerate(sent[first:], first):
        if not isinstance(message, shapes.UserMessage) or isinstance(message.content, str):
            continue
        of_message = {
            f"messages[{index}].content[{n}].image_url.url": (index, part.image_url.url)
            for n, part in enumerate(message.content)
            if isinstance(part, shapes.ImagePart)
        }
        if len(of_message) > MOST_IMAGES:
            path = f"messages[{index}].content"
            raise ValidationFailed(f"`{path}` must have at most {MOST_IMAGES} images.", {"path": f"$.{path}"})
        found |= of_message
    return found


def _messages(sent: Iterable[shapes.Message], images: dict[int, tuple[str, ...]], *, in_session: bool) -> list[Message]:
    """The messages as ours; `images` are references, by the number of their message.

    A tool's result gets the name of the tool, which may stand in the session alone. Raises ValidationFailed.
    """
    now = timestamp(datetime.now(UTC))
    called: dict[str, str] = {}
    messages: list[Message] = []
    for index, message in enumerate(sent):
        at, text, message_id = f"$.messages[{index}]", _text(message.content or ""), new_id()
        match message:
            case shapes.SystemMessage():
                messages.append(SystemMessage(content=text, message_id=message_id, timestamp=now))
            case shapes.UserMessage():
                messages.append(
                    UserMessage(content=text, images=images.get(index), message_id=message_id, timestamp=now)
                )
            case shapes.AssistantMessage():
                calls = [_call(call, f"{at}.tool_calls[{n}]") for n, call in enumerate(message.tool_calls or ())]
                called |= {call.id: call.function.name for call in message.tool_calls or ()}
                text = text or message.refusal or ""
                messages.append(
                    AssistantMessage(content=text, message_id=message_id, timestamp=now, tool_calls=calls or None)
                )
            case shapes.ToolMessage():
                name = called.get(message.tool_call_id)
                if name is None and not in_session:
                    raise ValidationFailed(
                        f"No tool was called before under the id {message.tool_call_id[:100]!r}: an assistant's "
                        "message with the call must stand before its result.",
                        {"path": f"{at}.tool_call_id"},
                    )
                messages.append(
                    ToolMessage(
                        content=text,
                        message_id=message_id,
                        timestamp=now,
                        tool_name=name,
                        tool_call_id=message.tool_call_id,
                    )
                )
    return messages


def _text(content: str | Sequence[shapes.TextPart | shapes.ImagePart | shapes.RefusalPart]) -> str:
    if isinstance(content, str):
        return content
    texts: list[str] = []
    for part in content:
        match part:
            case shapes.TextPart():
                texts.append(part.text)
            case shapes.RefusalPart():
                texts.append(part.refusal)
    return _BETWEEN_PARTS.join(texts)


def _call(call: shapes.ToolCall, at: str) -> dict[str, Any]:
    """A tool call as Ollama has it: its arguments are an object there, and JSON in a text at OpenAI."""
    try:
        arguments = msgspec.json.decode(call.function.arguments or "{}", type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        arguments = None
    path = f"{at}.function.arguments"
    if arguments is None or is_deeper_than(arguments, DEEPEST_REQUEST):
        raise ValidationFailed(f"`{path.removeprefix('$.')}` must be a JSON object, in a text.", {"path": path})
    return {"id": call.id, "function": {"name": call.function.name, "arguments": arguments}}


def _options(asked: ChatCompletion) -> OptionValues:
    given = {
        "temperature": asked.temperature,
        "top_p": asked.top_p,
        "num_predict": asked.max_completion_tokens or asked.max_tokens,
        "stop": [asked.stop] if isinstance(asked.stop, str) else asked.stop or None,
        "seed": asked.seed,
        "presence_penalty": asked.presence_penalty,
        "frequency_penalty": asked.frequency_penalty,
    }
    return {name: value for name, value in given.items() if value is not None}


def _tools(asked: ChatCompletion) -> tuple[dict[str, Any], ...]:
    if asked.tool_choice == "none":
        return ()
    tools: list[dict[str, Any]] = []
    for number, tool in enumerate(asked.tools or ()):
        function = tool.function
        if is_deeper_than(function.parameters, DEEPEST_REQUEST):
            path = f"tools[{number}].function.parameters"
            raise ValidationFailed(f"`{path}` is nested too deep.", {"path": f"$.{path}"})
        # Without parameters Ollama's templates would show the model a function of nobody knows what.
        parameters = function.parameters or {"type": "object", "properties": {}}
        described = {} if function.description is None else {"description": function.description}
        told = {"name": function.name, **described, "parameters": parameters}
        tools.append({"type": "function", "function": told})
    return tuple(tools)


async def _format(asked: ChatCompletion) -> Format | None:
    match asked.response_format:
        case shapes.JsonFormat():
            return "json"
        case shapes.SchemaFormat(json_schema=named):
            await check_format(named.schema, "response_format.json_schema.schema")
            return named.schema
    return None


async def _think(asked: ChatCompletion, catalog: Catalog) -> Think | None:
    """A model that thinks does so when nothing is said; one that does not is not asked to where that may be meant."""
    if asked.reasoning_effort is None:
        return None
    if asked.reasoning_effort == _USUAL_EFFORT:
        try:
            await catalog.require(asked.model, "thinking")
        except CapabilityMissing:
            return None
    return _EFFORTS[asked.reasoning_effort]
