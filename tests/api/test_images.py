"""Images over HTTP: what a request may have them in, how another thing is refused, and how they are given back."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.pictures import GIF, JPEG, SEEING, WEBP, base64_of, digest, png, references, seeing_standin
from tests.server import API, Server, told
from tests.standin_thread import StandInThread

IMAGE_LIMIT = 2_000
BODY_LIMIT = 20_000


@pytest.fixture(scope="module")
def standin() -> Iterator[StandInThread]:
    with StandInThread(seeing_standin()) as standin:
        yield standin


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, standin: StandInThread) -> Iterator[Server]:
    limits = {"MOCHI_MAX_IMAGE_BYTES": str(IMAGE_LIMIT), "MOCHI_MAX_BODY_BYTES": str(BODY_LIMIT)}
    with Server(tmp_path_factory.mktemp("server"), standin.url, environment=limits) as server:
        yield server


@pytest.fixture(scope="module")
def session(server: Server) -> str:
    return server.new_session(model=SEEING)


def stored(server: Server) -> set[str]:
    return {path.name for path in (server.sessions / ".mochi" / "images").glob("*")}


PLAIN_PNG = png(filler=14)
PLAIN = base64.b64encode(PLAIN_PNG).decode()
assert PLAIN.endswith("=="), "otherwise some of these would be the same"

MEANT = {
    "base64": PLAIN,
    "in lines": base64.encodebytes(PLAIN_PNG).decode(),
    "in lines of another system": "\r\n" + base64.encodebytes(PLAIN_PNG).decode().replace("\n", "\r\n"),
    "with tabs and blanks": f" \t{PLAIN[:7]} \f\v{PLAIN[7:]}\t ",
    "without padding": PLAIN.rstrip("="),
    "with half of its padding": PLAIN.removesuffix("="),
    "a data URL": f"data:image/png;base64,{PLAIN}",
    "a data URL that says another type": f"data:image/jpeg;base64,{PLAIN}",
    "a data URL that says no type": f"data:;base64,{PLAIN}",
    "a data URL with a parameter": f"data:image/png;name=cat.png;base64,{PLAIN}",
    "a data URL in capitals": f"DATA:IMAGE/PNG;BASE64,{PLAIN}",
    "a data URL in percents": f"data:image/png;base64,{PLAIN.replace('+', '%2B').replace('=', '%3D')}",
    "a data URL behind a blank": f" data:image/png;base64, {PLAIN}\n",
}


@pytest.mark.parametrize("sent", MEANT.values(), ids=MEANT)
def test_what_certainly_means_an_image_is_taken(
    server: Server, standin: StandInThread, session: str, sent: str
) -> None:
    server.ok("POST", f"/chat/{session}", {"message": "what is this?", "images": [sent]})
    assert standin.chats[-1].json["messages"][-1]["images"] == [PLAIN]
    assert server.ok("GET", f"/sessions/{session}")["messages"][-2]["images"] == references(PLAIN_PNG)


def test_an_image_of_many_slices_comes_through_in_whatever_lines_it_was_sent(
    tmp_path: Path, standin: StandInThread
) -> None:
    large = png(filler=1_000_001)
    text = base64.b64encode(large).decode()
    with Server(tmp_path, standin.url) as server:
        session = server.new_session(model=SEEING)
        for line in (76, 61, 65_537):
            lines = "\n".join(text[start : start + line] for start in range(0, len(text), line))
            server.ok("POST", f"/chat/{session}", {"message": f"{line}", "images": [lines]})
        assert [m.get("images") for m in standin.chats[-1].json["messages"][::2]] == [[text]] * 3
        assert server.client.get(f"{API}/images/{digest(large)}").content == large


URL = "is an address, and nothing is fetched from elsewhere."
NOT_BASE64 = "is not base64"

REFUSED = {
    "an empty text": ("", "is empty."),
    "blanks": (" \n", "is empty."),
    "padding": ("==", "is empty."),
    "a web address": ("https://example.org/cat.png", URL),
    "one in capitals, behind a blank": (" HTTP://example.org/cat.png", URL),
    "a file's address": ("file:///home/me/cat.png", URL),
    "a file's name": ("cat.png", f"{NOT_BASE64}."),
    "a data URL that is not base64": ("data:image/svg+xml,<svg/>", "is a `data:` URL without `;base64,`."),
    "a data URL without data": ("data:image/png;base64", "is a `data:` URL without `;base64,`."),
    "an empty data URL": ("data:image/png;base64,", "is empty."),
    "other characters": (f"{PLAIN[:9]}!{PLAIN[9:]}", f"{NOT_BASE64}."),
    "characters beyond ASCII": (f"{PLAIN}é", f"{NOT_BASE64}: not all of it is ASCII."),
    "the alphabet of URLs": ("_-" + PLAIN[2:], "is in the alphabet of URLs, with - and _ where + and / are to be."),
    "too much padding": (f"{PLAIN}=", f"{NOT_BASE64}: its length is none that base64 can have, it may be cut short."),
    "a length that there is not": (PLAIN[:41], f"{NOT_BASE64}: its length is none that base64 can have, it may be"),
    "two of them in one": (f"{PLAIN}{PLAIN}", f"{NOT_BASE64}: it goes on behind its padding."),
    "text": (base64_of(b"This is a cat.")[0], "is text, whatever it is called."),
    "a drawing": (base64_of(b"<svg xmlns='http://www.w3.org/2000/svg'/>")[0], "is an SVG drawing, whatever it is"),
    "a PDF that says it is a PNG": (f"data:image/png;base64,{base64_of(b'%PDF-1.4')[0]}", "is a PDF document"),
    "a few bytes of a PNG": (base64_of(png()[:8])[0], "begins as image/png does, but is cut short or broken."),
    "half a JPEG": (base64_of(JPEG[:80])[0], "begins as image/jpeg does, but is cut short or broken."),
}  # fmt: skip


@pytest.mark.parametrize(("sent", "words"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_image_is_refused_by_name_and_told_what_it_is(
    server: Server, standin: StandInThread, sent: str, words: str
) -> None:
    session, asked, before = server.new_session(model=SEEING), len(standin.chats), stored(server)
    body = {"message": "what is this?", "images": [*base64_of(GIF), sent]}
    response = server.call("POST", f"/chat/{session}", body)
    status, code, details = told(response)
    message = response.json()["detail"]["error"]["message"]
    assert (status, code, details) == (422, "validation_error", {"path": "$.images[1]"})
    assert message.startswith(f"`images[1]` {words}")
    assert "Send the " in message
    assert server.contents(session) == []
    assert len(standin.chats) == asked
    assert stored(server) == before


WRONG: dict[str, tuple[dict[str, Any], int, str, dict[str, Any]]] = {
    "images to answer anew": ({"images": [PLAIN]}, 422, "validation_error", {"path": "$.images"}),
    "images with null": ({"message": None, "images": [PLAIN]}, 422, "validation_error", {"path": "$.images"}),
    "nothing at all": ({"message": "", "images": []}, 422, "validation_error", {"path": "$.message"}),
    "nothing, and null": ({"message": "", "images": None}, 422, "validation_error", {"path": "$.message"}),
    "seventeen": ({"message": "x", "images": [PLAIN] * 17}, 422, "validation_error", {"path": "$.images"}),
    "one that is too large": (
        {"message": "x", "images": base64_of(png(), png(filler=IMAGE_LIMIT))},
        413,
        "payload_too_large",
        {"path": "$.images[1]", "limit_bytes": IMAGE_LIMIT},
    ),
    "some that are too large together": (
        {"message": "x", "images": base64_of(*[png(n, filler=1_500) for n in range(10)])},
        413,
        "payload_too_large",
        {"limit_bytes": BODY_LIMIT},
    ),
}


@pytest.mark.parametrize("path", ["/chat/{}", "/chat/{}/stream", "/chat", "/chat/stream"])
@pytest.mark.parametrize(("body", "status", "code", "details"), WRONG.values(), ids=WRONG)
def test_images_that_cannot_be_taken_are_refused_in_all_forms(
    server: Server, path: str, body: dict[str, Any], status: int, code: str, details: dict[str, Any]
) -> None:
    session, before = server.new_session(model=SEEING), server.ok("GET", "/sessions")["total"]
    assert server.error("POST", path.format(session), body) == (status, code, details)
    assert server.contents(session) == []
    assert server.ok("GET", "/sessions")["total"] == before


def test_as_large_as_may_be_and_as_many_as_may_be_are_taken(server: Server) -> None:
    images = [png(filler=IMAGE_LIMIT - len(png())), *(png(n) for n in range(15))]
    assert len(images[0]) == IMAGE_LIMIT
    answer = server.ok("POST", "/chat", {"message": "", "model": SEEING, "images": base64_of(*images)})
    asked = server.ok("GET", f"/sessions/{answer['session_id']}")["messages"][0]
    assert (asked["content"], asked["images"]) == ("", references(*images))


@pytest.mark.parametrize(
    ("image", "kind"), [(png(), "image/png"), (JPEG, "image/jpeg"), (GIF, "image/gif"), (WEBP, "image/webp")]
)
def test_an_image_is_given_back_as_it_was_sent(server: Server, session: str, image: bytes, kind: str) -> None:
    server.ok("POST", f"/chat/{session}", {"message": "look", "images": base64_of(image)})
    for name in (digest(image), *references(image)):
        response = server.client.get(f"{API}/images/{name}")
        assert (response.status_code, response.content) == (200, image)
        headers = response.headers
        assert (headers["content-type"], headers["content-length"]) == (kind, str(len(image)))
        assert headers["cache-control"] == "private, max-age=31536000, immutable"
        assert headers["etag"] == f'"{digest(image)}"'
        assert headers["x-content-type-options"] == "nosniff"
    head = server.client.head(f"{API}/images/{digest(image)}")
    assert (head.status_code, head.headers["content-length"], head.content) == (200, str(len(image)), b"")


def test_what_is_called_no_image_is_not_looked_for(server: Server) -> None:
    folder = server.sessions / ".mochi" / "images"
    folder.mkdir(exist_ok=True)
    (folder / ("f" * 63)).write_bytes(png())
    (folder / ("e" * 64)).write_text("somebody put this here")
    (folder / ("d" * 64)).mkdir()
    for name in ("0" * 64, "f" * 63, digest(png()).upper(), f"sha512:{'0' * 64}", "e" * 64, "d" * 64, "%2e%2e", "é"):
        status, code, details = server.error("GET", f"/images/{name}")
        assert (status, code, list(details)) == (404, "image_not_found", ["image"])


def test_the_file_holds_a_reference_and_the_folder_holds_the_image_once(server: Server) -> None:
    image = png(40_000)
    for _ in range(2):
        session = server.ok("POST", "/chat", {"message": "look", "model": SEEING, "images": base64_of(image, image)})[
            "session_id"
        ]
    folder = server.sessions / ".mochi" / "images"
    assert json.loads((server.sessions / f"{session}.json").read_text())["messages"][0]["images"] == (
        references(image, image)
    )
    assert (folder / digest(image)).read_bytes() == image
    assert (folder.stat().st_mode & 0o777, (folder / digest(image)).stat().st_mode & 0o777) == (0o700, 0o600)
    assert list((server.sessions / ".mochi").glob("*.tmp")) == []
