"""The bodies of requests, typed. A field that is not here is refused by name."""

import re
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from mochi_server.chat.generation import OnDisconnect
from mochi_server.domain.options import Options
from mochi_server.ollama.wire import Format, Think
from mochi_server.store.listing import ID
from mochi_server.store.prompts import LONGEST_PROMPT


def documented(expression: re.Pattern[str]) -> Meta:
    """The form of a text as the document tells it, for what is checked elsewhere, in better words than msgspec has."""
    plain = re.sub(r"\?P<\w+>", "", expression.pattern.removesuffix(r"\Z"))
    return Meta(extra_json_schema={"pattern": f"^(?:{plain})$", "minLength": 1})


SessionId = Annotated[str, documented(ID)]
PromptName = Annotated[
    str, Meta(extra_json_schema={"pattern": r"^[A-Za-z0-9_][A-Za-z0-9_. \-]*\.md$", "minLength": 4, "maxLength": 255})
]

ModelName = Annotated[str, Meta(min_length=1, max_length=300)]
Label = Annotated[str, Meta(min_length=1, max_length=255)]
Title = Annotated[str, Meta(max_length=500)]
Text = Annotated[str, Meta(min_length=1)]
Sent = Annotated[str, Meta(description="a non-empty text")]
"""Empty only with images: `api/chat.py` looks."""

MOST_IMAGES = 16
Images = Annotated[list[str], Meta(max_length=MOST_IMAGES)]
PromptText = Annotated[str, Meta(min_length=1, max_length=LONGEST_PROMPT)]
MessageLimit = Annotated[int, Meta(ge=1, le=1_000_000)] | Literal["fit"]
KeepAlive = (
    Annotated[str, Meta(min_length=1, max_length=40, description="a duration such as `10m`")]
    | Annotated[float, Meta(ge=-1e9, le=1e9, description="a number of seconds")]
)


class CreateSession(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The body of `POST /sessions`."""

    model: ModelName | None = None
    system_prompt: Text | None = None
    system_prompt_source_file: Label | None = None
    title: Title | None = None
    session_id: SessionId | None = None
    options: Options | None = None
    history_limit: MessageLimit | None = None
    tool_settings: dict[str, Any] | None = None
    agent_settings: dict[str, Any] | None = None


class WindowConfig(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """`context_window_config`, as the earlier server's clients send it."""

    dynamic_enabled: bool | UnsetType = UNSET
    current_window: Annotated[int, Meta(ge=1, le=2**31 - 1)] | UnsetType | None = UNSET
    manual_override: bool | UnsetType = UNSET
    last_adjustment: Label | UnsetType | None = UNSET
    adjustment_history: Annotated[list[dict[str, Any]], Meta(max_length=1000)] | UnsetType = UNSET


class ChangeSession(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """The body of `PATCH /sessions/{id}`: only what is given is changed."""

    model: ModelName | UnsetType = UNSET
    title: Title | UnsetType | None = UNSET
    options: Options | UnsetType | None = UNSET
    history_limit: MessageLimit | UnsetType | None = UNSET
    tool_settings: dict[str, Any] | UnsetType | None = UNSET
    agent_settings: dict[str, Any] | UnsetType | None = UNSET
    context_window_config: WindowConfig | UnsetType = UNSET


class EditMessage(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `PUT /sessions/{id}/messages/{index}`."""

    content: Text


class SetSystemPrompt(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The body of `PUT /sessions/{id}/system-prompt`."""

    content: Text | None = None
    source_file: Label | None = None


class NewPrompt(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /system-prompts`."""

    filename: PromptName
    content: PromptText


class ReplacePrompt(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `PUT /system-prompts/{filename}`."""

    content: PromptText


class SetHead(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `PUT /sessions/{id}/head`."""

    message_id: str


class ChatRequest(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The body of both forms of chat."""

    message: Sent | None = None
    think: Think | None = None
    options: Options | None = None
    format: Format | None = None
    images: Images | None = None
    keep_alive: KeepAlive | None = None
    on_disconnect: OnDisconnect | None = None
    history_limit: MessageLimit | None = None


class FirstChatRequest(ChatRequest, forbid_unknown_fields=True, kw_only=True):
    """The body of the one-call forms, which make a session first."""

    model: ModelName | None = None
    system_prompt: Text | None = None


class StopRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The body of stop: with an id, only that reply is stopped."""

    generation_id: str | None = None
