"""What is wrong with a request is said in plain words, from what the field may be and never from what was sent."""

import json
from typing import Any

import pytest

from mochi_server.api.routes import ROUTES
from tests.api.wire import exchange
from tests.server import API, Server, told
from tests.standin_thread import StandInThread

CREATE, CHAT, STOP = "/sessions", "/chat/0123456789", "/chat/0123456789/stop"
LIMIT = "`history_limit` may be a whole number from 1 to 1000000, `fit` or null"
THINK = "`think` may be true, false, `low`, `medium`, `high`, `max` or null"
FORMAT = "`format` may be `json`, a JSON schema (an object) or null"
KEEP = "`keep_alive` may be a duration such as `10m`, a number of seconds from -1000000000 to 1000000000 or null"
SCALE = "a whole number from 1 to 2147483647"


def words(server: Server, method: str, path: str, body: bytes) -> tuple[str, dict[str, Any]]:
    """The message and the details of a refusal."""
    response = server.client.request(method, API + path, content=body, headers={"Content-Type": "application/json"})
    _, _, details = told(response)
    message: str = response.json()["detail"]["error"]["message"]
    return message, details


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        *((CREATE, {"history_limit": v}, f"{LIMIT}, not another text.") for v in ("all", "")),
        *((CREATE, {"history_limit": v}, f"{LIMIT}; this number is out of range.") for v in (0, 1_000_001, 10**400)),
        (CREATE, {"history_limit": []}, f"{LIMIT}, not an array."),
        (CREATE, {"history_limit": True}, f"{LIMIT}, not true or false."),
        (CREATE, {"history_limit": 1.5}, f"{LIMIT}, not a number with a fraction or an exponent."),
        (CHAT, {"think": 1}, f"{THINK}, not a number."),
        (CHAT, {"think": "hard"}, f"{THINK}, not another text."),
        (CHAT, {"format": "xml"}, f"{FORMAT}, not another text."),
        (CHAT, {"format": []}, f"{FORMAT}, not an array."),
        (CHAT, {"keep_alive": {}}, f"{KEEP}, not an object."),
        (CHAT, {"keep_alive": 1e10}, f"{KEEP}; this number is out of range."),
        (CHAT, {"on_disconnect": "never"}, "`on_disconnect` may be `cancel`, `continue` or null, not another text."),
    ],
)
def test_a_field_that_may_be_several_things_is_told_with_all_of_them(
    shared: Server, path: str, body: dict[str, Any], message: str
) -> None:
    assert words(shared, "POST", path, json.dumps(body).encode())[0] == message


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        (CHAT, {"message": ""}, "`message` must not be empty. Leave it out to have the last message answered anew."),
        (CHAT, {"message": 7}, "`message` may be a non-empty text or null, not a number."),
        (CREATE, {"model": ""}, "`model` must not be empty."),
        (CREATE, {"model": 7}, "`model` may be a text of 1 to 300 characters or null, not a number."),
        (CREATE, {"title": "x" * 501}, "`title` must have at most 500 characters."),
        (CREATE, {"options": {"num_ctx": 0}}, f"`options.num_ctx` must be {SCALE}; this number is out of range."),
        (CREATE, {"options": {"num_ctx": "x"}}, f"`options.num_ctx` must be {SCALE}, not a text."),
        (CREATE, {"options": {"stop": "END"}}, "`options.stop` must be an array, not a text."),
        (CREATE, {"options": {"stop": ["x"] * 65}}, "`options.stop` must have at most 64 items."),
        (CHAT, {"images": [1]}, "`images[0]` must be a text, not a number."),
        (CREATE, {"options": []}, "`options` may be an object or null, not an array."),
        (CREATE, [], "The body must be an object, not an array."),
        (CREATE, {"modell": 1}, "There is no field `modell` here. Did you mean `model`?"),
        (CREATE, {"options": {"seeed": 1}}, "There is no field `seeed` in `options`. Did you mean `seed`?"),
        (STOP, {"x": 1}, "There is no field `x` here. Known are `generation_id`."),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_without_the_decoders_jargon(
    shared: Server, path: str, body: object, message: str
) -> None:
    assert words(shared, "POST", path, json.dumps(body).encode())[0] == message


def test_a_field_that_is_missing_is_told_with_what_it_must_be(shared: Server) -> None:
    message, details = words(shared, "PUT", "/sessions/0123456789/messages/1", b"{}")
    assert (message, details["path"]) == ("`content` is missing; it must be a non-empty text.", "$.content")


@pytest.mark.parametrize("body", [b"", b" \n"])
def test_an_empty_body_is_told_as_one_where_a_body_is_needed(shared: Server, body: bytes) -> None:
    message, details = words(shared, "POST", CHAT, body)
    assert message == "The body is empty. This request needs one: a JSON object."
    assert details == {"reason": "it is empty"}


@pytest.mark.parametrize("body", [b"{", b"{not json", b'{"message": }'])
def test_a_body_that_is_not_json_is_told_so_once(shared: Server, body: bytes) -> None:
    message, _ = words(shared, "POST", CHAT, body)
    assert message.startswith("The body is not JSON: ")
    assert message.count("JSON") == 1


CLAIMS = ["contains unknown field `message`", "missing required field `message`", "x` - at `$.message", "' - at `$.a`"]


@pytest.mark.parametrize("claim", CLAIMS)
def test_what_a_client_says_is_not_taken_for_what_is_wrong(shared: Server, claim: str) -> None:
    message, details = words(shared, "POST", CHAT, json.dumps({"think": claim}).encode())
    assert (message, details["path"]) == (f"{THINK}, not another text.", "$.think")


@pytest.mark.parametrize("field", ["x - at `$.options", "options`", "field `think`", "a\nb", "é" * 300])
def test_an_unknown_field_is_named_as_it_is_wherever_its_name_seems_to_point(shared: Server, field: str) -> None:
    message, details = words(shared, "POST", CHAT, json.dumps({field: 1}).encode())
    assert details["path"] == f"$.{field}"
    assert message.startswith(f"There is no field `{field[:100]}` here.")
    _, details = words(shared, "POST", CHAT, json.dumps({"options": {field: 1}}).encode())
    assert details["path"] == f"$.options.{field}"


def test_nothing_is_called_known_where_nothing_is(shared: Server) -> None:
    message, _ = words(shared, "POST", CHAT, json.dumps({"x` - at `$.message": 1}).encode())
    assert "Known are" not in message


WHOLE = [(route.method, route.path) for route in ROUTES if not route.path.endswith(("{session_id}", "{index}"))]


@pytest.mark.parametrize(("method", "path"), WHOLE, ids=[f"{m} {p}" for m, p in WHOLE])
@pytest.mark.parametrize("after", ["%0a", "%0d", "%00", "%0a%0a"])
def test_a_path_with_a_control_character_behind_it_is_another_path(
    shared: Server, shared_standin: StandInThread, method: str, path: str, after: str
) -> None:
    session = shared.new_session()
    target = path.replace("{session_id}", session).replace("{name:path}", "tiny").replace("{index}", "0")
    target = target.replace("{filename:path}", "brief.md")
    body = b'{"message": "hi"}' if "/chat" in path else b'{"content": "x"}' if "{filename" in path else b"{}"
    before = (shared.ok("GET", "/sessions")["total"], len(shared_standin.chats))
    response = exchange(
        shared.port,
        method,
        target + after,
        [("Host", "localhost"), ("Content-Type", "application/json")],
        b"" if method in {"GET", "DELETE"} else body,
    )
    status, code, _ = told(response)
    assert status == 404
    assert code in {"not_found", "session_not_found", "model_not_found", "prompt_not_found", "image_not_found"}
    assert (shared.ok("GET", "/sessions")["total"], len(shared_standin.chats)) == before
