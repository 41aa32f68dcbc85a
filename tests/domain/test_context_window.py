"""The window of a reply: fixed where somebody fixed it, else Ollama's own."""

from typing import Any

import msgspec
import pytest

from mochi_server.domain.context_window import context_window, estimated_tokens, with_fixed_window
from mochi_server.domain.messages import Context
from tests.domain.talk import reply, user


@pytest.mark.parametrize(
    ("options", "config", "sent"),
    [
        ({}, None, {}),
        ({}, {}, {}),
        ({}, {"current_window": 8192}, {}),
        ({}, {"current_window": 8192, "manual_override": False}, {}),
        ({}, {"manual_override": True}, {}),
        ({}, {"current_window": None, "manual_override": True}, {}),
        ({"seed": 1}, {"current_window": 8192, "manual_override": True}, {"seed": 1, "num_ctx": 8192}),
        ({"num_ctx": 512}, {"current_window": 8192, "manual_override": True}, {"num_ctx": 512}),
    ],
)
def test_a_window_is_sent_only_where_it_was_fixed(
    options: dict[str, Any], config: dict[str, Any] | None, sent: dict[str, Any]
) -> None:
    given = dict(options)
    assert with_fixed_window(options, config) == sent
    assert options == given


def test_a_reply_in_a_fixed_window_tells_it_and_what_was_used_of_it() -> None:
    said = msgspec.structs.replace(
        reply("a"), eval_count=5, prompt_eval_count=20, context=Context(window=512, messages_sent=1)
    )
    told = context_window(said)
    assert (told.current_window, told.usage_tokens, told.reason) == (512, 25, "manual_override")


def test_a_reply_in_ollamas_own_window_claims_to_know_none() -> None:
    told = context_window(reply("a"))
    assert (told.current_window, told.usage_tokens, told.reason) == (None, 0, "ollama_default")


def test_an_estimate_grows_with_text_and_with_messages() -> None:
    assert estimated_tokens([]) == 0
    assert estimated_tokens([user("1", "")]) > 0
    assert estimated_tokens([user("1", "x" * 400)]) - estimated_tokens([user("1", "")]) == 100
    assert estimated_tokens([user("1"), user("2")]) == estimated_tokens([user("1")]) + estimated_tokens([user("2")])
