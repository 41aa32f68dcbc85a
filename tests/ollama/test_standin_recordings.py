"""Holds the stand-in to what a real Ollama answered: `tests/recordings` has the requests, and the answers as sent."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mochi_server.ollama.standin import Behaviour
from tests.raw_http import RawAnswer, exchange
from tests.standin_thread import StandInThread

RECORDINGS = Path(__file__).parent.parent / "recordings"
NAMES = sorted(path.stem for path in RECORDINGS.glob("*.json"))

# What a real Ollama measured or drew, blanked on both sides: all else of a body must be the same, byte for byte.
MEASURED = [
    (rb'"(created_at|expires_at)":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z"', rb'"\1":"a time"'),
    (rb'"(\w+_duration)":[1-9]\d*', rb'"\1":1'),
    (rb'"id":"call_\w{8}"', b'"id":"drawn"'),
]

# Recorded in a state that another request brought about: that one goes first.
AFTER = {
    "ps-loaded": "load",
    "ps-256": "ctx-fits",
    "ps-above": "ctx-above-model",
    "unload": "load",
}

# Recorded while something else was broken or busy, which the stand-in has to be told.
SCRIPTED = {
    "chat-busy": Behaviour(
        fault="status", status=503, error="server busy, please try again.  maximum pending requests exceeded"
    ),
    "chat-runner-dies": Behaviour(fault="error_line", after=135),
    "chat-server-dies": Behaviour(fault="early_end", after=172),
}

SHORTENED = ("show-tiny", "show-tiny-think", "show-tiny-tools")

# The body is not compared byte for byte, but by its own test below.
OTHER_BODY = {
    "ps-256": "the memory that a loaded model takes is not modelled",
    "ps-above": "as ps-256",
    "ps-loaded": "as ps-256",
    **dict.fromkeys(SHORTENED, "the stand-in leaves the bulky keys out, and a short body is sent with its length"),
}
"""Every other recording is held to in full: none is left out."""


@pytest.fixture
def ollama() -> Iterator[StandInThread]:
    with StandInThread() as running:
        yield running


def recorded(name: str) -> tuple[dict[str, Any], bytes]:
    return json.loads((RECORDINGS / f"{name}.json").read_text()), (RECORDINGS / f"{name}.body").read_bytes()


def replay(ollama: StandInThread, name: str) -> RawAnswer:
    request = recorded(name)[0]["request"]
    body = None if request["method"] == "GET" else (request["raw"] or "").encode()
    if request["body"] is not None:
        body = json.dumps(request["body"]).encode()
    return exchange(ollama.url, request["method"], request["path"], body)


def answered(ollama: StandInThread, name: str) -> RawAnswer:
    if name in AFTER:
        assert replay(ollama, AFTER[name]).status == 200
    if name in SCRIPTED:
        ollama.script(SCRIPTED[name])
    return replay(ollama, name)


def blanked(body: bytes) -> bytes:
    for pattern, blank in MEASURED:
        body = re.sub(pattern, blank, body)
    return body


def comparable(headers: dict[str, str], name: str) -> dict[str, str]:
    """Keep what has to be the same: the length itself follows from the body, and differs with the times in it."""
    shorter = {"Content-Length", "Transfer-Encoding"} if name in SHORTENED else set()
    return {key: "n" if key == "Content-Length" else value for key, value in headers.items() if key not in shorter}


@pytest.mark.parametrize("name", NAMES)
def test_an_answer_is_framed_as_recorded(ollama: StandInThread, name: str) -> None:
    response = recorded(name)[0]["response"]

    answer = answered(ollama, name)

    assert (answer.status, answer.whole, answer.reset) == (response["status"], response["whole"], False)
    assert comparable(answer.headers, name) == comparable(response["headers"], name)
    assert len(answer.chunks) == response["chunks"]


@pytest.mark.parametrize("name", [name for name in NAMES if name not in OTHER_BODY])
def test_a_body_is_as_recorded_but_for_what_was_measured(ollama: StandInThread, name: str) -> None:
    answer = answered(ollama, name)

    assert blanked(answer.body) == blanked(recorded(name)[1])


STREAMED = [n for n in NAMES if recorded(n)[0]["response"]["headers"]["Content-Type"] == "application/x-ndjson"]


@pytest.mark.parametrize("name", STREAMED)
def test_a_streamed_reply_is_one_chunk_a_line(ollama: StandInThread, name: str) -> None:
    answer = answered(ollama, name)

    assert [chunk.count(b"\n") for chunk in answer.chunks] == [1] * len(recorded(name)[1].splitlines())
    assert all(chunk.endswith(b"\n") for chunk in answer.chunks)


@pytest.mark.parametrize("name", ["ps-256", "ps-above", "ps-loaded"])
def test_a_loaded_model_is_listed_with_its_window(ollama: StandInThread, name: str) -> None:
    (ours,) = json.loads(blanked(answered(ollama, name).body))["models"]
    (real,) = json.loads(blanked(recorded(name)[1]))["models"]

    assert list(ours) == list(real)
    assert {**ours, "size": 0} == {**real, "size": 0}


@pytest.mark.parametrize("name", SHORTENED)
def test_a_shown_model_tells_what_it_can_and_how_long_its_window_is(ollama: StandInThread, name: str) -> None:
    ours, real = json.loads(answered(ollama, name).body), json.loads(recorded(name)[1])

    assert list(ours) == ["details", "model_info", "capabilities", "modified_at"]
    assert {**ours["details"], "parent_model": ""} == {**real["details"], "parent_model": ""}
    for key in ("general.architecture", "llama.context_length"):
        assert ours["model_info"][key] == real["model_info"][key]
    assert (ours["capabilities"], ours["modified_at"]) == (real["capabilities"], real["modified_at"])
