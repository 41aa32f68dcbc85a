"""One run of schemathesis against a server of its own, with the stand-in behind."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from mochi_server.api.examples import MODEL, sent_example
from mochi_server.api.shapes import NewPrompt
from mochi_server.ollama.standin import Model, Reply, StandIn
from tests.pictures import SEEING, base64_of, digest, png, seeing_model
from tests.server import Server
from tests.standin_thread import StandInThread
from tests.tiny_models import HELLO, tiny_models

CONFIG = Path(__file__).with_name("schemathesis.toml")
ROOT = Path(__file__).parents[2]
LIMITS = {"MOCHI_MAX_BODY_BYTES": "200000", "MOCHI_MAX_MESSAGE_CHARS": "5000", "MOCHI_MAX_REPLY_CHARS": "500"}
"""Small ones, so that what goes over them costs little."""


class Found(NamedTuple):
    """What a run said, whether all checks held, and what the server's log tells of bugs."""

    held: bool
    words: str
    bugs: list[str]


def fuzz(folder: Path, arguments: Sequence[str], limit: float, *, live: bool = False) -> Found:
    """Run it with these arguments; `live` shows what it says. Raises TimeoutExpired after `limit` seconds."""
    with StandInThread(_standin()) as standin, Server(folder, standin.url, environment=LIMITS) as server:
        image = png()
        question = {"model": SEEING, "message": "What is this?", "images": base64_of(image)}
        asked = server.ok("POST", "/chat", question)
        server.ok("POST", "/system-prompts", sent_example(NewPrompt))
        command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIG), "run", "--no-color"]
        ran = subprocess.run(
            [*command, f"{server.url}/openapi.json", *arguments],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "IMAGE": digest(image), "SESSION": asked["session_id"]},
            stdout=None if live else subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=limit,
            check=False,
        )
        assert server.call("GET", "/health").status_code == 200
        bugs = [str(line) for line in server.log_lines() if line.get("level") == "error"]
        return Found(ran.returncode == 0, ran.stdout or "", bugs)


def _standin() -> StandIn:
    """One that has the model of the document's examples, too."""
    model = Model(name=MODEL, reply=lambda _: Reply(pieces=HELLO), digest="5" * 64)
    return StandIn([*tiny_models(), seeing_model(), model])
