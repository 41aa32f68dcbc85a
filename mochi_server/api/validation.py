"""What is wrong with a request's fields, in words that name what would be right.

msgspec says which field it is and what kind of thing is wrong; what the field may be is read from its type.
"""

import difflib
import re
import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec
from msgspec import Meta, UnsetType

from mochi_server.errors import ValidationFailed

_AT = re.compile(r" - at `(?P<path>\$[^`]*)`\Z")
# The name is the client's own text: only where it stands, at the start, does it mean what it says.
_FIELD = re.compile(
    r"Object (?P<how>contains unknown|missing required) field `(?P<field>.*?)`(?: - at `(?P<path>\$[^`]*)`)?\Z",
    re.DOTALL,
)
_TYPE = re.compile(r"Expected `[^`]*`, got `(?P<got>\w+)`\Z")
_LENGTH = re.compile(r"Expected `(?P<kind>\w+)` of length (?P<bound>[<>]=) (?P<size>\d+)\Z")
_RANGE = re.compile(r"Expected `(?:int|float)` [<>]|Number out of range\Z")

_GOT = {
    "int": "a number",
    "float": "a number with a fraction or an exponent",
    "str": "a text",
    "bool": "true or false",
    "array": "an array",
    "object": "an object",
}
_NOUNS = {int: "a whole number", float: "a number", dict: "an object", list: "an array"}
_PARTS = {"str": "characters", "array": "items", "object": "fields"}
_NAME_SHOWN = 100


class _Kind(msgspec.Struct, frozen=True):
    """One thing that a field may be, with what its annotations say."""

    type: Any
    notes: tuple[Meta, ...] = ()

    def note(self, name: str) -> Any:
        """The first of the annotations that says anything under this name."""
        return next((value for note in self.notes if (value := getattr(note, name)) is not None), None)


def invalid(told: str, shape: type[msgspec.Struct]) -> ValidationFailed:
    """What msgspec says of a body that is no `shape`, with the field that it is about as `details.path`."""
    if (named := _FIELD.match(told)) is not None:
        return _wrong_name(named["how"], named["path"] or "$", named["field"], shape)
    at = _AT.search(told)
    path, reason = (at["path"], told[: at.start()]) if at else ("$", told)
    return ValidationFailed(f"{_subject(path)} {_wrong_value(reason, _kinds_at(shape, path))}", {"path": path})


def _wrong_name(how: str, path: str, field: str, shape: type[msgspec.Struct]) -> ValidationFailed:
    at = f"{path}.{field}"
    if how == "missing required":
        choice = _choice(_kinds_at(shape, at))
        return ValidationFailed(f"{_subject(at)} is missing{f'; it {choice}' if choice else ''}.", {"path": at})
    where = "here" if path == "$" else f"in {_subject(path)}"
    known = [f.encode_name for kind in _kinds_at(shape, path) for f in _fields(kind)]
    advice = _nearest(field, known) if known else ""
    return ValidationFailed(f"There is no field `{field[:_NAME_SHOWN]}` {where}.{advice}", {"path": at})


def _wrong_value(reason: str, kinds: list[_Kind]) -> str:
    """The rest of a sentence that begins with the field."""
    choice = _choice(kinds)
    if (length := _LENGTH.match(reason)) is not None:
        if (length["bound"], length["size"]) == (">=", "1"):
            return "must not be empty."
        most = "at most" if length["bound"] == "<=" else "at least"
        return f"must have {most} {length['size']} {_PARTS.get(length['kind'], 'parts')}."
    if _RANGE.match(reason):
        return f"{choice}; this number is out of range." if choice else "has a number that is out of range."
    if choice and (wrong := _TYPE.match(reason)) is not None:
        return f"{choice}, not {_GOT.get(wrong['got'], wrong['got'])}."
    if choice and reason.startswith("Invalid enum value"):
        return f"{choice}, not another text."
    return f"will not do: {reason}."


def _choice(kinds: list[_Kind]) -> str:
    """`must be a text`, or `may be a text or null`; empty where it may be anything."""
    words = [word for kind in kinds for word in _words(kind)]
    if len(words) < 2:
        return f"must be {words[0]}" if words else ""
    return f"may be {', '.join(words[:-1])} or {words[-1]}"


def _words(kind: _Kind) -> list[str]:
    if kind.type is type(None):
        return ["null"]
    if kind.type is bool:
        return ["true", "false"]
    if get_origin(kind.type) is Literal:
        return [f"`{value}`" for value in get_args(kind.type)]
    if kind.type is Any:
        return []
    plain = get_origin(kind.type) or kind.type
    noun = kind.note("description") or _NOUNS.get(plain, "an object")
    least, most = kind.note("ge"), kind.note("le")
    if plain in {int, float} and least is not None and most is not None:
        noun += f" from {_number(least)} to {_number(most)}"
    elif plain is str and kind.note("description") is None:
        noun = _text(kind.note("min_length"), kind.note("max_length"))
    return [noun]


def _text(least: int | None, most: int | None) -> str:
    if most is None:
        return "a non-empty text" if least else "a text"
    return f"a text of {least} to {most} characters" if least else f"a text of at most {most} characters"


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.15g}"


def _nearest(field: str, known: list[str]) -> str:
    near = difflib.get_close_matches(field[:_NAME_SHOWN], known, n=1)
    return f" Did you mean `{near[0]}`?" if near else f" Known are {', '.join(f'`{name}`' for name in known)}."


def _subject(path: str) -> str:
    return "The body" if path == "$" else f"`{path.removeprefix('$.')}`"


def _kinds_at(shape: type[msgspec.Struct], path: str) -> list[_Kind]:
    """What may stand at a path such as `$.options.stop[1]`: the members of a union one by one."""
    kinds = [_Kind(shape)]
    for step in path.split(".")[1:]:
        name, *items = step.split("[")
        kinds = [
            member for kind in kinds for f in _fields(kind) if f.encode_name == name for member in _members(f.type)
        ]
        for _ in items:
            # What an array or an object holds; a text or a number holds nothing.
            kinds = [member for kind in kinds for held in get_args(kind.type)[-1:] for member in _members(held)]
    return kinds


def _fields(kind: _Kind) -> tuple[msgspec.structs.FieldInfo, ...]:
    is_struct = isinstance(kind.type, type) and issubclass(kind.type, msgspec.Struct)
    return msgspec.structs.fields(kind.type) if is_struct else ()


def _members(kind: Any, notes: tuple[Meta, ...] = ()) -> list[_Kind]:
    if get_origin(kind) is Annotated:
        plain, *more = get_args(kind)
        return _members(plain, (*notes, *(note for note in more if isinstance(note, Meta))))
    if get_origin(kind) in {Union, types.UnionType}:
        return [member for one in get_args(kind) for member in _members(one, notes)]
    return [] if kind is UnsetType else [_Kind(kind, notes)]
