"""OpenAI's own JavaScript client, run by Node. Left out where either is missing: `npm install --no-save openai`."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from mochi_server.ollama.standin import Behaviour
from tests.server import LIMIT, Server
from tests.standin_thread import StandInThread
from tests.tiny_models import ANSWER, HELLO, THINKING, UNICODE

SCRIPT = Path(__file__).with_name("client.mjs")
ENVIRONMENT = {"MOCHI_HEARTBEAT_SECONDS": "0.05"}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Node, and the script where it finds the package: beside the project's node_modules, or those in NODE_PATH."""
    found = shutil.which("node")
    if found is None:
        pytest.skip("Node is not installed")
    folder = tmp_path_factory.mktemp("javascript")
    places = [Path(__file__).parents[2] / "node_modules", *map(Path, os.environ.get("NODE_PATH", "").split(os.pathsep))]
    modules = next((place for place in places if (place / "openai" / "package.json").is_file()), None)
    if modules is None:
        pytest.skip("the npm package `openai` is neither in node_modules nor in a folder of NODE_PATH")
    (folder / "node_modules").symlink_to(modules.resolve())
    return found, Path(shutil.copy(SCRIPT, folder))


@pytest.fixture(scope="module")
def heard(node: tuple[str, Path], server: Server, standin: StandInThread) -> dict[str, Any]:
    """What the client has heard."""
    usual, silent = Behaviour(), Behaviour(delay=0.2)  # heartbeats come before its first token
    standin.script(usual, silent, *[usual] * 4, Behaviour(pieces=("a",), fault="reset", after=1))
    session = server.new_session(session_id="00000000aa")
    done = subprocess.run(
        [*map(str, node), server.url, session], capture_output=True, text=True, timeout=LIMIT, check=False
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def said(chunks: list[dict[str, Any]], field: str = "content") -> list[str]:
    deltas = (choice["delta"] for chunk in chunks for choice in chunk["choices"])
    return [delta[field] for delta in deltas if delta.get(field)]


def test_whole_answers_and_streams(heard: dict[str, Any]) -> None:
    assert heard["whole"]["choices"][0]["message"]["content"] == "".join(HELLO)
    *chunks, usage = heard["chunks"]
    assert said(chunks) == [*UNICODE]
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert (usage["choices"], usage["usage"]["completion_tokens"]) == ([], len(UNICODE) + 1)
    assert (said(heard["thinking"], "reasoning"), said(heard["thinking"])) == ([*THINKING], [*ANSWER])


def test_tools(heard: dict[str, Any]) -> None:
    [call] = heard["calling"]["choices"][0]["message"]["tool_calls"]
    assert json.loads(call["function"]["arguments"]) == {"city": "Paris"}
    assert heard["calling"]["choices"][0]["finish_reason"] == "tool_calls"
    assert heard["answered"]["choices"][0]["message"]["content"] == "".join(HELLO)


def test_models(heard: dict[str, Any], server: Server) -> None:
    assert heard["models"] == [model["name"] for model in server.ok("GET", "/models")["models"]]
    assert heard["model"] == "tiny:latest"


def test_a_session(heard: dict[str, Any], server: Server) -> None:
    assert "".join(said(heard["remembered"])) == "".join(HELLO)
    saved = server.file("00000000aa")["messages"][-1]
    assert heard["remembered"][-1]["message_id"] == saved["message_id"]


def test_errors_are_the_clients_own(heard: dict[str, Any]) -> None:
    assert heard["errors"] == {
        "model": ["NotFoundError", 404, "model_not_found", "model"],
        "streamed": ["NotFoundError", 404, "model_not_found", "model"],
        "field": ["BadRequestError", 400, "validation_error", "n"],
        "session": ["NotFoundError", 404, "session_not_found", None],
    }
    assert heard["before"] == "a"
    assert heard["broken"] == ["APIError", None, "ollama_error", None]
