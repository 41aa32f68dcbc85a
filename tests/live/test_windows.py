"""The context window against a real Ollama: whole histories or a visible refusal, and no reload that is not needed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.server import Server

pytestmark = pytest.mark.live
LOADED_ALREADY_MS = 100.0
"""To find a tiny model loaded takes Ollama a few milliseconds, to load it some 300."""


def shown(ollama: str, model: str) -> int | None:
    """The window that Ollama shows the model with."""
    loaded = httpx.get(f"{ollama}/api/ps", trust_env=False, timeout=30).json()["models"]
    return next((one["context_length"] for one in loaded if one["name"] == model), None)


def load(ollama: str, model: str, keep_alive: int | str, **options: int) -> None:
    """Load or, with `keep_alive` 0, unload it."""
    body = {"model": model, "options": options, "keep_alive": keep_alive}
    httpx.post(f"{ollama}/api/chat", json=body, trust_env=False, timeout=300).raise_for_status()


def reply_to(server: Server, session: str, message: str, **body: object) -> dict[str, Any]:
    saved: dict[str, Any] = server.ok("POST", f"/chat/{session}", {"message": message, **body})["message"]
    return saved


@pytest.fixture
def small(ollama: str, tiny: None) -> Iterator[str]:  # noqa: ARG001 - skips where the model is not there
    """The model `tiny`, loaded by somebody with a small window. Those that share its weights are unloaded before."""
    load(ollama, "tiny", 0)
    load(ollama, "tiny", "5m", num_ctx=256)
    yield "tiny"
    load(ollama, "tiny", 0)


def test_a_window_that_is_loaded_is_kept_and_grows_once_a_step_for_all_sessions(
    tmp_path: Path, ollama: str, small: str
) -> None:
    with Server(tmp_path, ollama) as server:
        long, short = server.new_session(model=small, system_prompt="Be kind."), server.new_session(model=small)
        while server.ok("GET", f"/sessions/{short}/status")["context_window"]["current_window"] != 256:
            pass
        windows, loads = [], 0
        for turn in range(24):
            message = reply_to(server, long, f"{turn} " + "x" * 80)
            windows.append(message["context"]["window"])
            loads += message["stats"]["load_ms"] > LOADED_ALREADY_MS
            assert message["context"]["messages_left_out"] == 0
            assert message["prompt_eval_count"] > 97 * turn  # a token a character: all of it was read
            assert shown(ollama, f"{small}:latest") == windows[-1]
            between = reply_to(server, short, "hi")
            assert between["context"]["window"] == windows[-1]
            assert between["stats"]["load_ms"] < LOADED_ALREADY_MS

    assert windows == sorted(windows)
    assert sorted(set(windows)) == [256, 512, 1024, 2048, 4096]
    assert loads == 4


def test_any_model_tells_its_window_and_what_was_left_out(live: Server, ollama: str, smallest: str) -> None:
    session = live.new_session(model=smallest, options={"num_predict": 8, "num_ctx": 512})
    for turn in range(8):
        message = reply_to(live, session, f"{turn}: " + "hello there " * 15, history_limit="fit")
    assert message["context"]["window"] == 512 == shown(ollama, smallest)
    assert message["context"]["messages_left_out"] > 0
    assert message["context"]["messages_sent"] + message["context"]["messages_left_out"] == 15
    assert message["prompt_eval_count"] <= 512
    assert message["stats"]["outgrew_window"] is False
