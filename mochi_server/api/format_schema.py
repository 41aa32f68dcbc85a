"""A reply's `format`, before it is sent: is it a JSON Schema, and what is wrong with it if it is none?

Only the schema's own form is looked at: its patterns are not compiled and its references not followed, so no pattern
can take for ever and nothing is fetched. What is left is bounded by the schema's size, and done in a thread.
"""

import re
from typing import TYPE_CHECKING, Any, cast

import anyio
import anyio.to_thread
import msgspec

from mochi_server.domain.json_depth import is_deeper_than
from mochi_server.errors import ValidationFailed
from mochi_server.ollama.wire import Format

if TYPE_CHECKING:
    from jsonschema import ValidationError
    from jsonschema.protocols import Validator

MOST_VALUES = 5_000
"""Values in a schema: checking one takes up to half a millisecond."""

MOST_ITEMS = 1_000
"""Items of one array in a schema: some drafts compare each with each."""

DEEPEST_SCHEMA = 50
"""Half of what a draft's check stands without running out of stack."""

_SHOWN = 60
_PLAIN = re.compile(r"[A-Za-z_$][\w$-]{0,99}\Z", re.ASCII)
_NOUNS = {
    "object": "an object",
    "array": "an array",
    "string": "a text",
    "boolean": "true or false",
    "number": "a number",
    "integer": "a whole number",
    "null": "null",
}
# A check is all computation: two at a time would leave the event loop a third of the processor, and end no sooner.
_one_at_a_time = anyio.CapacityLimiter(1)


async def check_format(wanted: Format | None, field: str = "format") -> None:
    """Raise ValidationFailed for a schema that is none, with the place in it, or that is too large to tell.

    `field` is what the request calls it.
    """
    if not isinstance(wanted, dict):
        return
    if is_deeper_than(wanted, DEEPEST_SCHEMA):
        raise ValidationFailed(
            f"`{field}` is nested more than {DEEPEST_SCHEMA} deep. Make it flatter.", {"path": f"$.{field}"}
        )
    _check_size(wanted, field)
    await anyio.to_thread.run_sync(_check, wanted, field, limiter=_one_at_a_time)


def _check_size(schema: dict[str, Any], field: str) -> None:
    nodes: list[Any] = [schema]
    count = 0
    while nodes:
        node = nodes.pop()
        count += len(node)
        if count > MOST_VALUES:
            raise ValidationFailed(f"`{field}` has more than {MOST_VALUES} values. Send less.", {"path": f"$.{field}"})
        if isinstance(node, list) and len(node) > MOST_ITEMS:
            raise ValidationFailed(f"`{field}` has more than {MOST_ITEMS} items in one array.", {"path": f"$.{field}"})
        nodes.extend(one for one in (node.values() if isinstance(node, dict) else node) if isinstance(one, dict | list))


def _check(schema: dict[str, Any], field: str) -> None:
    """Raise ValidationFailed for what is no schema. Blocks."""
    draft = _draft(schema.get("$schema"))
    errors = list(draft(draft.META_SCHEMA).iter_errors(schema))
    if not errors:
        return
    # The same one each time, from as far up as there is one.
    first = min(errors, key=lambda error: (len(error.absolute_path), _place(error)))
    error = _nearest(first)
    place = field + _place(error)
    raise ValidationFailed(f"`{field}` is no valid JSON Schema: `{place}` {_wrong(error)}.", {"path": f"$.{place}"})


def _draft(named: Any) -> "type[Validator]":
    """The draft that `$schema` names, else the newest."""
    # A tenth of what a start takes, for those who send a schema alone.
    import jsonschema  # noqa: PLC0415

    drafts = (
        jsonschema.Draft3Validator,
        jsonschema.Draft4Validator,
        jsonschema.Draft6Validator,
        jsonschema.Draft7Validator,
        jsonschema.Draft201909Validator,
    )
    for draft in drafts:
        if isinstance(named, str) and named.rstrip("#") == str(draft.META_SCHEMA["$schema"]).rstrip("#"):
            return draft
    return jsonschema.Draft202012Validator


def _nearest(error: "ValidationError") -> "ValidationError":
    """Of what may stand at one place, the kind that what stands there comes nearest to: it is wrong further inside."""
    while error.context:
        inside = max(error.context, key=lambda one: len(one.absolute_path))
        if len(inside.absolute_path) == len(error.absolute_path):
            break
        error = inside
    return error


def _wrong(error: "ValidationError") -> str:
    """The rest of a sentence that begins with the place."""
    if (must := _must(error)) is None:
        return f"will not do: {error.message[:200]}"
    return f"must {must}, not {_shown(error.instance)}"


def _must(error: "ValidationError") -> str | None:
    """What would be right; None where only the library's own words tell."""
    wanted: Any = error.validator_value
    match error.validator:
        case "type":
            kinds = [wanted] if isinstance(wanted, str) else wanted
            nouns = [_NOUNS[kind] for kind in kinds if isinstance(kind, str) and kind in _NOUNS]
            return f"be {_either(nouns)}" if len(nouns) == len(kinds) else None
        case "enum":
            return f"be {_either([f'`{choice}`' for choice in wanted])}"
        case "anyOf":
            ways = [_must(one) for one in error.context or ()]
            return f"be {', or '.join(way.removeprefix('be ') for way in ways if way)}" if all(ways) else None
        case "minimum" if "exclusiveMinimum" not in cast("dict[str, Any]", error.schema):
            return f"be at least {wanted}"
        case "minimum" | "exclusiveMinimum":
            return f"be more than {wanted}"
        case "minItems":
            return "have an item"
        case "uniqueItems":
            return "have nothing twice"
        case _:
            return None


def _either(choices: list[str]) -> str:
    return f"{', '.join(choices[:-1])} or {choices[-1]}" if len(choices) > 1 else "".join(choices)


def _place(error: "ValidationError") -> str:
    """Where it is in the schema, such as `.properties.city.type[1]`."""
    place = ""
    for step in error.absolute_path:
        if isinstance(step, int):
            place += f"[{step}]"
        elif _PLAIN.match(step):
            place += f".{step}"
        else:
            place += f"[{_shown(step)}]"
    return place


def _shown(value: Any) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
