"""What a line may hold: only fields that have a shape, each only in that."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mochi_server.observability.fields import FIELDS, HIDDEN, Ours, printable, shown

PACKAGE = Path(__file__).parents[2] / "mochi_server"
SAID = "sk-live-4711 is what I said"

FACTS = {
    "method": "M-SEARCH",
    "path": "/api/v1/models/hf.co/a/b:latest",
    "status": 200,
    "duration_ms": 0.1,
    "session_id": "00000000aa",
    "generation_id": "00000000ab",
    "model": "hf.co/unsloth/Qwen3-0.6B-GGUF:Q4_K_M",
    "prompt_tokens": None,
    "reply_tokens": 0,
    "ttft_ms": 1.5,
    "total_ms": 2**40,
    "window": 4096,
    "outcome": "ollama_error",
    "done_reason": "stop",
    "reason": "SQLITE_CORRUPT",
    "code": "bad_request",
    "limit": 512,
    "scope": "server",
    "read": 200,
    "of": 10_000,
    "correlation_id": "a-Z.0_9",
}


def calls_of_log() -> Iterator[tuple[str, str]]:
    """Every field that is logged anywhere, and where."""
    for module in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(module.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "log":
                assert isinstance(node.args[2], ast.Constant), f"{module.name}: a line's text is fixed"
                yield from ((module.name, keyword.arg) for keyword in node.keywords if keyword.arg)


def test_all_that_is_logged_has_a_shape_and_every_shape_is_used() -> None:
    used = set(calls_of_log())
    assert {(place, name) for place, name in used if name not in FIELDS} == set()
    assert {name for _, name in used} | {"where"} == set(FIELDS)


@pytest.mark.parametrize(("name", "value"), FACTS.items())
def test_facts_are_shown_as_they_are(name: str, value: Any) -> None:
    assert shown({name: value}) == {name: value}


class Text(str):
    """Says it where its characters do not."""

    __slots__ = ()

    def __str__(self) -> str:
        return SAID

    __repr__ = __str__


class Number(int):
    def __repr__(self) -> str:
        return SAID

    __str__ = __repr__


@pytest.mark.parametrize("name", sorted(FIELDS.keys() - {"path"}))
@pytest.mark.parametrize(
    "value",
    [SAID, Text("00000000aa"), Number(5), [SAID], {SAID: 1}, SAID.encode(), ValueError(SAID), 2**60, -(2.0**70)],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_such_fact_is_not_shown(name: str, value: object) -> None:
    assert shown({name: value}) in ({name: HIDDEN}, {name: "other"})


def test_a_field_without_a_shape_is_left_out_name_and_all() -> None:
    assert shown({SAID: SAID, "message": SAID, "status": 200}) == {"status": 200, "left_out": 2}


def test_what_a_sentence_of_ours_quotes_is_left_out_of_it() -> None:
    sentence = Ours.sentence(f"two of its messages have the id {SAID[:16]!r}")
    assert shown({"damage": sentence}) == {"damage": "two of its messages have the id "}


@given(st.text())
def test_what_is_printed_is_one_line_without_any_control(text: str) -> None:
    told = printable(text)
    assert told.isprintable()
    assert told.isascii() or text.isprintable() or set(told) - set(text) <= set("\\xuUnrt0123456789abcdef")
    assert told == text or not text.isprintable()
