"""A real Ollama at OLLAMA_HOST, where one answers."""

import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from mochi_server.ollama.address import parse_address
from tests.server import Server


@pytest.fixture(scope="session")
def ollama() -> str:
    """Its address."""
    host = os.environ.get("OLLAMA_HOST", "")
    if not host:
        pytest.skip("OLLAMA_HOST is not set")
    url = parse_address(host).shown
    try:
        httpx.get(f"{url}/api/version", trust_env=False, timeout=5).raise_for_status()
    except httpx.HTTPError:
        pytest.skip("no Ollama answers at OLLAMA_HOST")
    return url


@pytest.fixture(scope="session")
def models(ollama: str) -> dict[str, int]:
    """The sizes of its models, by name."""
    tags = httpx.get(f"{ollama}/api/tags", trust_env=False, timeout=30).json()["models"]
    return {tag["name"]: tag["size"] for tag in tags}


@pytest.fixture
def live(tmp_path: Path, ollama: str) -> Iterator[Server]:
    """A server beside it."""
    with Server(tmp_path, ollama) as server:
        yield server


@pytest.fixture
def smallest(live: Server, models: dict[str, int]) -> str:
    """The smallest model that can chat."""
    able = [model["name"] for model in live.ok("GET", "/models")["models"]]
    if not able:
        pytest.skip("this Ollama has no model that can chat")
    return str(min(able, key=lambda name: models[name]))


@pytest.fixture
def tiny(models: dict[str, int]) -> None:
    """Leave the test out where the deterministic tiny models are not there."""
    if "tiny:latest" not in models:
        pytest.skip("this Ollama does not have the tiny models")
