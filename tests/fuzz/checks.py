"""What schemathesis is told to look at beside its own checks. It reads this module in by its name."""

import json
import re
from collections.abc import Mapping
from typing import Any

import schemathesis

from tests.documented import check_value, documented_events, the_document

# Of the right form, and refused nevertheless. JSON Schema takes 3.0 for a whole number, the server does not.
_NO_SCHEMA_SAYS = re.compile(
    r"`\S+` (?:may|must) be .*a whole number .*, not a number with a fraction or an exponent"
    r"|`message` must not be empty|`images` go with a `message`|`images\[\d+\]` |`format(?:\.\S+)?` "
    r"|`messages\[\d+\]\S+` |No tool was called (?:before|under)"
    r"|Say the system prompt's text|cursor: |(?:after|Last-Event-ID): the reply has no event"
)


@schemathesis.check
def what_the_document_allows_is_not_called_malformed(
    _context: Any, response: schemathesis.Response, case: schemathesis.Case[Any]
) -> None:
    """A request of the right form is no bad JSON, and has no wrong field."""
    if case.meta is None or not case.meta.generation.mode.is_positive or response.status_code not in {400, 422}:
        return
    if not _is_as_documented(case):
        return
    body = response.json()
    error = body.get("detail", body)["error"]
    malformed = error["code"] in {"invalid_json", "validation_error"}
    assert not malformed or _NO_SCHEMA_SAYS.match(error["message"]), error["message"]


def _is_as_documented(case: schemathesis.Case[Any]) -> bool:
    """Whether the headers are. Some cases of the coverage phase take the shortest text, whatever a pattern says."""
    told = the_document()["paths"][case.operation.path][case.operation.method.lower()]["parameters"]
    headers: Mapping[str, str] = case.headers or {}
    return all(
        re.search(one["schema"].get("pattern", ""), headers[one["name"]]) for one in told if one["name"] in headers
    )


@schemathesis.check
def a_stream_has_its_events_and_ends_with_done(
    _context: Any, response: schemathesis.Response, case: schemathesis.Case[Any]
) -> None:
    """Each event's data is of its schema; `done` is the last, and there is one."""
    if not response.headers.get("content-type", [""])[0].startswith("text/event-stream"):
        return
    schemas = documented_events(case.operation.method, case.operation.path)
    blocks = response.content.decode().removeprefix("retry: 1000\n").removesuffix("\n\n").split("\n\n")
    names = []
    for block in blocks:
        fields = dict(line.split(": ", 1) for line in block.split("\n") if not line.startswith(":"))
        names.append(fields["event"])
        check_value(json.loads(fields["data"]), schemas[fields["event"]])
    assert names.count("done") == 1
    assert names[-1] == "done"
