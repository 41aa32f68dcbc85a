"""What of a history is sent, where a limit was asked for: the newest whole turns.

A turn is a user message and all that follows it, so that no tool exchange is torn apart. The newest is always sent.
"""

from collections.abc import Callable, Sequence

from mochi_server.domain.messages import Message, UserMessage


def newest_turns(path: Sequence[Message], limit: int) -> int:
    """How many messages the newest whole turns have that are at most `limit` messages together."""
    return newest_that_fit(path, lambda messages: messages <= limit)


def newest_that_fit(path: Sequence[Message], fits: Callable[[int], bool]) -> int:
    """How many of the newest messages are sent, where so many of them fit: all, or else the most whole turns that do.

    Should not even the newest turn fit, it is sent nevertheless.
    """
    if fits(len(path)):
        return len(path)
    turns = [len(path) - place for place, message in enumerate(path) if isinstance(message, UserMessage)]
    return next((messages for messages in turns if fits(messages)), turns[-1] if turns else len(path))
