"""The models that Ollama has, and whether it is there."""

import base64
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mochi_server import __version__
from mochi_server.ollama.standin import ChatCall, Model, Reply, StandIn
from tests.server import Server, told
from tests.standin_thread import StandInThread

SLASHED = "hf.co/Some-Org/Some.Model-GGUF:Q4_K_M"


def says_yes(_: ChatCall) -> Reply:
    return Reply(pieces=("yes",))


MODELS = (
    Model(
        name="old:latest",
        reply=says_yes,
        digest="a" * 64,
        modified_at="2025-01-01T00:00:00Z",
        size=1_234_567_890,
        capabilities=("completion", "vision"),
        context_length=8192,
        family="gemma3",
        parameter_size="4.3B",
        quantization_level="Q4_K_M",
    ),
    Model(name="embed:latest", reply=says_yes, digest="b" * 64, modified_at="2026-09-09T00:00:00Z",
          capabilities=("embedding",)),
    Model(name=SLASHED, reply=says_yes, digest="c" * 64, modified_at="2026-01-01T10:00:00.123456789+02:00"),
)  # fmt: skip
OLD = {
    "name": "old:latest",
    "size_mb": 1234.6,
    "format": "gguf",
    "family": "gemma3",
    "parameter_size": "4.3B",
    "quantization_level": "Q4_K_M",
    "capabilities": ["completion", "vision"],
    "context_length": 8192,
}


@pytest.fixture
def own_standin() -> Iterator[StandInThread]:
    with StandInThread(StandIn(MODELS)) as standin:
        yield standin


@pytest.fixture
def own(tmp_path: Path, own_standin: StandInThread) -> Iterator[Server]:
    with Server(tmp_path, own_standin.url) as server:
        yield server


def test_the_models_that_can_chat_are_listed_with_the_newest_first(own: Server) -> None:
    answer = own.ok("GET", "/models")
    assert list(answer) == ["models"]
    assert [m["name"] for m in answer["models"]] == [SLASHED, "old:latest"]
    assert answer["models"][1] == OLD
    assert list(answer["models"][1]) == list(OLD)
    assert own.ok("POST", "/sessions", {})["model"] == SLASHED


@pytest.mark.parametrize("path", [SLASHED, SLASHED.replace("/", "%2F").replace(":", "%3A")])
def test_a_model_with_slashes_and_a_colon_in_its_name_is_found(own: Server, path: str) -> None:
    assert own.ok("GET", f"/models/{path}")["name"] == SLASHED
    session = own.new_session(model=SLASHED)
    assert own.ok("POST", f"/chat/{session}", {"message": "hi"})["message"]["model"] == SLASHED


def test_one_model_is_told_as_in_the_list_with_its_default_tag_or_without(own: Server) -> None:
    assert own.ok("GET", "/models/old") == own.ok("GET", "/models/old:latest") == OLD


@pytest.mark.parametrize(
    "name", ["none", "old:7b", "none/none:x", "Some.Model-GGUF:Q4_K_M", "%2E%2E", "%00", "x" * 2000]
)
def test_a_model_that_is_not_there_is_a_404_with_what_there_is(own: Server, name: str) -> None:
    response = own.call("GET", f"/models/{name}")
    status, code, details = told(response)
    assert (status, code) == (404, "model_not_found")
    assert {SLASHED, "old:latest"} <= set(details["available"])
    assert "ollama pull" in response.json()["detail"]["error"]["message"]


def test_what_a_model_is_gets_asked_once_for_each_digest(own: Server, own_standin: StandInThread) -> None:
    for _ in range(3):
        own.ok("GET", "/models")
        own.ok("POST", "/sessions", {"model": "old"})
    own_standin.close()
    assert own.error("GET", "/models")[0] == 502
    own_standin.start()
    own.ok("GET", "/models/old")
    asked = [r.json["model"] for r in own_standin.requests if r.path == "/api/show"]
    assert sorted(asked) == sorted(model.name for model in MODELS)


def test_an_ollama_without_models_has_nothing_to_list_and_nothing_to_choose(tmp_path: Path) -> None:
    with StandInThread(StandIn(())) as standin, Server(tmp_path, standin.url) as server:
        assert server.ok("GET", "/models") == {"models": []}
        response = server.call("POST", "/sessions", {})
        assert told(response) == (400, "model_not_found", {"available": []})
        assert "ollama pull" in response.json()["detail"]["error"]["message"]
        assert server.call("GET", "/health/ready").status_code == 503


def test_models_cannot_be_told_while_ollama_is_down(own: Server, own_standin: StandInThread) -> None:
    own.ok("GET", "/models")  # the look at the start is over, and nobody is told what it found
    own_standin.close()
    for path in ("/models", "/models/old"):
        response = own.call("GET", path)
        assert told(response)[:2] == (502, "ollama_unreachable")
        assert own_standin.url in response.json()["detail"]["error"]["message"]
    own_standin.start()
    assert own.ok("GET", "/models/old") == OLD


@pytest.mark.parametrize("path", ["/health", "/api/v1/health"])
def test_the_server_is_healthy_whatever_ollama_does(server: Server, standin: StandInThread, path: str) -> None:
    up = {
        "status": "ok",
        "version": __version__,
        "ollama_connected": True,
        "ollama_host": standin.url,
        "ollama_version": "0.24.0",
    }
    answer = server.client.get(path)
    assert (answer.status_code, answer.json(), list(answer.json())) == (200, up, list(up))
    standin.close()
    down = server.client.get(path)
    assert (down.status_code, down.json()) == (200, {**up, "ollama_connected": False, "ollama_version": None})


@pytest.mark.parametrize("path", ["/health/ready", "/api/v1/health/ready"])
def test_the_server_is_ready_once_a_reply_could_be_made(server: Server, standin: StandInThread, path: str) -> None:
    answer = server.client.get(path)
    assert (answer.status_code, answer.json()) == (200, {"status": "ready"})
    standin.close()
    answer = server.client.get(path)
    assert answer.status_code == 503
    assert answer.json()["status"] != "ready"
    assert standin.url in answer.json()["reason"]
    standin.start()
    assert server.client.get(path).status_code == 200


def test_the_server_is_not_ready_without_its_default_model(tmp_path: Path, standin: StandInThread) -> None:
    with Server(tmp_path, standin.url, "--model", "none:7b") as server:
        answer = server.call("GET", "/health/ready")
        assert answer.status_code == 503
        assert "ollama pull none:7b" in answer.json()["reason"]
        assert server.call("GET", "/health").status_code == 200


def test_an_ollama_that_hangs_does_not_make_the_server_hang(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with Server(tmp_path, url) as server, ThreadPoolExecutor() as pool:
            paths = ("/health", "/health/ready")
            health, ready = pool.map(lambda path: server.client.get(path, timeout=5), paths)
    assert (health.status_code, health.json()["ollama_connected"]) == (200, False)
    assert ready.status_code == 503
    assert ready.json()["reason"]


def test_credentials_in_ollamas_address_reach_ollama_and_nobody_else(tmp_path: Path, standin: StandInThread) -> None:
    address = standin.url.replace("http://", "http://somebody:s3cr%40t@")
    with Server(tmp_path, address) as server:
        told = [server.call("GET", path) for path in ("/health", "/models", "/health/ready")]
        session = server.new_session()
        server.ok("POST", f"/chat/{session}", {"message": "hi"})
        expected = "Basic " + base64.b64encode(b"somebody:s3cr@t").decode()
        paths = {"/api/version", "/api/tags", "/api/show", "/api/chat"}
        assert {r.path for r in standin.requests if r.headers.get("authorization") == expected} >= paths
        standin.close()
        told += [server.call("GET", path) for path in ("/health", "/models", "/health/ready")]
        told.append(server.call("POST", f"/chat/{session}", {"message": "again"}))
        assert told[0].json()["ollama_host"] == standin.url
        assert not [r.text for r in told if "s3cr" in r.text or "somebody" in r.text]
        assert "s3cr" not in server.log.read_text()
