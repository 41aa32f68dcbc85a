"""What stands in paths, queries and headers, as the document tells it; who reads them checks them in better words."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from mochi_server.api import chat, images, preconditions, sessions
from mochi_server.api.shapes import ModelName, PromptName, SessionId, documented


class Parameter(msgspec.Struct, frozen=True):
    """A part of a path, a query parameter or a header: its name, its type, what it says, and an example."""

    name: str
    kind: Any
    told: str
    example: str | int | None = None


def _of(pattern: str) -> Any:
    return Annotated[str, Meta(extra_json_schema={"pattern": pattern, "minLength": 1})]


IN_PATH = {
    "session_id": Parameter("session_id", SessionId, "The session.", "1970cc586e"),
    "index": Parameter("index", Annotated[int, Meta(ge=0)], "The message's place; a system prompt is 0.", 1),
    "name": Parameter("name", ModelName, "The model's name; it may hold `/` and `:`.", "llama3.2:latest"),
    "filename": Parameter("filename", PromptName, "The file's name.", "brief.md"),
    "sha256": Parameter("sha256", Annotated[str, documented(images.DIGEST)], "The image's name.", "0f" * 32),
}
"""What stands in the paths, by name."""

_REVISIONS = preconditions.REVISIONS.pattern.removesuffix(r"\Z")
_EVENT = Annotated[str, documented(chat.EVENT_ID)]

CORRELATION = Parameter(
    "X-Correlation-Id",
    str,
    "The request's id in the log and in its error: the client's own, else a new one.",
    "4f1c-2a",
)
IF_MATCH = Parameter(
    "If-Match",
    _of(rf"^(?:\*|{_REVISIONS})$"),
    "Do it only if the session is of one of these revisions, as `ETag` tells them; `*` is any.",
    '"9b1f0c5de2a37c44"',
)
IDEMPOTENCY_KEY = Parameter(
    "Idempotency-Key",
    Annotated[str, documented(preconditions.KEY)],
    "A repeat with the same key and body joins the first one's reply.",
    "a8098c1a-f86e",
)
LAST_EVENT_ID = Parameter("Last-Event-ID", _EVENT, "The last event that is known; wins over `after`.", "1970cc586e-12")
IF_NONE_MATCH = Parameter("If-None-Match", str, "The `ETag` of what is known: 304 if it is still so.", None)

AFTER = Parameter("after", _EVENT, "The last event that is known.", "1970cc586e-12")
PAGE = (
    Parameter("limit", Annotated[int, Meta(ge=1, le=sessions.PAGE_MOST)], "How many at most.", 50),
    Parameter("cursor", str, "An earlier answer's `next_cursor`."),
    Parameter("model", str, "Only sessions of this model.", "llama3.2"),
    Parameter("q", Annotated[str, Meta(max_length=sessions.LONGEST_QUERY)], "Only sessions that say this.", "sky"),
)

ETAG = Parameter("ETag", _of('^"[0-9a-f]{16}"$'), "The session's revision.", '"9b1f0c5de2a37c44"')
CONTENT_ETAG = Parameter("ETag", _of('^"[0-9a-f]+"$'), "Names these bytes.", '"9b1f0c5de2a37c44"')
LOCATION = Parameter("Location", str, "Where it is from now on.", "/api/v1/sessions/1970cc586e")
SESSION = Parameter("X-Session-Id", SessionId, "The session that the reply is in.", "1970cc586e")
MESSAGE = Parameter("X-Message-Id", str, "The reply in its session.", "c01f77aa30")
IN_SESSION = Parameter("X-Session-Id", SessionId, "The session that it is said in; without it nothing is kept.", None)
REQUEST_ID = Parameter("X-Request-Id", str, "The same as X-Correlation-Id, as OpenAI calls it.", "4f1c-2a")
SHOULD_RETRY = Parameter("X-Should-Retry", str, "That a client is not to try again by itself.", "false")
RETRY_AFTER = Parameter("Retry-After", Annotated[int, Meta(ge=0)], "Seconds after which to try again.", 5)
ALLOW = Parameter("Allow", str, "The methods that the path takes.", "GET, HEAD")
CACHE_CONTROL = Parameter("Cache-Control", str, "How long it may be kept.", "no-cache")
CONTENT_POLICY = Parameter("Content-Security-Policy", str, "What the page may do: nothing.", "default-src 'none'")
