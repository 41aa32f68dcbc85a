"""What is wrong with a request's fields, in words that name what would be right."""

import difflib
import re

import msgspec
from msgspec import inspect

from mochi_server.errors import ValidationFailed

_AT = re.compile(r" - at `(?P<path>\$[^`]*)`\Z")
_FIELD = re.compile(r"(?P<how>unknown|required) field `(?P<field>[^`]*)`")


def invalid(told: str, shape: type[msgspec.Struct]) -> ValidationFailed:
    """What msgspec says of a body that is no `shape`, with the field that it is about as `details.path`."""
    at = _AT.search(told)
    path = at["path"] if at else "$"
    reason = told[: at.start()] if at else told
    kinds = _kinds_at(shape, path)
    advice = ""
    if (field := _FIELD.search(told)) is not None:
        path = f"{path}.{field['field']}"
        if field["how"] == "unknown":
            advice = _nearest(field["field"], kinds)
    elif reason.startswith("Invalid enum value"):
        allowed = [str(value) for kind in kinds if isinstance(kind, inspect.LiteralType) for value in kind.values]
        advice = f" It may be {_listed(allowed)}." if allowed else ""
    return ValidationFailed(f"{reason[0].upper()}{reason[1:]}, at {path}.{advice}", {"path": path})


def _nearest(field: str, kinds: list[inspect.Type]) -> str:
    known = [f.encode_name for kind in kinds if isinstance(kind, inspect.StructType) for f in kind.fields]
    near = difflib.get_close_matches(field, known, n=1)
    return f" Did you mean `{near[0]}`?" if near else f" Known are {_listed(known)}."


def _kinds_at(shape: type[msgspec.Struct], path: str) -> list[inspect.Type]:
    """What may stand at a path such as `$.options.stop`: the members of a union one by one."""
    kinds = _members(inspect.type_info(shape))
    for name in path.split(".")[1:]:
        fields = [f for kind in kinds if isinstance(kind, inspect.StructType) for f in kind.fields]
        kinds = [kind for f in fields if f.encode_name == name for kind in _members(f.type)]
    return kinds


def _members(kind: inspect.Type) -> list[inspect.Type]:
    return list(kind.types) if isinstance(kind, inspect.UnionType) else [kind]


def _listed(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
