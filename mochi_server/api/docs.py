"""What the server says of itself: the OpenAPI document, and a page made of it."""

import functools
import hashlib

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from mochi_server.api.http import state

_ASK_AGAIN = "no-cache"
"""To be kept, but used only while its `ETag` is still that of the server."""


class Content(msgspec.Struct, frozen=True):
    """What is served: its bytes, which stay as they are as long as the process runs, and its headers."""

    body: bytes
    media_type: str
    headers: dict[str, str]


async def openapi(request: Request) -> Response:
    """The OpenAPI 3.1 document: every route, shape, event and error."""
    return _answer(request, await state(request)["store"].threads.run(_document))


async def page(request: Request) -> Response:
    """The document as a page to read."""
    address = f"{request.url.scheme}://{request.headers['host']}"
    return _answer(request, await state(request)["store"].threads.run(_page, address))


def _answer(request: Request, content: Content) -> Response:
    known = {tag.strip() for tag in request.headers.get("if-none-match", "").split(",")}
    if known & {content.headers["ETag"], "*"}:
        return Response(status_code=304, headers=content.headers)
    return Response(content.body, 200, content.headers, content.media_type)


# Who never asks for these does not wait for them to be made, nor for what makes them to be read in.
@functools.cache
def _document() -> Content:
    from mochi_server.api.openapi import document  # noqa: PLC0415 - as above, and it reads the table that we are in

    return _content(msgspec.json.encode(document()), "application/json")


@functools.lru_cache(maxsize=8)
def _page(address: str) -> Content:
    from mochi_server.api.docs_page import docs_page  # noqa: PLC0415 - as above
    from mochi_server.api.openapi import document  # noqa: PLC0415 - as above

    html, policy = docs_page(document(), address)
    return _content(html, "text/html", {"Content-Security-Policy": policy})


def _content(body: bytes, media_type: str, headers: dict[str, str] | None = None) -> Content:
    etag = f'"{hashlib.blake2b(body, digest_size=8).hexdigest()}"'
    return Content(body, media_type, {"ETag": etag, "Cache-Control": _ASK_AGAIN, **(headers or {})})
