"""The page at `/docs`: the OpenAPI document as HTML, whole without scripts, fonts or anything from elsewhere."""

import base64
import hashlib
import json
import re
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mochi_server.api.openapi import ELSEWHERE
from mochi_server.api.schemas import Schema

_STYLE = Path(__file__).with_name("docs.css")
_CODE = re.compile(r"^`(\w+)`: (.+)", re.MULTILINE)
_EVERYWHERE = {"X-Correlation-Id", "X-Request-Id"}
"""Headers of every answer, told of once."""

_READABLE = 40
"""Patterns that are longer tell a person nothing."""

_SCHEMAS = "#/components/schemas/"
_PARTS = (("events", "Events"), ("errors", "Errors"), ("shapes", "Shapes"))


def docs_page(document: Schema, address: str) -> tuple[bytes, str]:
    """The page, and the Content-Security-Policy that it needs: its own style sheet and nothing else.

    `address` is where its examples ask.
    """
    style = _STYLE.read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    info = document["info"]
    title = escape(info["title"])
    page = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title} {escape(info["version"])}</title>
<link rel="icon" href="data:,">
<style>{style}</style>
</head>
<body>
<a class="skip" href="#main">To the routes</a>
<header>
<h1>{title} <small>{escape(info["version"])}</small></h1>
<p>{escape(info["summary"])} <a href="/openapi.json">openapi.json</a> has all of this for programs.</p>
</header>
<div class="beside">
<nav aria-label="Contents"><ul>{_contents(document)}</ul></nav>
<main id="main">
{_begin(document)}
{"".join(_group(tag["name"], document, address) for tag in document["tags"])}
{_events(document)}
{_errors(document)}
{_shapes(document)}
</main>
</div>
</body>
</html>
"""
    return page.encode(), policy


def _operations(document: Schema) -> list[tuple[str, str, Schema]]:
    """Every route: method, path and what the document says of it."""
    return [
        (method.upper(), path, operation)
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    ]


def _of_group(group: str, document: Schema) -> list[tuple[str, str, Schema]]:
    return [one for one in _operations(document) if group in one[2]["tags"]]


def _contents(document: Schema) -> str:
    groups = "".join(
        f'<li><a href="#{_slug(tag["name"])}">{escape(tag["name"])}</a><ul>'
        + "".join(
            f'<li><a href="#{operation["operationId"]}">{_titled(method, path)}</a></li>'
            for method, path, operation in _of_group(tag["name"], document)
        )
        + "</ul></li>"
        for tag in document["tags"]
    )
    return groups + "".join(f'<li><a href="#{name}">{title}</a></li>' for name, title in _PARTS)


def _titled(method: str, path: str) -> str:
    # A line may end behind a slash, and nowhere else.
    breakable = escape(path).replace("/", "/<wbr>")
    return f'<span class="method {method.lower()}">{method}</span> <code>{breakable}</code>'


def _begin(document: Schema) -> str:
    schemes = document["components"]["securitySchemes"].values()
    keys = " or ".join(
        "<code>Authorization: Bearer KEY</code>" if one["type"] == "http" else f"<code>{one['name']}: KEY</code>"
        for one in schemes
    )
    return f"""<p>Requests and answers are JSON in UTF-8; a request with a body says
<code>Content-Type: application/json</code>. A field that is not known is refused, by name;
below <code>/v1</code> it is ignored.</p>
<p>Where the server has API keys, send one as {keys}. Health and these pages need none.</p>
<p>Every answer has <code>X-Correlation-Id</code>: the id under which the server's log has the request. It is the
request's own, where that has one of 1 to 128 letters, digits, dots, dashes and underscores.</p>
<p>Any route may also answer:</p>{_links((status, code) for code, status in _of_any(document).items())}"""


def _group(name: str, document: Schema, address: str) -> str:
    articles = "".join(_operation(*one, document, address) for one in _of_group(name, document))
    return f'<section id="{_slug(name)}"><h2>{escape(name)}</h2>{articles}</section>'


def _operation(method: str, path: str, operation: Schema, document: Schema, address: str) -> str:
    parts = [
        f'<article id="{operation["operationId"]}">',
        f"<h3>{_titled(method, path)}</h3>",
        f"<p>{_text(operation['summary'])}.</p>",
        f"<p>{_text(operation['description'])}</p>" if "description" in operation else "",
        f'<pre tabindex="0"><code>{escape(_curl(address, method, path, operation))}</code></pre>',
        _parameters(operation["parameters"]),
    ]
    if body := operation.get("requestBody"):
        kind = _kind(body["content"]["application/json"]["schema"])
        parts.append(f"<h4>Body</h4><p>{kind}{'' if body['required'] else ', or no body at all'}</p>")
    answers = {status: _resolved(told, document) for status, told in operation["responses"].items()}
    done = {status: told for status, told in answers.items() if _codes(told) == []}
    parts.append("<h4>Answers</h4>" + "".join(_answer(status, told) for status, told in done.items()))
    of_any = _of_any(document)
    codes = [(status, code) for status, told in answers.items() for code in _codes(told) if code not in of_any]
    parts.append(f"<h4>Errors</h4>{_links(codes)}" if codes else "")
    return "".join((*parts, "</article>"))


def _of_any(document: Schema) -> dict[str, str]:
    """The codes that every route may answer, with their status."""
    told = [
        {code: status for status, one in operation["responses"].items() for code in _codes(_resolved(one, document))}
        for _, _, operation in _operations(document)
    ]
    return {code: status for code, status in told[0].items() if all(code in codes for codes in told)}


def _links(codes: Iterable[tuple[str, str]]) -> str:
    """Statuses and codes, as a list of links."""
    links = "".join(f'<li>{status} <a href="#error-{code}"><code>{code}</code></a></li>' for status, code in codes)
    return f'<ul class="codes">{links}</ul>'


def _parameters(parameters: Iterable[Schema]) -> str:
    rows = [
        (
            f"<code>{escape(one['name'])}</code>",
            f"{one['in']}{'' if one['required'] else ', optional'}",
            _kind(one["schema"]),
            _text(one["description"]),
        )
        for one in parameters
        if one["name"] != "X-Correlation-Id"  # every route's, and told of once
    ]
    return f"<h4>Parameters</h4>{_table(('Name', 'In', 'Type', 'What it says'), rows)}" if rows else ""


def _answer(status: str, told: Schema) -> str:
    contents: dict[str, Schema] = told.get("content", {})
    what = "; or ".join(_content(kind, body) for kind, body in contents.items() if _content(kind, body))
    headers = [name for name in told["headers"] if name not in _EVERYWHERE]
    with_headers = f" With {', '.join(f'<code>{escape(name)}</code>' for name in headers)}." if headers else ""
    example = ""
    for body in contents.values():
        if "example" in body:
            text = escape(json.dumps(body["example"], indent=2, ensure_ascii=False))
            example = f'<details><summary>Example</summary><pre tabindex="0"><code>{text}</code></pre></details>'
    return f"<p><strong>{status}</strong> {what or _text(told['description'])}{with_headers}</p>{example}"


def _content(media_type: str, body: Schema) -> str:
    """What an answer is, in a few words; empty where its description says it all."""
    if media_type == "application/json" and "$ref" in body["schema"]:
        return _kind(body["schema"])
    if media_type != "text/event-stream":
        return ""
    if "oneOf" in body["schema"]:
        return 'a stream of <a href="#events">events</a>, of which <code>done</code> is always the last.'
    chunk, *_ = body["schema"]["properties"]["data"]["anyOf"]
    return f"a stream of {_kind(chunk['contentSchema'])}, and <code>[DONE]</code> behind the last."


def _curl(address: str, method: str, path: str, operation: Schema) -> str:
    """A command to paste."""
    for one in operation["parameters"]:
        if one["in"] == "path":
            path = path.replace(f"{{{one['name']}}}", quote(str(one["example"]), safe=":"))
    words = ["curl"]
    if any("text/event-stream" in told.get("content", {}) for told in operation["responses"].values()):
        words.append("-N")
    if method != "GET" and not (method == "POST" and "requestBody" in operation):
        words.append(f"-X {method}")
    command = " ".join([*words, address + path])
    if (body := operation.get("requestBody")) is None:
        return command
    example = json.dumps(body["content"]["application/json"]["example"], ensure_ascii=False).replace("'", r"'\''")
    return f"{command} \\\n     -H 'Content-Type: application/json' -d '{example}'"


def _events(document: Schema) -> str:
    streams = [
        content["text/event-stream"]
        for _, _, operation in _operations(document)
        for told in operation["responses"].values()
        if "text/event-stream" in (content := told.get("content", {}))
        and "oneOf" in content["text/event-stream"]["schema"]
    ]
    parts = []
    named = {one["properties"]["event"]["const"]: one for stream in streams for one in stream["schema"]["oneOf"]}
    examples = {name: one["value"] for stream in streams for name, one in stream["examples"].items()}
    for name, event in named.items():
        data = event["properties"]["data"]["contentSchema"]
        framed = "".join(f"{field}: {examples[name][field]}\n" for field in ("id", "event", "data"))
        parts.append(
            f"<h3><code>{escape(name)}</code></h3><p>{_text(event['description'])} Its data: "
            f'{_kind(data.get("allOf", [data])[0])}</p><pre tabindex="0"><code>{escape(framed)}</code></pre>'
        )
    return f'<section id="events"><h2>Events</h2>{"".join(parts)}</section>'


def _errors(document: Schema) -> str:
    """All error codes, each with every status that it may have."""
    found: dict[str, tuple[set[str], str]] = {}
    responses = document["components"]["responses"]
    elsewhere = [(str(kind.status), responses[kind.__name__]) for kind in ELSEWHERE]
    told = [answer for _, _, operation in _operations(document) for answer in operation["responses"].items()]
    for status, answer in (*told, *elsewhere):
        for code, words in _CODE.findall(_resolved(answer, document)["description"]):
            found.setdefault(code, (set(), words))[0].add(status)
    rows = [
        (f'<code id="error-{code}">{code}</code>', ", ".join(sorted(statuses)), _text(words))
        for code, (statuses, words) in sorted(found.items())
    ]
    where = (
        'Outside a stream each comes as <a href="#shape-ErrorAnswer">ErrorAnswer</a>; below <code>/v1</code> as '
        '<a href="#shape-OpenAIEnvelope">OpenAIEnvelope</a>, under the status that OpenAI\'s clients look for.'
    )
    table = _table(("Code", "Status", "When"), rows)
    return f'<section id="errors"><h2>Errors</h2><p>{where}</p>{table}</section>'


def _shapes(document: Schema) -> str:
    parts = []
    for name, schema in document["components"]["schemas"].items():
        required = schema.get("required", ())
        rows = [
            (f"<code>{escape(field)}</code>", _kind(part), "" if field in required else "optional")
            for field, part in schema.get("properties", {}).items()
        ]
        parts.append(
            f'<article id="shape-{name}"><h3>{name}</h3><p>{_text(schema.get("description", ""))}</p>'
            f"{_table(('Field', 'Type', ''), rows)}</article>"
        )
    return f'<section id="shapes"><h2>Shapes</h2>{"".join(parts)}</section>'


def _kind(schema: Schema) -> str:
    """A type in a few words."""
    if "$ref" in schema:
        name = schema["$ref"].removeprefix(_SCHEMAS)
        return f'<a href="#shape-{name}">{name}</a>'
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_kind(one) for one in schema["anyOf"]))
    if "enum" in schema or "const" in schema:
        values = schema["enum"] if "enum" in schema else [schema["const"]]
        return " or ".join(f"<code>{escape(json.dumps(value))}</code>" for value in values)
    kind = schema.get("type", "anything")
    if kind == "array":
        return f"array of {_kind(schema['items'])}" if schema.get("items") else "array"
    return f"{kind}{_limits(schema)}"


def _limits(schema: Schema) -> str:
    if len(schema.get("pattern", "")) > _READABLE:
        return ""
    if "pattern" in schema:
        return f" <code>{escape(schema['pattern'])}</code>"
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None:
        return f" from {low:.15g}" + ("" if high is None else f" to {high:.15g}")
    low, high = schema.get("minLength"), schema.get("maxLength")
    if high is not None:
        return f", {low or 0} to {high} characters"
    return ", not empty" if low else ""


def _codes(told: Schema) -> list[str]:
    """The codes of the errors in an answer."""
    return [code for code, _ in _CODE.findall(told["description"])]


def _resolved(told: Schema, document: Schema) -> Schema:
    if "$ref" not in told:
        return told
    part: Any = document
    for name in told["$ref"].removeprefix("#/").split("/"):
        part = part[name]
    resolved: Schema = part
    return resolved


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = "".join(f'<th scope="col">{one}</th>' for one in heads)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _text(words: str) -> str:
    """Words with `names` in them."""
    paragraphs = re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(words, quote=False))
    return paragraphs.replace("\n\n", "<br>")


def _slug(name: str) -> str:
    return re.sub(r"\W+", "-", name.lower())
