"""A reply's `format`: a JSON schema reaches Ollama as it is, what is none is refused with its place, and no schema
keeps the server busy.
"""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.server import Server, told
from tests.standin_thread import StandInThread

DRAFT_4, DRAFT_7 = "http://json-schema.org/draft-04/schema#", "http://json-schema.org/draft-07/schema"
DRAFT_2019 = "https://json-schema.org/draft/2019-09/schema"
TYPES = "`array`, `boolean`, `integer`, `null`, `number`, `object` or `string`"


def nested(levels: int, around: str = "not") -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(levels - 1):
        schema = {around: schema}
    return schema


SCHEMAS: list[dict[str, Any]] = [
    {},
    {"type": ["string", "null"]},
    {"$schema": "https://json-schema.org/draft/2020-12/schema", "prefixItems": [{"type": "string"}]},
    {"$schema": DRAFT_7, "items": [{"type": "string"}]},
    {"$schema": DRAFT_4, "minimum": 1, "exclusiveMinimum": True},
    {"$schema": "urn:nobody:knows", "type": "object"},
    {"$schema": "http://[", "type": "object"},
    {"$ref": "http://127.0.0.1:9/elsewhere.json"},
    {"$ref": "#/$defs/none", "unknown": [1, {"type": "banana"}]},
    {"properties": {"type": {"enum": ["banana", 1, None]}, "$ref": {}}},
    {"pattern": "^(a+)+$", "patternProperties": {"^(x*x*)*y$": {}}},
    {"pattern": r"^\p{L}+(?<name>x)$"},
    nested(51),
    nested(51, "items"),
    {"$schema": DRAFT_2019, "items": nested(50, "items")},
    {"properties": {f"p{number}": {"type": "string"} for number in range(500)}},
]


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: ascii(schema)[:40])
def test_a_schema_reaches_ollama_as_it_is(
    shared: Server, shared_standin: StandInThread, schema: dict[str, Any]
) -> None:
    shared.ok("POST", f"/chat/{shared.new_session()}", {"message": "hi", "format": schema})
    assert shared_standin.chats[-1].json["format"] == schema


WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"type": "banana"}, ".type", f'must be {TYPES}, or an array, not "banana"'),
    ({"properties": {"city": {"type": "strng"}}}, ".properties.city.type", 'not "strng"'),
    ({"type": ["string", "banana"]}, ".type[1]", f'must be {TYPES}, not "banana"'),
    ({"anyOf": [{}, {"items": 7}]}, ".anyOf[1].items", "must be an object or true or false, not 7"),
    ({"properties": {"a b.c": 7}}, '.properties["a b.c"]', "must be an object"),
    ({"properties": []}, ".properties", "must be an object, not []"),
    ({"items": [{}]}, ".items", "must be an object or true or false"),
    ({"required": "city"}, ".required", 'must be an array, not "city"'),
    ({"required": ["a", "a"]}, ".required", "must have nothing twice"),
    ({"minLength": -1}, ".minLength", "must be at least 0, not -1"),
    ({"multipleOf": 0}, ".multipleOf", "must be more than 0, not 0"),
    ({"$schema": DRAFT_4, "multipleOf": 0}, ".multipleOf", "must be more than 0, not 0"),
    ({"$schema": DRAFT_4, "minimum": 1, "exclusiveMinimum": 1}, ".exclusiveMinimum", "must be true or false, not 1"),
    ({"exclusiveMinimum": True}, ".exclusiveMinimum", "must be a number, not true"),
    ({"anyOf": []}, ".anyOf", "must have an item"),
    ({"$anchor": "1 2"}, ".$anchor", "does not match"),
    ({"$schema": 7}, ".$schema", "must be a text, not 7"),
    ({"title": ["x" * 1000]}, ".title", "must be a text"),
    # Of several the one that is furthest up, and always the same.
    ({"properties": {"a": {"type": 1}, "b": 1}, "minItems": "x"}, ".minItems", 'must be a whole number, not "x"'),
]


@pytest.mark.parametrize(("schema", "place", "words"), WRONG, ids=[f"{p} {n}" for n, (_, p, _) in enumerate(WRONG)])
def test_what_is_no_schema_is_refused_with_its_place(
    shared: Server, shared_standin: StandInThread, schema: dict[str, Any], place: str, words: str
) -> None:
    session, chats = shared.new_session(), len(shared_standin.chats)
    for path in (f"/chat/{session}", f"/chat/{session}/stream", "/chat", "/chat/stream"):
        response = shared.call("POST", path, {"message": "hi", "format": schema})
        assert told(response) == (422, "validation_error", {"path": f"$.format{place}"})
        message = response.json()["detail"]["error"]["message"]
        assert words in message
        assert len(message) < 500
    assert shared.contents(session) == []
    assert len(shared_standin.chats) == chats


@pytest.mark.parametrize(
    "schema",
    [nested(52), nested(90, "items"), {"enum": list(range(5_001))}, {"x": {"enum": list(range(1_001))}},
     {"properties": {f"p{number}": {"type": "null"} for number in range(2_501)}}],
    ids=["deep", "very deep", "large", "long array", "many"],
)  # fmt: skip
def test_a_schema_beyond_all_measure_is_refused_unread(shared: Server, schema: dict[str, Any]) -> None:
    response = shared.call("POST", f"/chat/{shared.new_session()}", {"message": "hi", "format": schema})
    assert told(response) == (422, "validation_error", {"path": "$.format"})
    assert "more than" in response.json()["detail"]["error"]["message"]


def test_while_a_schema_is_checked_others_are_served(shared: Server) -> None:
    # About the costliest there is: each item is compared with each other one.
    enum = [[number] if number % 2 else str(number) for number in range(900)]
    costly = {"$schema": DRAFT_4, "type": 7, "anyOf": [{"enum": enum}] * 2}
    session = shared.new_session()
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(shared.call, "POST", f"/chat/{session}", {"message": "hi", "format": costly})
        served = 0
        while not asked.done():
            assert shared.client.get("/health/ready").status_code == 200
            served += 1
    assert asked.result().status_code == 422
    assert served > 1


def test_the_library_that_checks_is_read_in_when_it_is_needed() -> None:
    code = "import sys, mochi_server.__main__; sys.exit('jsonschema' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=20, check=False).returncode == 0
