"""Folders of made-up sessions, of any number and length, and a server over such a folder."""

import contextlib
import http.client
import random
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.processes import Process
from benchmarks.progress import Advance
from benchmarks.targets import MODEL, mochi_server
from mochi_server.domain.clock import timestamp
from mochi_server.domain.messages import AssistantMessage, UserMessage
from mochi_server.domain.session import Metadata, Session
from mochi_server.domain.session_file import encode

START = 1_700_000_000
NO_ID, NO_TITLE = "f" * 10, "Session of no number"
TEMPLATES = 200
"""How many sessions are made of words; all others have the words of one of these."""


class Words:
    """Texts of made-up words, each time the same."""

    def __init__(self) -> None:
        self._dice = random.Random(1)  # noqa: S311 - nothing secret
        letters = "etaoinshrdlucmfw"
        self._words = ["".join(self._dice.choices(letters, k=self._dice.randint(2, 9))) for _ in range(3000)]

    def text(self, characters: int) -> str:
        """A text of about so many characters."""
        return " ".join(self._dice.choices(self._words, k=characters // 6 + 1))[:characters]


def session_id(number: int) -> str:
    """The id of the session of this number."""
    return f"{number:010x}"


def moment(number: int) -> str:
    """A moment for each number, all different."""
    return timestamp(datetime.fromtimestamp(START + number, UTC))


def template(words: Words, messages: int, characters: int) -> bytes:
    """A session's file, with nothing in it yet that tells it from others."""
    now = moment(0)
    metadata = Metadata(session_id=NO_ID, model=MODEL, title=NO_TITLE, created_at=now, updated_at=now)
    session = Session(metadata=metadata).extend(
        [
            (AssistantMessage if place % 2 else UserMessage)(
                content=words.text(characters), message_id=f"{place:010x}", timestamp=now
            )
            for place in range(messages)
        ],
        now,
    )
    return encode(session)


def put(folder: Path, number: int, data: bytes) -> str:
    """Make the session of this number from a template; its id."""
    identity = session_id(number)
    for old, new in ((NO_ID, identity), (NO_TITLE, f"Session {number}"), (moment(0), moment(number))):
        data = data.replace(old.encode(), new.encode())
    (folder / f"{identity}.json").write_bytes(data)
    return identity


def fill(data_folder: Path, sessions: int, messages: int, characters: int, advance: Advance) -> None:
    """Make the sessions folder in a data folder."""
    folder = data_folder / "sessions"
    folder.mkdir()
    words = Words()
    templates = [template(words, messages, characters) for _ in range(min(TEMPLATES, sessions))]
    for number in range(sessions):
        put(folder, number, templates[number % len(templates)])
        advance(1)


class Server:
    """A server that answers over one kept connection: what asking it takes, and how long its start took, in seconds."""

    def __init__(self, process: Process, port: int) -> None:
        self.process = process
        self.port = port
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        self.ask("/health")
        self.start_seconds = time.perf_counter() - process.began

    def ask(self, path: str) -> float:
        """Milliseconds of a GET. Raises RuntimeError for another answer than 200."""
        began = time.perf_counter()
        self._connection.request("GET", path)
        answer = self._connection.getresponse()
        answer.read()
        if answer.status != http.HTTPStatus.OK:
            raise RuntimeError(f"{path} was answered with {answer.status}")
        return (time.perf_counter() - began) * 1000

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


@contextlib.contextmanager
def server_over(folder: Path, ollama_port: int) -> Iterator[Server]:
    """A server over this data folder, ended on leaving."""
    with mochi_server(ollama_port, folder) as (process, port), contextlib.closing(Server(process, port)) as server:
        yield server
