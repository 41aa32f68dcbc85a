"""What a turn costs in files: which are opened and which are synced, each by what it is."""

import re
from collections import Counter
from pathlib import Path

from tests.costs.one_by_one import warm, watched
from tests.crash.traced import Trace
from tests.server import Server

# A turn saves twice, the question before Ollama is asked and the reply before that is told: each time a new file and
# the folder in which it takes the old one's place.
OPENED = {"a file to be": 2, "the sessions' folder": 2, "the journal": 1}
SYNCED = {"a file to be": 2, "the sessions' folder": 2}

KINDS = {
    r"/\.mochi/[0-9a-f]{16}\.tmp": "a file to be",
    r"/sessions": "the sessions' folder",
    r"/[0-9a-f]{10}\.running": "the journal",
    r"/[0-9a-f]{10}\.json": "the session",
}
SOMETIMES = re.compile(r"/\.mochi(/index\.sqlite[a-z-]*)?$")
"""The index is brought up to date every now and then, whoever had a turn."""

_PATH = re.compile(r'"(?P<opened>/[^"]*)"|\d+<(?P<synced>/[^>]*)>')


def test_a_turn_opens_a_file_for_each_save_and_one_journal(server: Server, tmp_path: Path) -> None:
    trace = one_turn(server, tmp_path)

    assert kinds(trace, "open", "opened") == OPENED


def test_a_turn_syncs_what_it_saves_and_nothing_else(server: Server, tmp_path: Path) -> None:
    trace = one_turn(server, tmp_path)

    synced = kinds(trace, "f", "synced")
    del synced["the journal"]  # every half second, while there is something in it that is not on the disk
    assert synced == SYNCED


def one_turn(server: Server, tmp_path: Path) -> Trace:
    """What is done for a message in a session that had several."""
    warm(server)
    session = server.new_session()
    for message in ("one", "two"):
        server.ok("POST", f"/chat/{session}", {"message": message})
    with watched(server, tmp_path, "/^open,/^f(data)?sync") as trace:
        server.ok("POST", f"/chat/{session}", {"message": "three"})
    return trace


def kinds(trace: Trace, call: str, group: str) -> Counter[str]:
    """What the calls with such names are about, each kind with how often; a file of no known kind by its name."""
    found = Counter[str]()
    for one in trace.calls:
        path = _PATH.search(one.text)
        if one.name.startswith(call) and path is not None and path[group] and not SOMETIMES.search(path[group]):
            found[kind(path[group])] += 1
    return found


def kind(path: str) -> str:
    """What the file at this path is to a session."""
    return next((name for end, name in KINDS.items() if re.search(f"{end}$", path)), path)
