"""Images go with the last session that has them, and never before, whatever else is asked for at the same time."""

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from mochi_server.ollama.standin import Behaviour
from tests.chat.clients import eventually
from tests.pictures import BLIND, GIF, JPEG, SEEING, base64_of, digest, png, seeing_standin
from tests.server import Server
from tests.standin_thread import StandInThread

ENVIRONMENT = {"MOCHI_MAX_CONCURRENT": "16"}


@pytest.fixture(scope="module")
def standin() -> Iterator[StandInThread]:
    with StandInThread(seeing_standin()) as standin:
        yield standin


def stored(server: Server) -> set[str]:
    return {path.name for path in (server.sessions / ".mochi" / "images").glob("*")}


def named(*images: bytes) -> set[str]:
    return {digest(one) for one in images}


def begin(server: Server, *images: bytes) -> str:
    """A new session with these images."""
    body = {"message": "look", "model": SEEING, "images": base64_of(*images)}
    session: str = server.ok("POST", "/chat", body)["session_id"]
    return session


def test_a_deleted_session_leaves_no_image_that_no_other_has(server: Server) -> None:
    first, second = begin(server, GIF, JPEG), begin(server, JPEG)
    server.ok("DELETE", f"/sessions/{first}")
    assert stored(server) == named(JPEG)
    assert server.error("GET", f"/images/{digest(GIF)}")[:2] == (404, "image_not_found")
    # Off the active path it is still in the session.
    server.ok("DELETE", f"/sessions/{second}/messages/0")
    third = begin(server, JPEG)
    server.ok("DELETE", f"/sessions/{third}")
    assert stored(server) == named(JPEG)
    server.ok("DELETE", f"/sessions/{second}")
    assert stored(server) == set()


def test_a_request_that_is_refused_leaves_no_image(server: Server, standin: StandInThread) -> None:
    session, busy = begin(server, JPEG), begin(server, JPEG)
    standin.script(Behaviour(pieces=("a",), fault="silence", after=1))
    with server.stream(f"/chat/{busy}/stream", {"message": "hi", "on_disconnect": "continue"}) as events:
        next(events)
        body = {"message": "look", "images": base64_of(GIF)}
        refusals = [
            (server.error("POST", f"/chat/{busy}", body)[1], "session_busy"),
            (server.error("POST", f"/chat/{session}", body, If_Match='"other"')[1], "revision_conflict"),
            (server.error("POST", "/chat/0123456789", body)[1], "session_not_found"),
            (server.error("POST", "/chat", {**body, "model": BLIND})[1], "capability_missing"),
            (server.error("POST", "/chat", {**body, "model": "nope"})[1], "model_not_found"),
        ]
        assert [told for told, _ in refusals] == [expected for _, expected in refusals]
        assert stored(server) == named(JPEG)
    for one in (session, busy):
        server.ok("DELETE", f"/sessions/{one}")
    assert stored(server) == set()


def test_what_an_earlier_process_left_is_removed_after_the_next_start(server: Server) -> None:
    session = begin(server, GIF)
    server.kill()
    (server.sessions / ".mochi" / "images" / digest(JPEG)).write_bytes(JPEG)
    server.start()
    eventually(lambda: server.call("GET", f"/images/{digest(JPEG)}").status_code == 404 or None)
    assert stored(server) == named(GIF)
    server.ok("DELETE", f"/sessions/{session}")
    assert stored(server) == set()


def test_every_image_that_a_session_has_is_there_through_sends_and_deletions_at_the_same_time(server: Server) -> None:
    pictures = [png(1), png(2)]

    def come_and_go(seed: int) -> list[str]:
        chance, mine, missing = random.Random(seed), list[str](), list[str]()  # noqa: S311 - nothing secret
        for _ in range(12):
            picture = chance.choice(pictures)
            mine.append(begin(server, picture))
            if len(mine) > 1 or chance.random() < 0.7:
                server.ok("DELETE", f"/sessions/{mine.pop(0)}")
            if mine and server.call("GET", f"/images/{digest(picture)}").status_code != 200:
                missing += [s for s in mine if picture_of(server, s) == digest(picture)]
        return [*missing, *(s for s in mine if picture_of(server, s) not in stored(server))]

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(come_and_go, range(6))) == [[]] * 6
    for one in server.ok("GET", "/sessions")["sessions"]:
        server.ok("DELETE", f"/sessions/{one['session_id']}")
    assert stored(server) == set()


def picture_of(server: Server, session: str) -> str:
    (name,) = server.file(session)["messages"][0]["images"]
    return str(name).removeprefix("sha256:")
