"""What of a history is sent, where a limit was asked for."""

from collections.abc import Sequence

from mochi_server.domain.messages import Message, UserMessage


def newest_turns(path: Sequence[Message], limit: int) -> Sequence[Message]:
    """The newest whole turns of at most `limit` messages together; the newest turn always.

    A turn is a user message and all that follows it, so that no tool exchange is torn apart.
    """
    starts = [i for i, message in enumerate(path) if isinstance(message, UserMessage)]
    fitting = [start for start in starts if len(path) - start <= limit]
    if len(path) <= limit or not starts:
        return path
    return path[fitting[0] if fitting else starts[-1] :]
