"""A message that arrives just before the server is told to stop, and would be begun only after."""

import json
import signal
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.chat.clients import listens_no_more, raw_chat
from tests.server import LIMIT, Server


class SlowOllama(ThreadingHTTPServer):
    """It has one model, takes its time to say so, and never says a word of a reply."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        self.listed, self.may_list, self.over = threading.Event(), threading.Event(), threading.Event()
        super().__init__(("127.0.0.1", 0), Handler, bind_and_activate=False)
        self.server_bind()


class Handler(BaseHTTPRequestHandler):
    server: SlowOllama

    def do_GET(self) -> None:
        self.server.listed.set()
        self.server.may_list.wait(LIMIT)
        self._say({"models": [{"model": "tiny:latest", "digest": "0"}]})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/api/chat":
            self.server.over.wait(LIMIT)
            return
        self._say({"capabilities": ["completion", "thinking"], "model_info": {}, "details": {}})

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _say(self, answer: object) -> None:
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def ollama() -> Iterator[SlowOllama]:
    with SlowOllama() as ollama:
        yield ollama
        ollama.over.set()


def test_a_message_not_yet_begun_when_the_server_is_told_to_stop_is_refused(tmp_path: Path, ollama: SlowOllama) -> None:
    url = f"http://127.0.0.1:{ollama.server_address[1]}"
    with Server(tmp_path, url, environment={"MOCHI_SHUTDOWN_SECONDS": "2"}) as server:
        session = server.new_session()  # nobody listens yet, so the model is taken on trust
        ollama.server_activate()
        threading.Thread(target=ollama.serve_forever, daemon=True).start()

        with raw_chat(server, f"/chat/{session}/stream", {"message": "hi", "think": True}) as client:
            assert ollama.listed.wait(LIMIT)
            server.process.send_signal(signal.SIGTERM)
            listens_no_more(server)
            ollama.may_list.set()
            answer = client.read_rest()
        assert server.process.wait(LIMIT) == 0
    ollama.shutdown()

    assert (answer.whole, answer.status) == (True, 503)
    assert json.loads(answer.body)["detail"]["error"]["code"] == "shutting_down"
    assert server.file(session)["messages"] == []
