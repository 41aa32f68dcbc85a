"""Images through kills and power cuts: durable before any session's file has them, gone when none has them."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.chat.clients import eventually
from tests.crash.test_syscalls import check_that_it_was_durable_before, sending, watched
from tests.crash.traced import Call, Trace
from tests.faults.injected import RENAME, UNLINK, injected, why_not
from tests.pictures import GIF, JPEG, SEEING, base64_of, digest, seeing_standin
from tests.server import Server
from tests.standin_thread import StandInThread


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with (
        StandInThread(seeing_standin()) as standin,
        Server(tmp_path_factory.mktemp("server"), standin.url, "--log-level", "warning") as server,
    ):
        yield server


def stored(server: Server) -> set[str]:
    return {path.name for path in (server.sessions / ".mochi" / "images").glob("*")}


def put_durably(trace: Trace, server: Server, image: bytes) -> Call:
    """The sync after which the image is safe from a power cut."""
    folder = server.sessions / ".mochi" / "images"
    put = trace.first(lambda call: call.puts(folder / digest(image)))
    temporary = Path(next(part for part in put.text.split('"') if part.endswith(".tmp"))).name
    written = trace.first(lambda call: call.writes(temporary))
    synced = trace.first(lambda call: call.syncs(temporary), after=written)
    assert synced.ended < put.began, "it was put at its name before it was synced"
    return trace.first(lambda call: call.syncs(str(folder)), after=put)


def test_an_image_is_durable_before_the_session_that_has_it_is_put_in_its_place(server: Server, tmp_path: Path) -> None:
    session = server.new_session(model=SEEING)
    file = server.sessions / f"{session}.json"

    with watched(server, tmp_path) as trace:
        server.ok("POST", f"/chat/{session}", {"message": "look", "images": base64_of(GIF)})

    question = trace.first(lambda call: call.puts(file))
    assert put_durably(trace, server, GIF).ended < question.began
    made = trace.first(lambda call: call.syncs(str(server.sessions / ".mochi")))
    assert made.ended < question.began, "a power cut could take the new folder of images"
    asked = trace.first(sending("POST /api/chat"))
    check_that_it_was_durable_before(trace, server, session, question, lambda call: call == asked)


def test_an_image_that_is_there_is_not_written_again_but_made_sure_of(server: Server, tmp_path: Path) -> None:
    server.ok("POST", "/chat", {"message": "look", "model": SEEING, "images": base64_of(GIF)})
    session = server.new_session(model=SEEING)

    with watched(server, tmp_path) as trace:
        server.ok("POST", f"/chat/{session}", {"message": "look", "images": base64_of(JPEG, GIF)})

    folder = server.sessions / ".mochi" / "images"
    assert [call for call in trace.calls if call.puts(folder / digest(GIF))] == []
    # Another request may have put it there this moment: its name is not durable before the folder is synced.
    last = trace.first(lambda call: call.syncs(str(folder)), after=put_durably(trace, server, JPEG))
    assert last.ended < trace.first(lambda call: call.puts(server.sessions / f"{session}.json")).began


def killed_at(
    server: Server, calls: str, *paths: Path, when: str = "", request: tuple[str, str], body: object = None
) -> None:
    """Send the request, and have the server killed in this call: on these paths, or by its number in each thread."""
    if (reason := why_not()) is not None:
        pytest.skip(reason)
    with injected(server.process.pid, server.folder, calls, "EIO:signal=KILL", *paths, when=when):
        with pytest.raises(httpx.TransportError):
            server.call(*request, body)
        server.process.wait(10)
    server.kill()


def test_a_kill_between_an_image_and_its_message_leaves_neither_after_the_next_start(server: Server) -> None:
    session = server.new_session(model=SEEING)
    body = {"message": "look", "images": base64_of(JPEG)}
    for one in server.ok("GET", "/sessions")["sessions"]:
        if one["session_id"] != session:
            server.ok("DELETE", f"/sessions/{one['session_id']}")
    killed_at(server, RENAME, when="2", request=("POST", f"/chat/{session}"), body=body)  # the first is the image's
    assert stored(server) == {digest(JPEG)}
    server.start()
    eventually(lambda: server.call("GET", f"/images/{digest(JPEG)}").status_code == 404 or None)
    assert server.contents(session) == []
    server.ok("POST", f"/chat/{session}", body)
    assert stored(server) == {digest(JPEG)}


def test_a_kill_between_a_session_and_its_image_leaves_neither_after_the_next_start(server: Server) -> None:
    image = server.sessions / ".mochi" / "images" / digest(GIF)
    answer = server.ok("POST", "/chat", {"message": "look", "model": SEEING, "images": base64_of(GIF)})
    killed_at(server, UNLINK, image, request=("DELETE", f"/sessions/{answer['session_id']}"))
    assert image.exists()
    server.start()
    eventually(lambda: server.call("GET", f"/images/{digest(GIF)}").status_code == 404 or None)
    assert server.call("GET", f"/sessions/{answer['session_id']}").status_code == 404
