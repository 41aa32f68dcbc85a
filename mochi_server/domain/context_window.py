"""The window that a reply is asked for in: a function from what is known to what is sent.

Another `num_ctx` than the loaded one makes Ollama wait for all of a model's replies and load it anew. So none is
sent unless somebody fixed one, or a history needs more than there is: then the next power of two up to the model's
own length, which from then on is named for all sessions of the model, and never made smaller while it is loaded.
"""

import math
from collections.abc import Mapping
from typing import Any

import msgspec

from mochi_server.domain.events import ContextWindow
from mochi_server.domain.messages import AssistantMessage
from mochi_server.domain.options import OptionValues
from mochi_server.domain.tokens import Estimate

USUAL_WINDOW = 4096
"""What Ollama takes where nobody says otherwise, on most machines: a guess where nothing is known yet."""

ROOM_FOR_THE_REPLY = 1 / 8
"""The part of a window that a prompt should leave free: Ollama drops the oldest half when a reply outgrows it."""


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a model's window, in tokens; None is what is not.

    `named` is the `num_ctx` that goes with every request to this model, `in_force` the window that such a request
    gets, `limit` the model's own length.
    """

    named: int | None = None
    in_force: int | None = None
    limit: int | None = None


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """What to send: `num_ctx` (None: none), and the window that is then expected to be in force (None: not known)."""

    num_ctx: int | None
    window: int | None
    fixed: bool = False


def choose(estimate: Estimate, known: Known, *, fixed: int | None = None, growing: bool = True) -> Choice:
    """The window for a prompt. `fixed` is one that somebody asked for; without `growing` none larger is asked for.

    A prompt that not even the model's own length can hold is asked for in what is there: Ollama, which has the last
    word, refuses it without loading anything anew.
    """
    limit = known.limit
    if fixed is not None:
        return Choice(num_ctx=fixed, window=_capped(fixed, limit), fixed=True)
    window = known.in_force
    if window is None or not growing or fits(estimate, window) or _at_its_largest(estimate, window, limit):
        return Choice(num_ctx=known.named, window=window)
    return _larger(estimate, window, limit)


def after_refusal(
    estimate: Estimate, refused: Choice, in_force: int | None, limit: int | None, *, growing: bool = True
) -> Choice | None:
    """What to send once Ollama has said that the prompt does not fit into the window; None: there is no larger one.

    `in_force` is the window that it was refused in, as far as it is known.
    """
    if refused.fixed or not growing:
        return None
    window = in_force or refused.window or USUAL_WINDOW
    return None if _at_its_largest(estimate, window, limit) else _larger(estimate, window, limit)


def fits(estimate: Estimate, window: int) -> bool:
    """Whether a prompt leaves a window enough room for the reply."""
    return estimate.likely <= window * (1 - ROOM_FOR_THE_REPLY)


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
    context = message.context
    dynamic = context is not None and context.reason is not msgspec.UNSET
    return ContextWindow(
        current_window=context.window if context else None,
        usage_tokens=used_tokens(message),
        reason=window_reason(fixed="num_ctx" in (message.options or {}), named=dynamic),
    )


def used_tokens(message: AssistantMessage) -> int:
    """How many tokens of its window a reply has used, its prompt included."""
    return (message.prompt_eval_count or 0) + (message.eval_count or 0)


def window_reason(*, fixed: bool, named: bool) -> str:
    """Why the window is what it is: named by this server for its sessions, fixed by an option, or left to Ollama."""
    if named:
        return "dynamic"
    return "manual_override" if fixed else "ollama_default"


def _at_its_largest(estimate: Estimate, window: int, limit: int | None) -> bool:
    """Whether no larger window would help."""
    return limit is not None and (window >= limit or estimate.least > limit)


def _larger(estimate: Estimate, window: int, limit: int | None) -> Choice:
    """The next power of two above a window that is enough, or else the model's own length."""
    least = max(math.ceil(estimate.likely / (1 - ROOM_FOR_THE_REPLY)), window + 1)
    larger = _capped(1 << (least - 1).bit_length(), limit)
    return Choice(num_ctx=larger, window=larger)


def _capped(window: int, limit: int | None) -> int:
    return window if limit is None else min(window, limit)
