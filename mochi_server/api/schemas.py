"""JSON Schemas of msgspec types, as clients are to read them."""

import inspect
import re
from collections.abc import Iterator, Mapping
from typing import Any, get_args, get_origin

import msgspec
from msgspec import UnsetType

Schema = dict[str, Any]

_PLACE = "#/components/schemas/"
_FLATTENED = "unknown"
"""A field that holds others, which stand beside it in the JSON."""


class Components:
    """What the document says once and refers to: the schemas of types, answers, and examples."""

    def __init__(self) -> None:
        self.schemas: dict[str, Schema] = {}
        self.responses: dict[str, Schema] = {}
        self.examples: dict[str, Schema] = {}

    def example(self, name: str, example: Schema) -> Schema:
        """A reference to the example of this name."""
        self.examples[name] = example
        return {"$ref": f"#/components/examples/{name}"}

    def response(self, name: str, told: Schema) -> Schema:
        """A reference to the answer of this name."""
        self.responses[name] = told
        return {"$ref": f"#/components/responses/{name}"}

    def sent(self, kind: Any) -> Schema:
        """The schema of what clients send."""
        return self._schema(kind, told=False)

    def told(self, kind: Any) -> Schema:
        """The schema of what clients are sent: all of a Struct's fields are there, unless it leaves some out."""
        return self._schema(kind, told=True)

    def _schema(self, kind: Any, *, told: bool) -> Schema:
        schemas, components = msgspec.json.schema_components((kind,), ref_template=f"{_PLACE}{{name}}")
        structs = {struct.__name__: struct for struct in _structs(kind, set())}
        names = {name: _name(structs[name.partition("_")[0]]) for name in components}
        for name, component in components.items():
            if told:
                _require_all(component, structs[name.partition("_")[0]])
            cleaned = _cleaned(component, names)
            if self.schemas.setdefault(names[name], cleaned) != cleaned:
                raise RuntimeError(f"two types are called {names[name]}, or one is both sent and told")
        schema: Schema = _cleaned(schemas[0], names)
        return schema


def _name(struct: type[msgspec.Struct]) -> str:
    """A type's name in the document: what speaks as OpenAI does has its types apart."""
    module = struct.__module__.rpartition(".")[2]
    if module == "openai_shapes":
        return f"OpenAIRequest{struct.__name__}"
    return f"OpenAI{struct.__name__}" if module.startswith("openai") else struct.__name__


def _require_all(component: Schema, struct: type[msgspec.Struct]) -> None:
    tag = [] if struct.__struct_config__.tag_field is None else [struct.__struct_config__.tag_field]
    always = [f.encode_name for f in msgspec.structs.fields(struct) if _is_always_there(struct, f)]
    component["required"] = [*tag, *always]
    for part in component["properties"].values():
        part.pop("default", None)


def _is_always_there(struct: type[msgspec.Struct], field: msgspec.structs.FieldInfo) -> bool:
    omitted = struct.__struct_config__.omit_defaults or UnsetType in get_args(field.type)
    return field.required or not omitted


def _structs(kind: Any, seen: set[Any]) -> Iterator[type[msgspec.Struct]]:
    """Every Struct that a type has in it, itself included."""
    plain = get_origin(kind) or kind
    if isinstance(plain, type) and issubclass(plain, msgspec.Struct):
        if plain in seen:
            return
        seen.add(plain)
        yield plain
        for field in msgspec.structs.fields(kind):
            yield from _structs(field.type, seen)
    for inner in get_args(kind):
        yield from _structs(inner, seen)


def _cleaned(value: Any, names: Mapping[str, str]) -> Any:
    """A part of a schema without Python's words in it, its references under the names of the document."""
    if isinstance(value, list):
        return [_cleaned(one, names) for one in value]
    if isinstance(value, str) and value.startswith(_PLACE):
        return _PLACE + names[value.removeprefix(_PLACE)]
    if not isinstance(value, dict):
        return value
    cleaned = {
        name: _cleaned(part, names) for name, part in value.items() if name != "title" or not isinstance(part, str)
    }
    if isinstance(text := cleaned.get("description"), str):
        cleaned["description"] = in_words(text)
    if isinstance(properties := cleaned.get("properties"), dict):
        properties.pop(_FLATTENED, None)
    return cleaned


def in_words(docstring: str | None) -> str:
    """A docstring as clients may read it."""
    text = re.sub(r"(?<!\n)\n(?!\n)", " ", inspect.cleandoc(docstring or ""))
    return re.sub(r"\bNone\b", "null", text)
