"""What is known of the window that a reply is made in.

No `num_ctx` is sent unless somebody fixed one, since another value than the loaded one makes Ollama load the model
again. So the window is known here only where it was fixed.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from mochi_server.domain.events import ContextWindow
from mochi_server.domain.messages import AssistantMessage, Message
from mochi_server.domain.options import OptionValues

CHARACTERS_PER_TOKEN = 4
"""A rule of thumb for text in Latin script; only ever told as an estimate."""

TOKENS_PER_MESSAGE = 4
"""What a chat template puts around each message, about."""


def with_fixed_window(options: OptionValues, config: Mapping[str, Any] | None) -> OptionValues:
    """The options, with the window that the session's `context_window_config` fixes by `manual_override`.

    A `num_ctx` among the options wins.
    """
    config = config or {}
    window = config.get("current_window")
    fixed = config.get("manual_override") is True and isinstance(window, int) and not isinstance(window, bool)
    if fixed and "num_ctx" not in options:
        return {**options, "num_ctx": window}
    return options


def context_window(message: AssistantMessage) -> ContextWindow:
    """The window of a saved reply, as clients are told it."""
    window = message.context.window if message.context else None
    return ContextWindow(
        current_window=window,
        usage_tokens=(message.prompt_eval_count or 0) + (message.eval_count or 0),
        reason=window_reason(window),
    )


def window_reason(fixed: int | None) -> str:
    """Why the window is what it is: fixed by an option, or left to Ollama."""
    return "ollama_default" if fixed is None else "manual_override"


def estimated_tokens(messages: Iterable[Message]) -> int:
    """How many tokens these messages are, roughly."""
    return sum(len(m.content) // CHARACTERS_PER_TOKEN + TOKENS_PER_MESSAGE for m in messages)
