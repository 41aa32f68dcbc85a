"""Sessions and messages for tests, made up by hypothesis."""

from typing import Any

import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from mochi_server.domain.messages import (
    AssistantMessage,
    Context,
    Message,
    Stats,
    SystemMessage,
    ToolMessage,
    UserMessage,
)
from mochi_server.domain.session import Metadata, Session

SOME = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""Enough examples, on a machine however busy."""

# What breaks readers of lines, C strings, UTF-16 and careless JSON.
_AWKWARD = '\x00\x1b\x7f\x85\u2028\u2029\ufeff\ufffe\uffff👩\u200d🚀日é\u0301"\\/\r\n\t'
TEXT = st.text(st.sampled_from(_AWKWARD) | st.characters(exclude_categories=["Cs"]), max_size=12)
NUMBERS = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
JSON_VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
OBJECTS = st.dictionaries(TEXT, JSON_VALUES, max_size=3)
UNKNOWN = st.just(msgspec.UNSET) | st.dictionaries(TEXT.map("x".__add__), JSON_VALUES, min_size=1, max_size=2)
COUNTS = st.none() | st.integers(0, 2**63 - 1)
MILLISECONDS = st.none() | st.floats(0, 1e12)

_WHAT_ALL_HAVE = {"content": TEXT, "message_id": st.just(""), "timestamp": TEXT, "unknown": UNKNOWN}
_STATS = st.builds(Stats, ttft_ms=MILLISECONDS, load_ms=MILLISECONDS, outgrew_window=st.none() | st.booleans())
_CONTEXTS = st.builds(Context, window=COUNTS, messages_sent=st.integers(0, 99))
SYSTEM_MESSAGES = st.builds(SystemMessage, source_file=st.none() | TEXT, **_WHAT_ALL_HAVE)
MESSAGES: st.SearchStrategy[Message] = st.one_of(
    st.builds(UserMessage, images=st.none() | st.lists(TEXT, max_size=2).map(tuple), **_WHAT_ALL_HAVE),
    st.builds(
        AssistantMessage,
        model=st.none() | TEXT,
        thinking=st.none() | TEXT,
        tool_calls=st.none() | st.lists(JSON_VALUES, max_size=2),
        eval_count=COUNTS,
        status=st.sampled_from(["complete", "interrupted"]),
        done_reason=st.none() | TEXT,
        model_digest=st.none() | TEXT,
        options=st.none() | OBJECTS,
        context=st.none() | _CONTEXTS,
        stats=st.none() | _STATS,
        **_WHAT_ALL_HAVE,
    ),
    st.builds(ToolMessage, tool_name=st.none() | TEXT, tool_call_id=st.none() | TEXT, **_WHAT_ALL_HAVE),
)
METADATA = st.builds(
    Metadata,
    session_id=TEXT,
    model=TEXT,
    title=st.none() | TEXT,
    created_at=TEXT,
    updated_at=TEXT,
    summary=st.none() | OBJECTS,
    summary_model=st.none() | TEXT,
    options=st.none() | OBJECTS,
    tool_settings=st.none() | OBJECTS,
    agent_settings=st.none() | OBJECTS,
    context_window_config=st.none() | OBJECTS,
    history_limit=st.none() | st.just("fit") | st.integers(1, 1_000_000),
    unknown=UNKNOWN,
)


@st.composite
def sessions(draw: st.DrawFn) -> Session:
    """Any session that a file can hold: with a chained path, and detached messages below any message or none."""
    prompt = draw(st.none() | SYSTEM_MESSAGES)
    path = draw(st.lists(MESSAGES, max_size=3))
    detached = draw(st.lists(MESSAGES | SYSTEM_MESSAGES, max_size=2))
    count = len(path) + (prompt is not None)
    names = draw(st.lists(TEXT, min_size=count + len(detached), max_size=count + len(detached), unique=True))
    chained: list[Message] = []
    for name, message in zip(names, path, strict=False):
        parent = chained[-1].message_id if chained else None
        chained.append(msgspec.structs.replace(message, message_id=name, parent_id=parent))
    off = [
        msgspec.structs.replace(message, message_id=name, parent_id=draw(st.none() | st.sampled_from(names)))
        for name, message in zip(names[count:], detached, strict=True)
    ]
    return Session(
        metadata=msgspec.structs.replace(draw(METADATA), message_count=count),
        system=None if prompt is None else msgspec.structs.replace(prompt, message_id=names[count - 1]),
        path=tuple(chained),
        detached=tuple(off),
        unknown=draw(UNKNOWN),
    )
