"""Estimates of tokens: from characters, corrected by what was counted."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mochi_server.domain.messages import AssistantMessage, Context, Message
from mochi_server.domain.tokens import Costs, Measured, measured
from tests.domain.made_up import SOME, TEXT
from tests.domain.talk import reply, system, user

MESSAGES = st.lists(st.one_of(TEXT, st.text("word ", max_size=4000)), max_size=20).map(
    lambda texts: [reply(str(n), text) if n % 2 else user(str(n), text) for n, text in enumerate(texts)]
)


def counted(name: str, tokens: int, left_out: int = 0, model: str = "tiny") -> AssistantMessage:
    """A reply whose prompt had so many tokens."""
    context = Context(messages_sent=1, messages_left_out=left_out)
    return msgspec.structs.replace(reply(name), model=model, prompt_eval_count=tokens, context=context)


def likely(*messages: Message, measured: Measured | None = None, factor: float | None = None) -> int:
    return Costs(None, messages, measured, factor).newest(len(messages)).likely


@pytest.mark.parametrize(
    ("text", "about"),
    [
        ("The quick brown fox jumps over the lazy dog. " * 20, 200),
        ("春眠不覺曉處處聞啼鳥" * 20, 200),
        ("Съешь же ещё этих мягких французских булок. " * 20, 350),
        ("👩\u200d🚀" * 50, 250),
    ],
)
def test_text_of_any_script_is_estimated_within_reason(text: str, about: int) -> None:
    tokens = likely(user("1", text)) - likely(user("1", ""))
    assert about / 2 < tokens < about * 2


def test_each_message_image_and_tool_call_costs_something() -> None:
    plain = user("1", "hi")
    assert likely(plain, plain) > likely(plain) > 0
    pictured = msgspec.structs.replace(plain, images=("sha256:00", "sha256:01"))
    assert likely(pictured) - likely(plain) == 2 * 768
    calling = msgspec.structs.replace(reply("2"), tool_calls=[{"function": {"name": "f" * 400, "arguments": {}}}])
    assert likely(calling) - likely(reply("2")) > 100


def test_what_was_counted_corrects_what_is_estimated() -> None:
    path: list[Message] = [user("1", "x" * 400), counted("2", 412), user("3", "y" * 400)]
    found = measured(None, path, "tiny")
    assert found == Measured(412, 104, 1)
    estimate = Costs(None, path, found).newest(3)
    assert 600 < estimate.likely < 860
    assert 412 * 0.85 < estimate.least < estimate.likely


def test_of_a_short_prompt_most_is_the_templates_own() -> None:
    path: list[Message] = [user("1", "hi"), counted("2", 40), user("3", "x" * 4000)]
    assert 1000 < Costs(None, path, measured(None, path, "tiny")).newest(3).likely < 1500


def test_new_text_is_not_taken_to_be_cheaper_than_usual() -> None:
    path: list[Message] = [user("1", " " * 4000), counted("2", 200), user("3", "x" * 4000)]
    assert Costs(None, path, measured(None, path, "tiny")).newest(3).likely > 1000


@pytest.mark.parametrize(
    "path",
    [
        [],
        [user("1"), reply("2")],
        [user("1", "x" * 100), counted("2", 30, model="other")],
        [user("1"), msgspec.structs.replace(counted("2", 30), context=None)],
    ],
)
def test_what_another_model_or_an_older_server_counted_measures_nothing(path: list[Message]) -> None:
    assert measured(None, path, "tiny") is None


def test_what_was_left_out_of_a_prompt_was_not_counted_in_it() -> None:
    path: list[Message] = [user("1", "x" * 4000), reply("2"), user("3", "y" * 400), counted("4", 104, left_out=2)]
    found = measured(None, path, "tiny")
    assert found == Measured(104, 104, 3)


def test_the_model_is_believed_where_the_history_has_no_counts() -> None:
    assert likely(user("1", "x" * 400), factor=4.0) == 4 * likely(user("1", "x" * 400))


@SOME
@given(MESSAGES, st.none() | st.integers(1, 10**6), st.integers(0, 20))
def test_more_messages_are_more_tokens_and_least_is_below_likely(
    path: list[Message], tokens: int | None, known: int
) -> None:
    found = None if tokens is None else Measured(tokens, 500.0, min(known, len(path)))
    costs = Costs(system("s"), path, found)
    estimates = [costs.newest(messages) for messages in range(len(path) + 1)]
    assert all(one.least <= one.likely for one in estimates)
    assert [one.likely for one in estimates] == sorted(one.likely for one in estimates)
    assert [one.least for one in estimates] == sorted(one.least for one in estimates)
