"""Of a history with a limit the newest whole turns are sent."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mochi_server.domain.history import newest_turns
from mochi_server.domain.messages import Message, ToolMessage, UserMessage
from tests.domain.made_up import SOME
from tests.domain.talk import at, reply, user


def history(kinds: str) -> list[Message]:
    """One message a letter: u(ser), a(ssistant), t(ool)."""
    make: dict[str, Callable[[str], Message]] = {
        "u": user,
        "a": reply,
        "t": lambda name: ToolMessage(content=name, message_id=name, timestamp=at(0)),
    }
    return [make[kind](str(place)) for place, kind in enumerate(kinds)]


@pytest.mark.parametrize(
    ("kinds", "limit", "sent"),
    [
        ("uauau", 1, "u"),
        ("uauau", 2, "u"),
        ("uauau", 3, "uau"),
        ("uauau", 4, "uau"),
        ("uauau", 5, "uauau"),
        ("uauau", 99, "uauau"),
        ("uatatau", 6, "u"),
        ("uauatata", 3, "uatata"),
        ("u", 1, "u"),
        ("", 1, ""),
        ("aaa", 1, "aaa"),
        ("auau", 2, "u"),
        ("auau", 3, "uau"),
        ("auau", 4, "auau"),
    ],
)
def test_the_newest_whole_turns_within_the_limit_are_sent(kinds: str, limit: int, sent: str) -> None:
    assert newest_turns(history(kinds), limit) == len(sent)


@SOME
@given(st.text("uat", max_size=30), st.integers(1, 40))
def test_what_is_sent_is_an_end_of_the_history_that_begins_with_a_question(kinds: str, limit: int) -> None:
    path = history("u" + kinds)
    sent = path[len(path) - newest_turns(path, limit) :]
    assert isinstance(sent[0], UserMessage)
    # Over the limit only where the newest turn alone is.
    assert len(sent) <= limit or sum(isinstance(m, UserMessage) for m in sent) == 1
    left_out = path[: -len(sent)]
    starts = [place for place, m in enumerate(left_out) if isinstance(m, UserMessage)]
    assert not starts or len(path) - starts[-1] > limit
