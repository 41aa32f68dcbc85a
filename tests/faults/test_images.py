"""A disk that fails while images are stored or removed: told as such, nothing half done, and the next try works."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.faults.changes import leftovers
from tests.faults.injected import MKDIR, OPEN, READ_FOLDER, RENAME, SYNC, UNLINK, injected
from tests.pictures import GIF, JPEG, SEEING, base64_of, digest, png, seeing_standin
from tests.server import Server, names
from tests.standin_thread import StandInThread


@pytest.fixture(scope="module")
def server(
    strace: None,  # noqa: ARG001 - the server is of no use without
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    with StandInThread(seeing_standin()) as standin, Server(folder, standin.url) as server:
        yield server


def folder_of(server: Server) -> Path:
    return server.sessions / ".mochi" / "images"


def stored(server: Server) -> set[str]:
    return {path.name for path in folder_of(server).glob("*")}


def named(*images: bytes) -> set[str]:
    return {digest(one) for one in images}


class Failing(NamedTuple):
    """Calls that fail on the folder of the images, or the first of them in each thread where `when` says so."""

    calls: str
    when: str = ""
    errors: tuple[str, ...] = ("ENOSPC", "EIO", "EROFS")


STORE = {
    "the image cannot be put in its place": Failing(RENAME, "1"),
    "its folder cannot be opened": Failing(OPEN),
    "its folder cannot be synced": Failing(SYNC, errors=("ENOSPC", "EIO")),
}


@pytest.mark.parametrize("form", ["/chat/{}", "/chat/{}/stream", "/chat", "/chat/stream"])
@pytest.mark.parametrize("failing", STORE.values(), ids=STORE)
def test_an_image_that_cannot_be_stored_is_told_before_its_message_is_added(
    server: Server, failing: Failing, form: str
) -> None:
    session, sessions = server.new_session(model=SEEING), server.ok("GET", "/sessions")["total"]
    folder_of(server).mkdir(exist_ok=True)
    before = stored(server)
    paths = () if failing.when else (folder_of(server),)
    body = {"message": "look", "images": base64_of(GIF)} | ({} if "{}" in form else {"model": SEEING})
    for error in failing.errors:
        with injected(server.process.pid, server.folder, failing.calls, error, *paths, when=failing.when) as faults:
            status, code, _ = server.error("POST", form.format(session), body)
            assert faults.hits()
        assert (status, code) == ((507, "storage_full") if error == "ENOSPC" else (503, "storage_unavailable"))
        assert server.contents(session) == []
        assert server.ok("GET", "/sessions")["total"] == sessions
        assert stored(server) == before
        # The index may be going on in a new file just now.
        assert set(leftovers(server)) <= {"index.tmp"}
    saved = server.call("POST", form.format(session), body)
    assert stored(server) == before | named(GIF)
    server.ok("DELETE", f"/sessions/{saved.headers['x-session-id']}")
    assert stored(server) == before


def test_a_folder_that_cannot_be_made_is_told_and_made_by_the_next_try(server: Server) -> None:
    session, folder = server.new_session(model=SEEING), folder_of(server)
    body = {"message": "look", "images": base64_of(GIF)}
    if folder.exists():
        folder.rmdir()
    with injected(server.process.pid, server.folder, MKDIR, "ENOSPC", folder):
        assert server.error("POST", f"/chat/{session}", body)[:2] == (507, "storage_full")
    assert not folder.exists()
    server.ok("POST", f"/chat/{session}", body)
    assert stored(server) == named(GIF)
    server.ok("DELETE", f"/sessions/{session}")


def test_an_image_whose_message_cannot_be_saved_is_not_left(server: Server) -> None:
    session, other = server.new_session(model=SEEING), server.new_session(model=SEEING)
    server.ok("POST", f"/chat/{other}", {"message": "look", "images": base64_of(JPEG)})
    body = {"message": "look", "images": base64_of(GIF, JPEG)}
    # After the image's own.
    with injected(server.process.pid, server.folder, RENAME, "ENOSPC", when="2"):
        assert server.error("POST", f"/chat/{session}", body)[:2] == (507, "storage_full")
    assert stored(server) == named(JPEG)
    server.ok("DELETE", f"/sessions/{other}")
    assert stored(server) == set()


def test_an_image_that_cannot_be_removed_goes_with_the_next(server: Server) -> None:
    sessions = []
    for image in (GIF, JPEG):
        sessions.append(server.new_session(model=SEEING))
        server.ok("POST", f"/chat/{sessions[-1]}", {"message": "look", "images": base64_of(image)})
    with injected(server.process.pid, server.folder, UNLINK, "EIO", folder_of(server) / digest(GIF)) as faults:
        server.ok("DELETE", f"/sessions/{sessions[0]}")
        assert faults.hits()
    assert stored(server) == named(GIF, JPEG)
    server.ok("DELETE", f"/sessions/{sessions[1]}")
    assert stored(server) == set()


def test_while_the_folder_of_the_sessions_cannot_be_read_every_image_stays(server: Server) -> None:
    sessions = []
    for image in (GIF, JPEG):
        sessions.append(server.new_session(model=SEEING))
        server.ok("POST", f"/chat/{sessions[-1]}", {"message": "look", "images": base64_of(image)})
    for calls, path in (
        (READ_FOLDER, server.sessions),
        (OPEN, server.sessions / f"{sessions[1]}.json"),
    ):
        image, more = png(5), server.new_session(model=SEEING)
        server.ok("POST", f"/chat/{more}", {"message": "look", "images": base64_of(image)})
        # Saved once more, it is to be read once more.
        server.ok("PATCH", f"/sessions/{sessions[1]}", {"title": calls})
        with injected(server.process.pid, server.folder, calls, "EIO", path) as faults:
            server.ok("DELETE", f"/sessions/{more}")
            assert faults.hits()
        assert stored(server) == named(GIF, JPEG, image)
    for session in sessions:
        server.ok("DELETE", f"/sessions/{session}")
    assert stored(server) == set()


def test_an_image_that_the_disk_does_not_give_is_told_and_nothing_is_sent_without_it(server: Server) -> None:
    session = server.new_session(model=SEEING)
    server.ok("POST", f"/chat/{session}", {"message": "look", "images": base64_of(GIF)})
    with injected(server.process.pid, server.folder, OPEN, "EIO", folder_of(server) / digest(GIF)):
        assert server.error("GET", f"/images/{digest(GIF)}")[:2] == (503, "storage_unavailable")
        events = server.events(f"/chat/{session}/stream", {"message": "and?"})
        assert (names(events), events[0].data["code"]) == (["error", "done"], "storage_unavailable")
    server.ok("POST", f"/chat/{session}", {"message": None})
    server.ok("DELETE", f"/sessions/{session}")
    assert "Traceback" not in server.log.read_text()
