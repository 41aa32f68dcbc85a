"""The window of a reply: fixed where somebody fixed it, grown where a history needs it, else Ollama's own."""

import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mochi_server.domain.context_window import (
    Choice,
    Known,
    after_refusal,
    choose,
    context_window,
    fits,
    with_fixed_window,
)
from mochi_server.domain.messages import Context
from mochi_server.domain.tokens import Estimate
from tests.domain.made_up import SOME
from tests.domain.talk import reply


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
        reply("a"),
        eval_count=5,
        prompt_eval_count=20,
        options={"num_ctx": 512},
        context=Context(window=512, messages_sent=1),
    )
    told = context_window(said)
    assert (told.current_window, told.usage_tokens, told.reason) == (512, 25, "manual_override")


def test_a_reply_in_ollamas_own_window_claims_to_know_none() -> None:
    told = context_window(reply("a"))
    assert (told.current_window, told.usage_tokens, told.reason) == (None, 0, "ollama_default")


def test_a_reply_in_a_window_that_this_server_named_says_so() -> None:
    context = Context(window=8192, messages_sent=1, reason="dynamic")
    said = msgspec.structs.replace(reply("a"), options={"num_ctx": 8192}, context=context)
    assert (context_window(said).current_window, context_window(said).reason) == (8192, "dynamic")


LENGTH = 32_768


def at_least(likely: int) -> Estimate:
    """An estimate that may be four times too high."""
    return Estimate(likely, likely // 4)


@pytest.mark.parametrize(
    ("likely", "known", "fixed", "growing", "chosen"),
    [
        # Nothing is named as long as nothing is needed, or nothing known.
        (100, Known(), None, True, (None, None)),
        (100, Known(in_force=4096, limit=LENGTH), None, True, (None, 4096)),
        (9000, Known(limit=LENGTH), None, True, (None, None)),
        # The next power of two with room for the reply, up to the model's own length.
        (3584, Known(in_force=4096, limit=LENGTH), None, True, (None, 4096)),
        (3585, Known(in_force=4096, limit=LENGTH), None, True, (8192, 8192)),
        (8000, Known(in_force=4096, limit=LENGTH), None, True, (16_384, 16_384)),
        (20_000, Known(in_force=4096, limit=LENGTH), None, True, (LENGTH, LENGTH)),
        (20_000, Known(in_force=4096, limit=20_480), None, True, (20_480, 20_480)),
        (20_000, Known(in_force=4096), None, True, (32_768, 32_768)),
        # What was named is named again, by short histories too.
        (100, Known(named=8192, in_force=8192, limit=LENGTH), None, True, (8192, 8192)),
        (7500, Known(named=8192, in_force=8192, limit=LENGTH), None, True, (16_384, 16_384)),
        # At the model's own length the estimate may be wrong: Ollama has the last word.
        (40_000, Known(named=LENGTH, in_force=LENGTH, limit=LENGTH), None, True, (LENGTH, LENGTH)),
        (40_000, Known(in_force=4096, limit=LENGTH), None, True, (LENGTH, LENGTH)),
        # What not even that can hold is no reason to load the model anew.
        (140_000, Known(in_force=4096, limit=LENGTH), None, True, (None, 4096)),
        (140_000, Known(named=8192, in_force=8192, limit=LENGTH), None, True, (8192, 8192)),
        (140_000, Known(limit=LENGTH), None, True, (None, None)),
        # A window that somebody fixed, or that is not to grow, stays as it is.
        (100, Known(in_force=4096, limit=LENGTH), 512, True, (512, 512)),
        (1000, Known(in_force=4096, limit=LENGTH), 512, True, (512, 512)),
        (4000, Known(in_force=4096, limit=LENGTH), 512, True, (512, 512)),
        (100, Known(in_force=4096, limit=LENGTH), 100_000, True, (100_000, LENGTH)),
        (5000, Known(in_force=4096, limit=LENGTH), None, False, (None, 4096)),
    ],
)
def test_the_window_is_chosen_from_what_is_known(
    likely: int, known: Known, fixed: int | None, growing: bool, chosen: tuple[int | None, int | None]
) -> None:
    choice = choose(at_least(likely), known, fixed=fixed, growing=growing)
    assert (choice.num_ctx, choice.window) == chosen
    assert choice.fixed == (fixed is not None)


@pytest.mark.parametrize(
    ("likely", "refused", "in_force", "limit", "growing", "num_ctx"),
    [
        (100, Choice(num_ctx=None, window=4096), 4096, LENGTH, True, 8192),
        (100, Choice(num_ctx=None, window=None), 2048, LENGTH, True, 4096),
        (100, Choice(num_ctx=None, window=None), None, LENGTH, True, 8192),
        (9000, Choice(num_ctx=None, window=None), 4096, LENGTH, True, 16_384),
        (100, Choice(num_ctx=8192, window=8192), None, 10_000, True, 10_000),
        (100, Choice(num_ctx=LENGTH, window=LENGTH), LENGTH, LENGTH, True, None),
        (140_000, Choice(num_ctx=None, window=4096), 4096, LENGTH, True, None),
        (100, Choice(num_ctx=512, window=512, fixed=True), 512, LENGTH, True, None),
        (100, Choice(num_ctx=None, window=4096), 4096, LENGTH, False, None),
        (100, Choice(num_ctx=None, window=4096), 4096, None, True, 8192),
    ],
)
def test_after_a_refusal_it_is_one_step_more_where_there_is_one(
    likely: int, refused: Choice, in_force: int | None, limit: int | None, growing: bool, num_ctx: int | None
) -> None:
    choice = after_refusal(at_least(likely), refused, in_force, limit, growing=growing)
    assert (None if choice is None else choice.num_ctx) == num_ctx


WINDOWS = st.none() | st.integers(1, 300_000)


@SOME
@given(st.integers(0, 10**6), WINDOWS, WINDOWS, WINDOWS)
def test_a_choice_never_shrinks_goes_beyond_the_model_or_names_what_is_not_needed(
    likely: int, named: int | None, in_force: int | None, limit: int | None
) -> None:
    if limit is not None:
        in_force = None if in_force is None else min(in_force, limit)
    choice = choose(at_least(likely), Known(named=named, in_force=in_force, limit=limit))
    if choice.num_ctx != named:
        assert in_force is not None
        assert not fits(at_least(likely), in_force)
        assert choice.num_ctx is not None
        assert in_force < choice.num_ctx <= (limit or choice.num_ctx)
        assert choice.num_ctx == limit or choice.num_ctx.bit_count() == 1


@SOME
@given(st.lists(st.integers(0, 400), min_size=1, max_size=200), st.sampled_from([4096, 20_000, LENGTH]))
def test_a_conversation_that_grows_makes_at_most_one_step_for_each_power_of_two(turns: list[int], limit: int) -> None:
    known, tokens, steps = Known(in_force=1024, limit=limit), 0, 0
    for turn in turns:
        tokens += turn
        choice = choose(Estimate(tokens, tokens), known)
        assert choice.window is not None
        assert tokens <= choice.window or tokens > limit
        steps += choice.num_ctx != known.named
        known = Known(named=choice.num_ctx, in_force=choice.window, limit=limit)
    assert steps <= math.ceil(math.log2(limit / 1024))
