"""What is said: the messages of a session, as its file and the API hold them.

Messages are values: nothing changes one once it exists. An edit makes a new message beside the old one.
"""

from typing import Any, Literal

import msgspec

from mochi_server.domain.options import OptionValues

Status = Literal["complete", "interrupted"]


class MessageBase(msgspec.Struct, frozen=True, kw_only=True, tag_field="role"):
    """What every message has.

    `parent_id` is the message that this one answers or follows in the tree, None for the first. `unknown` holds
    fields of the file that this version does not know, so that a save keeps them.
    """

    content: str
    message_id: str
    parent_id: str | None = None
    timestamp: str
    unknown: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET


class SystemMessage(MessageBase, frozen=True, kw_only=True, tag="system"):
    """The session's system prompt; `source_file` is the label of where its text came from."""

    source_file: str | None = None


class UserMessage(MessageBase, frozen=True, kw_only=True, tag="user"):
    """What a person said; `images` are `sha256:` references."""

    images: tuple[str, ...] | None = None


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """What a reply was made from. `window` is in tokens, None where it is not known.

    `reason` is set where neither Ollama nor anybody else chose it: it was made larger for a history, or kept so.
    """

    window: int | None = None
    messages_sent: int
    messages_left_out: int = 0
    reason: Literal["dynamic"] | msgspec.UnsetType = msgspec.UNSET


class Stats(msgspec.Struct, frozen=True, kw_only=True):
    """How a reply came about. Durations are milliseconds; None is what was not reported."""

    ttft_ms: float | None = None
    total_ms: float | None = None
    load_ms: float | None = None
    tokens_per_second: float | None = None
    outgrew_window: bool | None = None


class AssistantMessage(MessageBase, frozen=True, kw_only=True, tag="assistant"):
    """What the model said, and what it was asked with.

    `status` is `interrupted` for a reply that was broken off; `done_reason` is Ollama's own (`stop`, `length`) or
    why it was broken off. Counts are tokens as Ollama reports them.
    """

    model: str | None = None
    thinking: str | None = None
    tool_calls: list[Any] | None = None
    eval_count: int | None = None
    prompt_eval_count: int | None = None
    status: Status = "complete"
    done_reason: str | None = None
    model_digest: str | None = None
    options: OptionValues | None = None
    context: Context | None = None
    stats: Stats | None = None


class ToolMessage(MessageBase, frozen=True, kw_only=True, tag="tool"):
    """A tool's result."""

    tool_name: str | None = None
    tool_call_id: str | None = None
    success: bool | None = None


Message = SystemMessage | UserMessage | AssistantMessage | ToolMessage
