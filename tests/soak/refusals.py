"""Requests that must be refused, each with the status and the code that it is refused with."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from tests.server import API

_NONE: Mapping[str, str] = MappingProxyType({})
_SESSION = f"{API}/sessions/{{session}}"
_CHAT = f"{API}/chat/{{session}}"


class Refusal(NamedTuple):
    """A request, `{session}` standing for the id of one that is there, and what it is answered."""

    method: str
    path: str
    body: object
    status: int
    code: str
    headers: Mapping[str, str] = _NONE


REFUSALS = (
    Refusal("GET", "/nowhere", None, 404, "not_found"),
    Refusal("DELETE", f"{API}/models", None, 405, "method_not_allowed"),
    Refusal("GET", f"{API}/sessions/0123456789", None, 404, "session_not_found"),
    Refusal("GET", f"{API}/sessions/..%2f..%2fetc", None, 404, "not_found"),
    Refusal("GET", f"{API}/sessions?limit=0", None, 422, "validation_error"),
    Refusal("GET", f"{API}/sessions?cursor=none", None, 422, "validation_error"),
    Refusal("POST", f"{API}/sessions", {"model": "nobody"}, 400, "model_not_found"),
    Refusal("POST", f"{API}/sessions", {"modle": "soak"}, 422, "validation_error"),
    Refusal("GET", f"{API}/images/{'0' * 64}", None, 404, "image_not_found"),
    Refusal("GET", f"{API}/system-prompts/none.md", None, 404, "prompt_not_found"),
    Refusal("POST", f"{_CHAT}/stream", b'{"message": "cut', 400, "invalid_json"),
    Refusal("POST", f"{_CHAT}/stream", {"mesage": "hi"}, 422, "validation_error"),
    Refusal("POST", f"{_CHAT}/stream", {"message": ""}, 422, "validation_error"),
    Refusal("POST", _CHAT, {"message": "x" * 1_000_001}, 413, "payload_too_large"),
    Refusal("POST", _CHAT, {"message": "hi", "images": ["none"]}, 422, "validation_error"),
    Refusal("POST", _CHAT, {"message": "hi"}, 412, "revision_conflict", {"If-Match": '"0"'}),
    Refusal("POST", _CHAT, {"message": "hi"}, 415, "unsupported_media_type", {"Content-Type": "text/plain"}),
    Refusal("GET", f"{_CHAT}/stream?after=none", None, 422, "validation_error"),
    Refusal("PUT", f"{_SESSION}/messages/999", {"content": "hi"}, 400, "invalid_message_index"),
    Refusal("DELETE", f"{_SESSION}/messages/999", None, 400, "invalid_message_index"),
    Refusal("PUT", f"{_SESSION}/head", {"message_id": "0123456789"}, 404, "message_not_found"),
    Refusal("PATCH", _SESSION, {"title": 7}, 422, "validation_error"),
    Refusal("GET", f"{API}/models", None, 403, "forbidden_origin", {"Origin": "http://elsewhere.example"}),
    Refusal("GET", f"{API}/models", None, 421, "misdirected_host", {"Host": "elsewhere.example"}),
    Refusal("POST", "/v1/chat/completions", {"model": "nobody", "messages": []}, 400, "validation_error"),
    Refusal("POST", "/v1/chat/completions", {"model": "soak", "messages": "hi"}, 400, "validation_error"),
)
