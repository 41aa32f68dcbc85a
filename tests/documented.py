"""Every answer that a test's client gets is held to the document: its status, error code, media type and headers."""

import functools
import json
from typing import Any

import httpx
from jsonschema import Draft202012Validator
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from mochi_server.api.openapi import document
from mochi_server.api.route import Route
from mochi_server.api.routes import ROUTES, routes

Part = dict[str, Any]
_BASE = "urn:document"


@functools.cache
def the_document() -> Part:
    """The document as it is served."""
    return document()


def resolved(part: Part) -> Part:
    """What a part of the document refers to, or itself."""
    if "$ref" in part:
        part = functools.reduce(lambda inner, name: inner[name], part["$ref"][2:].split("/"), the_document())
    return part


def route_of(method: str, path: str) -> Route | None:
    """The route that serves this; None where none does."""
    template = next((route.path for route in routes() if route.path_regex.match(path)), None)
    found = [one for one in ROUTES if one.path == template and one.method == method.replace("HEAD", "GET")]
    return found[0] if found else None


def operation(route: Route) -> Part:
    """What the document says of a route."""
    part: Part = the_document()["paths"][route.shown_path][route.method.lower()]
    return part


@functools.cache
def _registry() -> Registry[Any]:
    registry: Registry[Any] = Registry().with_resource(_BASE, DRAFT202012.create_resource(the_document()))
    return registry


def check_value(value: object, schema: Part) -> None:
    """Fail where a value is not of a schema in the document."""
    inside = json.loads(json.dumps(schema).replace('"#/', f'"{_BASE}#/'))
    Draft202012Validator(inside, registry=_registry()).validate(value)


def documented_events(method: str, path: str) -> dict[str, Part]:
    """The schemas of the data of a stream's events, by name; `path` as the document has it."""
    answer = resolved(the_document()["paths"][path][method.lower()]["responses"]["200"])
    events = answer["content"]["text/event-stream"]["schema"]["oneOf"]
    return {one["properties"]["event"]["const"]: one["properties"]["data"]["contentSchema"] for one in events}


def codes(answer: Part) -> list[str]:
    """The error codes that an answer may have."""
    content: Part = answer["content"]["application/json"]
    return list(content.get("examples", {}))


def check_documented(response: httpx.Response) -> None:
    """Fail where the document does not tell of such an answer."""
    request = response.request
    route = route_of(request.method, request.url.path)
    if route is None:
        return  # another path or method: that is one of three errors, which tests ask for by name
    said = operation(route)
    name = f"{request.method} {request.url.path} answered {response.status_code}"
    assert str(response.status_code) in said["responses"], f"{name}, which its entry in routes.py does not tell of"
    answer = resolved(said["responses"][str(response.status_code)])
    for header, told in answer["headers"].items():
        assert header in response.headers or not told["required"], f"{name} without {header}"
    content = answer.get("content", {})
    media_type = response.headers.get("content-type", "").partition(";")[0]
    assert media_type in content or not (content or media_type), f"{name} with {media_type!r}, not {list(content)}"
    if response.status_code >= 400 and media_type and request.method != "HEAD":
        response.read()
        body = response.json()
        if body.keys() == {route.dialect.code_at[0]}:
            code = functools.reduce(lambda inner, part: inner[part], route.dialect.code_at, body)
            assert code in codes(answer), f"{name} {code}, which its entry in routes.py does not tell of"
