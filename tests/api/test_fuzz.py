"""Whatever comes in, no route answers with a bug, or not at all."""

import json
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mochi_server.api.routes import ROUTES
from tests.server import Server, told

NAMES = (
    *("model", "system_prompt", "system_prompt_source_file", "title", "options", "history_limit", "tool_settings"),
    *("agent_settings", "context_window_config", "content", "source_file", "message_id", "message", "think", "format"),
    *("images", "keep_alive", "on_disconnect", "generation_id", "num_ctx", "seed", "stop", "temperature", "role"),
    *("session_id", "manual_override", "current_window", "adjustment_history", "filename", "type", "properties"),
    *("messages", "tools", "tool_choice", "tool_calls", "tool_call_id", "response_format", "stream", "stream_options"),
    *("function", "arguments", "text", "image_url", "reasoning_effort", "max_tokens", "n", "logit_bias"),
)
LIKELY = (
    "tiny",
    "tiny-think",
    "fit",
    "json",
    "low",
    "cancel",
    "continue",
    "hi",
    "5m",
    "0123456789",
    "brief.md",
    "user",
    "assistant",
    "tool",
    "system",
    "function",
    "json_schema",
    "",
    "\x00",
    "\ud800",
)
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=-(10**420), max_value=10**420)
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(LIKELY)
)
names = st.sampled_from(NAMES) | st.text(max_size=10)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=5), max_leaves=12
)
bodies = st.dictionaries(names, values, max_size=5).map(lambda v: json.dumps(v).encode()) | st.binary(max_size=40)
segments = st.sampled_from(("0123456789", "..", "0", "1", "-1", "tiny", "a/b:c", "brief.md")) | st.text(max_size=12)
queries = st.dictionaries(st.sampled_from(("limit", "cursor", "model", "x")), st.text(max_size=20), max_size=3)


def path_of(template: str, session: str, segment: str, *, there: bool) -> str:
    """The route's path with a segment in each of its holes, or with the session that is there."""
    quoted = quote(segment, safe="").replace(".", "%2E")  # the client would resolve dots itself
    path = template.replace("{session_id}", session if there else quoted)
    return path.replace("{index}", quoted).replace("{name:path}", quoted).replace("{filename:path}", quoted)


@pytest.mark.parametrize(
    ("method", "template"), [(r.method, r.path) for r in ROUTES], ids=[f"{r.method} {r.path}" for r in ROUTES]
)
def test_no_body_path_or_query_makes_a_route_fail_or_hang(shared: Server, method: str, template: str) -> None:
    session = shared.new_session(system_prompt="s")
    shared.ok("POST", f"/chat/{session}", {"message": "hi"})

    @settings(max_examples=30, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(body=bodies, segment=segments, query=queries, there=st.booleans())
    def ask(body: bytes, segment: str, query: dict[str, Any], *, there: bool) -> None:
        path = path_of(template, session, segment, there=there and method != "DELETE")
        response = shared.client.request(
            method,
            path,
            content=body if method in {"POST", "PUT", "PATCH"} else None,
            params=query or None,
            headers={"Content-Type": "application/json"},
        )
        assert response.status_code != 500, response.text
        if response.status_code >= 400 and not path.endswith("/ready"):
            told(response)
        if "event-stream" in response.headers.get("content-type", ""):
            end = "data: [DONE]\n" if path.startswith("/v1/") else "event: done\n"
            assert response.text.count(end) == 1
            assert '"code":"internal_error"' not in response.text

    ask()
    assert b'"level":"error"' not in shared.log.read_bytes()
