"""Images: taken out of a request, and given back."""

import binascii
import re
from collections.abc import Mapping
from urllib.parse import unquote

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from mochi_server.api.http import state
from mochi_server.domain.images import PREFIX, Image, described, image, is_whole, media_type
from mochi_server.errors import ImageNotFound, MochiError, PayloadTooLarge, ValidationFailed
from mochi_server.store.files import storage_error
from mochi_server.store.images import OpenImage
from mochi_server.store.threads import Threads

DIGEST = re.compile(r"(?:sha256:)?(?P<digest>[0-9a-f]{64})\Z")
_SCHEME = re.compile(r"\s*(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*):")
_SPACE = b" \t\r\n\f\v"

_SLICE = 4 * 65_536
"""How many characters are decoded at once: the event loop waits for as long as that takes."""

_PART = 256 * 1024
"""How many bytes of an image are read and sent at once."""

_KINDS = "PNG, JPEG, WebP or GIF"
_RIGHT = f"Send the bytes of a {_KINDS} image in base64, or as a `data:` URL."
_NEVER_CHANGES = "private, max-age=31536000, immutable"


class ImageResponse(Response):
    """An open image, read a part at a time as the client takes it; closed in the end."""

    def __init__(self, opened: OpenImage, threads: Threads, headers: dict[str, str]) -> None:
        headers["Content-Length"] = str(opened.size)
        super().__init__(None, 200, headers, opened.media_type)
        self._file = opened.file
        self._threads = threads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's form
        """Send it; for HEAD its headers alone."""
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            while scope["method"] != "HEAD" and (part := await self._threads.run(self._file.read, _PART)):
                await send({"type": "http.response.body", "body": part, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            self._file.close()


async def read(request: Request) -> Response:
    """One image's bytes."""
    digest = _digest(request.path_params["sha256"])
    store = state(request)["store"]
    try:
        opened = await store.threads.run(store.images.open, digest)
    except OSError as error:
        raise storage_error(error) from None
    if opened is None:
        raise _not_found(digest)
    return ImageResponse(opened, store.threads, {"Cache-Control": _NEVER_CHANGES, "ETag": f'"{digest}"'})


async def sent_images(request: Request, sent: Mapping[str, str]) -> tuple[Image, ...]:
    """The images in a request, which has each in such a place.

    Raises ValidationFailed, PayloadTooLarge, which name the place of the one that is wrong.
    """
    parts = state(request)
    return await parts["store"].threads.run(_images, sent, parts["settings"].max_image_bytes) if sent else ()


def _images(sent: Mapping[str, str], limit: int) -> tuple[Image, ...]:
    return tuple(_image(text, place, limit) for place, text in sent.items())


def _image(text: str, name: str, limit: int) -> Image:
    try:
        data = _decoded(_base64(text))
    except ValueError as error:
        raise _wrong(name, f"{error}. {_RIGHT}") from None
    if len(data) > limit:
        raise PayloadTooLarge(
            f"`{name}` has {len(data)} bytes, {limit} are allowed. Send a smaller one, or raise MOCHI_MAX_IMAGE_BYTES.",
            {"path": f"$.{name}", "limit_bytes": limit},
        )
    kind = media_type(data)
    if kind is None:
        raise _wrong(name, f"is {described(data)}, whatever it is called. {_RIGHT}")
    if not is_whole(data):
        raise _wrong(name, f"begins as {kind} does, but is cut short or broken. Send the whole of it.")
    return image(data)


def _base64(text: str) -> bytes:
    """The base64 in what was sent, without what closes it. Raises ValueError, whose text goes on after the name."""
    if (scheme := _SCHEME.match(text[:100])) is not None:
        if scheme["scheme"].lower() != "data":
            raise ValueError("is an address, and nothing is fetched from elsewhere")
        head, comma, text = text.partition(",")
        if not comma or not head.rstrip().lower().endswith(";base64"):
            raise ValueError("is a `data:` URL without `;base64,`")
        text = unquote(text) if "%" in text else text
    try:
        return text.encode("ascii").strip(_SPACE)
    except UnicodeEncodeError:
        raise ValueError("is not base64: not all of it is ASCII") from None


def _decoded(sent: bytes) -> bytes:
    """The bytes behind base64, in which white space may stand and the padding be missing. Raises ValueError, too."""
    text = sent.rstrip(b"=" + _SPACE)
    padding = sent[len(text) :].count(b"=")
    if b"=" in text:
        raise ValueError("is not base64: it goes on behind its padding")
    parts: list[bytes] = []
    rest, length = b"", 0
    for start in range(0, len(text), _SLICE):
        piece = rest + text[start : start + _SLICE].translate(None, _SPACE)
        whole = len(piece) // 4 * 4
        rest, length = piece[whole:], length + whole
        parts.append(_strictly(piece[:whole]))
    length += len(rest)
    missing = -length % 4
    if not length:
        raise ValueError("is empty")
    if missing == 3 or padding > missing:
        raise ValueError("is not base64: its length is none that base64 can have, it may be cut short")
    parts.append(_strictly(rest + b"=" * missing))
    return b"".join(parts)


def _strictly(piece: bytes) -> bytes:
    try:
        return binascii.a2b_base64(piece, strict_mode=True)
    except binascii.Error:
        if b"-" in piece or b"_" in piece:
            raise ValueError("is in the alphabet of URLs, with - and _ where + and / are to be") from None
        raise ValueError("is not base64") from None


def _wrong(name: str, what: str) -> MochiError:
    return ValidationFailed(f"`{name}` {what}", {"path": f"$.{name}"})


def _digest(text: str) -> str:
    """Raises ImageNotFound for what no image is called: such a text never becomes a path."""
    match = DIGEST.match(text)
    if match is None:
        raise _not_found(text)
    return match["digest"]


def _not_found(name: str) -> ImageNotFound:
    name = PREFIX + name.removeprefix(PREFIX)[:64]
    return ImageNotFound(
        f"There is no image {name!r}. Messages name theirs in `images`: sha256: and 64 lowercase hex digits.",
        {"image": name},
    )
