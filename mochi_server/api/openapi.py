"""The OpenAPI document: the table of routes and the types, in the words of OpenAPI 3.1.

A stream's `schema` is that of one of its events, as is usual where a stream has no end that one would wait for.
"""

import re
from collections.abc import Iterable
from typing import Any, get_args

import msgspec

from mochi_server import __version__, errors
from mochi_server.api import parameters
from mochi_server.api.examples import as_json, error_event_example, sent_example, told_example
from mochi_server.api.parameters import IN_PATH, Parameter
from mochi_server.api.route import (
    CONNECTION,
    HTML,
    JSON,
    OURS,
    STREAM,
    Answer,
    Dialect,
    Kinds,
    Route,
    error_headers,
    possible_headers,
)
from mochi_server.api.routes import ROUTES
from mochi_server.api.schemas import Components, Schema, in_words
from mochi_server.domain.events import ErrorEvent

SECURITY: dict[str, Schema] = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "One of the server's API keys, if it has any."},
    "api_key": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The same, as a header."},
}
_ANY_KEY: list[Schema] = [{}, *({name: []} for name in SECURITY)]
_BODILESS = "There is no body."
_EVENT_ID = parameters.LAST_EVENT_ID.kind
ELSEWHERE: dict[type[errors.MochiError], Dialect] = {
    errors.NotFound: OURS,
    errors.MethodNotAllowed: OURS,
    errors.BadRequest: CONNECTION,
    errors.RequestTimeout: CONNECTION,
    errors.HeadersTooLarge: CONNECTION,
    errors.TooManyConnections: CONNECTION,
}
"""What no route answers: other paths do, other methods, and connections whose request does not come whole."""


def document() -> Schema:
    """The whole document, JSON-ready. Made anew with each call."""
    made = Components()
    paths: dict[str, Schema] = {}
    for route in ROUTES:
        paths.setdefault(route.shown_path, {})[route.method.lower()] = _operation(route, made)
    elsewhere = {kind.__name__: _error_answer((kind,), dialect, made) for kind, dialect in ELSEWHERE.items()}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "mochi-server",
            "version": __version__,
            "summary": "A chat server over your own Ollama that remembers.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": name} for name in dict.fromkeys(route.group for route in ROUTES)],
        "paths": paths,
        "components": {
            "schemas": dict(sorted(made.schemas.items())),
            "examples": dict(sorted(made.examples.items())),
            "responses": {**made.responses, **elsewhere},
            "securitySchemes": SECURITY,
        },
    }


def _operation(route: Route, made: Components) -> Schema:
    summary, _, description = in_words(route.handler.__doc__).partition("\n\n")
    operation: Schema = {
        "operationId": _operation_id(route),
        "tags": [route.group],
        "summary": summary.removesuffix("."),
        "parameters": _parameters(route, made),
        "responses": _responses(route, made),
        "security": [] if route.keyless else _ANY_KEY,
    }
    if description:
        operation["description"] = description
    if route.body is not None:
        operation["requestBody"] = {
            "required": not route.body_optional,
            "content": {
                JSON[0]: {"schema": made.sent(route.body), "example": sent_example(route.body)},
            },
        }
    return operation


def _operation_id(route: Route) -> str:
    return re.sub(r"\W+", "-", f"{route.method}{route.shown_path}").strip("-").lower()


def _links(route: Route, answer: Answer) -> Schema:
    """The routes whose paths hold what this answer has made, and named."""
    fields = {f.name for f in msgspec.structs.fields(answer.shape)} if route.method == "POST" else set()
    made = [name for name in IN_PATH if name in fields and f"{{{name}" not in route.path]
    return {
        _operation_id(other): {"operationId": _operation_id(other), "parameters": {name: f"$response.body#/{name}"}}
        for name in made
        for other in ROUTES
        if re.findall(r"{(\w+)}", other.shown_path) == [name]
    }


def _parameters(route: Route, made: Components) -> list[Schema]:
    in_path = [IN_PATH[name] for name in re.findall(r"{(\w+)}", route.shown_path)]
    return [
        *(_parameter("path", one, made) for one in in_path),
        *(_parameter("query", one, made) for one in route.query),
        *(_parameter("header", one, made) for one in (*route.headers, parameters.CORRELATION)),
    ]


def _parameter(place: str, parameter: Parameter, made: Components) -> Schema:
    return {"name": parameter.name, "in": place, **_valued(parameter, made, required=place == "path")}


def _valued(parameter: Parameter, made: Components, *, required: bool) -> Schema:
    told: Schema = {"description": parameter.told, "required": required, "schema": made.sent(parameter.kind)}
    return told if parameter.example is None else {**told, "example": parameter.example}


def _headers(always: Iterable[Parameter], sometimes: Iterable[Parameter], made: Components) -> Schema:
    told = {one.name: _valued(one, made, required=False) for one in sometimes}
    told.update({one.name: _valued(one, made, required=True) for one in always})
    return {name: told[name] for name in sorted(told)}


def _responses(route: Route, made: Components) -> Schema:
    """What a route may answer, by status."""
    by_status: dict[int, list[Schema]] = {}
    for answer in route.answers:
        by_status.setdefault(answer.status, []).append(_answer(answer, route.dialect, made))
        if answer.media_types == JSON and isinstance(answer.shape, type) and (links := _links(route, answer)):
            by_status[answer.status][-1]["links"] = links
    later = {kind: (*answer.headers, *answer.sometimes) for answer in route.answers for kind in answer.failures}
    kinds: dict[int, list[type[errors.MochiError]]] = {}
    for kind in route.all_errors:
        kinds.setdefault(route.dialect.status(kind), []).append(kind)
    for status, of_status in kinds.items():
        sometimes = [header for kind in of_status for header in later.get(kind, ())]
        told = _error_answer(tuple(of_status), route.dialect, made, sometimes)
        if len(of_status) == 1 and not sometimes and status not in by_status:
            told = made.response(f"{route.dialect.shape.__name__}.{route.dialect.code(of_status[0])}", told)
        by_status.setdefault(status, []).append(told)
    return {str(status): _joined(by_status[status]) for status in sorted(by_status)}


def _joined(told: list[Schema]) -> Schema:
    """Answers of the same status as one."""
    first, *more = told
    for other in more:
        first["description"] += f"\n\n{other['description']}"
        headers = {**first["headers"], **other["headers"]}
        for name, header in headers.items():
            always = all(one["headers"].get(name, {}).get("required") for one in (first, other))
            headers[name] = {**header, "required": always}
        first["headers"] = headers
        for media_type, content in other.get("content", {}).items():
            known = first.setdefault("content", {}).setdefault(media_type, content)
            if known is not content:
                known["schema"] = {"anyOf": [known["schema"], content["schema"]]}
                known["examples"] = {**_named(known), **_named(content)}
                known.pop("example", None)
    return first


def _named(content: Schema) -> Schema:
    """A content's examples by name."""
    return content.get("examples") or {"answer": {"value": content["example"]}}


def _answer(answer: Answer, dialect: Dialect, made: Components) -> Schema:
    told: Schema = {
        "description": _BODILESS,
        "headers": _headers((*dialect.headers, *answer.headers), answer.sometimes, made),
    }
    if answer.shape is None:
        return told
    if answer.media_types == STREAM:
        told["description"] = "Events, of which `done` is always the last."
        told["content"] = {STREAM[0]: _events(answer, made)}
        if not get_args(answer.shape):
            told["description"] = "Chunks, and `[DONE]` behind the last."
            told["content"] = {STREAM[0]: _chunks(answer, dialect, made)}
    elif answer.media_types == JSON and answer.shape != dict[str, Any]:
        told["description"] = in_words(getattr(answer.shape, "__origin__", answer.shape).__doc__).partition("\n")[0]
        content = {"schema": made.told(answer.shape), "example": told_example(answer.shape)}
        told["content"] = {JSON[0]: content}
    else:
        told["description"] = ", ".join(answer.media_types)
        schema: Schema = {"schema": made.told(answer.shape)} if answer.media_types in {JSON, HTML} else {}
        told["content"] = dict.fromkeys(answer.media_types, schema)
    return told


def _events(answer: Answer, made: Components) -> Schema:
    """A stream: the schema of one of its events, and what a short one looks like."""
    kinds = get_args(answer.shape)
    told = {kind.name: _event(kind, answer, made) for kind in kinds}
    examples = {
        kind.name: {"value": _framed(number, kind.name, told_example(kind))} for number, kind in enumerate(kinds, 1)
    }
    return {"schema": {"oneOf": list(told.values())}, "examples": examples}


def _event(kind: Any, answer: Answer, made: Components) -> Schema:
    data = made.told(kind)
    if kind is ErrorEvent:
        data = {"allOf": [data, _with_code(answer.told, OURS, ("code",))]}
    return {
        "type": "object",
        "description": in_words(kind.__doc__),
        "properties": {
            "id": made.sent(_EVENT_ID),
            "event": {"const": kind.name},
            "data": {"type": "string", "contentMediaType": JSON[0], "contentSchema": data},
            "retry": {"const": 1000, "description": "With the first: milliseconds after which to come back."},
        },
        "required": ["id", "event", "data"],
    }


def _chunks(answer: Answer, dialect: Dialect, made: Components) -> Schema:
    """A stream whose events have no names."""
    failed = {"allOf": [made.told(dialect.shape), _with_code(answer.told, dialect, dialect.code_at)]}
    kinds = [
        {"type": "string", "contentMediaType": JSON[0], "contentSchema": schema}
        for schema in (made.told(answer.shape), failed)
    ]
    data = {"anyOf": [*kinds, {"const": "[DONE]"}]}
    example = {"data": msgspec.json.encode(told_example(answer.shape)).decode()}
    return {
        "schema": {"type": "object", "properties": {"data": data}, "required": ["data"]},
        "examples": {"chunk": {"value": example}, "end": {"value": {"data": "[DONE]"}}},
    }


def _framed(number: int, name: str, data: Any) -> Schema:
    return {"id": f"7f3e0a91bc-{number}", "event": name, "data": msgspec.json.encode(data).decode()}


def _error_answer(kinds: Kinds, dialect: Dialect, made: Components, sometimes: Iterable[Parameter] = ()) -> Schema:
    """The errors of one status, by code."""
    headers = [frozenset(error_headers(kind)) for kind in kinds]
    possible = [header for kind in kinds for header in possible_headers(kind)]
    always = (*dialect.headers, *frozenset.intersection(*headers))
    lines = [f"`{dialect.code(kind)}`: {in_words(kind.__doc__).partition(chr(10))[0]}" for kind in kinds]
    return {
        "description": "\n\n".join(dict.fromkeys(lines)),
        "headers": _headers(always, (*frozenset.union(*headers), *possible, *sometimes), made),
        "content": {
            JSON[0]: {
                "schema": {"allOf": [made.told(dialect.shape), _with_code(kinds, dialect, dialect.code_at)]},
                "examples": {dialect.code(kind): _error_example(kind, dialect, made) for kind in kinds},
            }
        },
    }


def _error_example(kind: type[errors.MochiError], dialect: Dialect, made: Components) -> Schema:
    told = {"value": as_json(dialect.example(error_event_example(kind)))}
    return made.example(f"{dialect.shape.__name__}.{dialect.code(kind)}", told)


def _with_code(kinds: Kinds, dialect: Dialect, place: tuple[str, ...]) -> Schema:
    """What has one of these codes at this place."""
    schema: Schema = {"enum": list(dict.fromkeys(dialect.code(kind) for kind in kinds))}
    for name in reversed(place):
        schema = {"properties": {name: schema}}
    return schema
