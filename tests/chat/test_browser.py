"""A browser's own `EventSource` on a dropped connection: it comes back, misses nothing and ends, all by itself."""

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Self

import msgspec
import pytest

from mochi_server.ollama.standin import Behaviour, Gate
from tests.browser import NEEDS_BROWSER, PATIENCE, Site, browsing
from tests.chat.clients import generating, last_message, raw_chat, read_events
from tests.server import API, Server
from tests.standin_thread import StandInThread

HEAD_AND_FOUR_AND_A_HALF = 1000
"""About so many bytes: an answer's head, four events and some of the fifth."""

PIECES = ("Café ", "\u2028", "\x85", "\n\n", '"', "\N{ROCKET}", "data: x\n\n", "the ", "end", ".")

PAGE = """<!doctype html><meta charset="utf-8"><script>
const ids = [], states = [];
let text = "", errors = 0;
const source = new EventSource("%s");
source.addEventListener("content_delta", (event) => {
  ids.push(event.lastEventId);
  text += JSON.parse(event.data).content;
});
source.addEventListener("done", (event) => ids.push(event.lastEventId));
source.onmessage = (event) => ids.push("unnamed " + event.data);
source.onopen = () => states.push("open");
source.onerror = () => {
  const closed = source.readyState === EventSource.CLOSED;
  states.push(closed ? "closed" : "connecting");
  if (closed || states.length > 20) {
    source.close();
    fetch("/told", { method: "POST", body: JSON.stringify({ text, ids, states }) });
  }
};
</script>"""

pytestmark = NEEDS_BROWSER


class Told(msgspec.Struct):
    """What the page saw: the joined text, the ids of its events, and what became of its connection, in order."""

    text: str
    ids: list[str]
    states: list[str]


class Proxy:
    """Passes bytes on to a port. The first connection is dropped once so many bytes of its answers have passed."""

    def __init__(self, port: int, first_passes: int) -> None:
        self._to = port
        self._passes = [first_passes]
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self.dropped = threading.Event()
        self.asked = b""
        """All that came from the clients."""

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for one in (self._listener, *self._open):
            _hang_up(one)

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._to))
                self._open += [client, server]
                most = self._passes.pop() if self._passes else None
                threading.Thread(target=self._ask, args=(client, server), daemon=True).start()
                threading.Thread(target=self._answer, args=(client, server, most), daemon=True).start()

    def _ask(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while more := client.recv(65_536):
                self.asked += more
                server.sendall(more)
        _hang_up(server)

    def _answer(self, client: socket.socket, server: socket.socket, most: int | None) -> None:
        with suppress(OSError):
            while more := server.recv(65_536 if most is None else min(most, 65_536)):
                client.sendall(more)
                most = None if most is None else most - len(more)
        _hang_up(client)
        if most == 0:
            _hang_up(server)
            self.dropped.set()


def _hang_up(one: socket.socket) -> None:
    with suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as site:
        yield site


@pytest.fixture
def server(tmp_path: Path, standin: StandInThread, site: Site) -> Iterator[Server]:
    """A server that this page may use."""
    with Server(tmp_path, standin.url, "--allow-origin", site.url) as server:
        yield server


def test_an_eventsource_comes_back_by_itself_misses_nothing_and_is_closed_by_the_204(
    server: Server, standin: StandInThread, site: Site
) -> None:
    session, gate = server.new_session(), Gate(len(PIECES) - 2)
    standin.script(Behaviour(pieces=PIECES, gate=gate))
    path = f"/chat/{session}/stream"
    with (
        raw_chat(server, path, {"message": "hi"}) as asking,
        Proxy(server.port, first_passes=HEAD_AND_FOUR_AND_A_HALF) as proxy,
    ):
        read_events(asking, len(PIECES) - 2)
        generation = generating(server, session)
        site.page = PAGE % f"http://127.0.0.1:{proxy.port}{API}{path}"
        with browsing(site.url):
            assert proxy.dropped.wait(PATIENCE)
            gate.open()
            told = msgspec.json.decode(site.told.get(timeout=PATIENCE), type=Told)

    numbers = [*range(1, len(PIECES) + 1), len(PIECES) + 2]  # message_complete is not listened to
    assert told.text == "".join(PIECES) == last_message(server, session)["content"]
    assert told.ids == [f"{generation}-{number}" for number in numbers]
    assert told.states == ["open", "connecting", "open", "connecting", "closed"]
    last_ids = [text.decode() for text in re.findall(rb"(?i)\r\nLast-Event-ID: ([^\r]*)\r\n", proxy.asked)]
    assert proxy.asked.count(b"GET ") == len(last_ids) + 1 == 3
    assert last_ids[0] in told.ids[1:-3]
    assert last_ids[1] == told.ids[-1]
