"""The bodies of answers, typed.

A message or a session may be sent as JSON that is encoded already: where a shape takes a type in brackets, the document
names the message's, and the handler sends `msgspec.Raw`.
"""

from typing import Any, Generic, Literal, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from mochi_server.domain.events import ContextWindow, ErrorEvent, Phase
from mochi_server.domain.messages import Message
from mochi_server.domain.session import Metadata
from mochi_server.store.prompts import ListedPrompt

_M = TypeVar("_M")


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """The server is there; whether its Ollama is, and where (the address without credentials)."""

    status: Literal["ok"] = "ok"
    version: str
    ollama_connected: bool
    ollama_host: str
    ollama_version: str | None


class Ready(msgspec.Struct, frozen=True):
    """A reply could be generated."""

    status: Literal["ready"] = "ready"


class NotReady(msgspec.Struct, frozen=True, kw_only=True):
    """No reply could be generated, and why."""

    status: Literal["not_ready"] = "not_ready"
    reason: str


class ModelInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A model as clients see it. Sizes are megabytes (10^6 bytes), `context_length` tokens."""

    name: str
    size_mb: float
    format: str
    family: str
    parameter_size: str
    quantization_level: str
    capabilities: tuple[str, ...]
    context_length: int | None


class ModelList(msgspec.Struct, frozen=True):
    """The models that can chat, newest first."""

    models: list[ModelInfo]


class DamagedSession(msgspec.Struct, frozen=True):
    """A session whose file cannot be read, and why."""

    session_id: str
    reason: str


class SessionPage(msgspec.Struct, Generic[_M], frozen=True, kw_only=True):
    """A page of the list of sessions; `total` counts what matches, `next_cursor` is null on the last page."""

    sessions: list[_M]
    next_cursor: str | None
    total: int
    damaged: list[DamagedSession]


class WholeSession(Metadata, frozen=True, kw_only=True):
    """A session: its metadata's fields, and beside them the system prompt and the active path, oldest first."""

    messages: tuple[Message, ...]


class MessageList(msgspec.Struct, frozen=True):
    """The system prompt if there is one, and the active path, oldest first."""

    messages: tuple[Message, ...]


class MessageTree(msgspec.Struct, frozen=True):
    """Every message that was ever on a path, and the id of the one that the active path ends in."""

    messages: tuple[Message, ...]
    head: str | None


class EditedMessage(msgspec.Struct, Generic[_M], frozen=True, kw_only=True):
    """A message in its new words, and how many messages the active path has now."""

    session_id: str
    message_index: int
    message_count: int
    message: _M


class TruncatedSession(msgspec.Struct, frozen=True, kw_only=True):
    """How many messages the active path has now."""

    session_id: str
    message_count: int


class SessionPrompt(msgspec.Struct, frozen=True, kw_only=True):
    """A session's system prompt, and the label of where its text came from."""

    content: str
    source_file: str | None
    message_index: Literal[0] = 0


class WindowStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The window in tokens (None: not known), what the last reply used of it, and what the next turn begins with."""

    dynamic_enabled: bool
    current_window: int | None
    usage_tokens: int
    estimated_tokens: int
    remaining_tokens: int | None
    reason: str
    model_max_context: int | None
    manual_override: bool


class RunningReply(msgspec.Struct, frozen=True, kw_only=True):
    """The reply that is being generated; `position` is its place in the queue, while it has one."""

    generation_id: str
    phase: Phase
    age_ms: int
    position: int | UnsetType = UNSET


class SessionStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What a session is set to, and what goes on in it.

    Tool and agent settings are kept as they were given, but nothing acts on them until tools and agents exist.
    """

    session_id: str
    model: str
    message_count: int
    context_window: WindowStatus
    tools_enabled: Literal[False] = False
    active_tools: tuple[str, ...] = ()
    execution_policy: Any
    agents_enabled: Literal[False] = False
    enabled_agents: tuple[str, ...] = ()
    system_prompt_file: str | None
    summary: dict[str, Any] | None
    summary_model: str | None
    generation: RunningReply | None


class PromptList(msgspec.Struct, frozen=True):
    """All system prompt files, by name."""

    prompts: list[ListedPrompt]


class PromptFile(msgspec.Struct, frozen=True):
    """A system prompt file."""

    filename: str
    content: str


class WholeReply(msgspec.Struct, Generic[_M], frozen=True, kw_only=True):
    """A reply that has ended. `message` is null for one that was stopped before its first token."""

    session_id: str
    message: _M | None
    tool_calls_executed: tuple[Any, ...] = ()
    context_window: ContextWindow | None


class Failure(msgspec.Struct, frozen=True):
    """What went wrong."""

    error: ErrorEvent


class Refusal(msgspec.Struct, frozen=True):
    """What was wrong before there was a request that could have an id."""

    code: str
    message: str
    details: dict[str, Any]
    correlation_id: None = None


class RefusedWith(msgspec.Struct, frozen=True):
    """What went wrong."""

    error: Refusal


class RefusedConnection(msgspec.Struct, frozen=True):
    """An error that ends a connection, before its request has come whole."""

    detail: RefusedWith


class ErrorAnswer(msgspec.Struct, frozen=True):
    """The one shape of every error outside a stream."""

    detail: Failure
