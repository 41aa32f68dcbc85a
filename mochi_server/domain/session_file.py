"""Format 2.0: a session as indented UTF-8 JSON that a person can read, and back.

`decode(encode(session))` is the session. Fields that this version does not know are kept at every level.
"""

import codecs
import hashlib
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from mochi_server.domain.elements import KEPT_FROM, Element, Parts
from mochi_server.domain.json_depth import DEEPEST_FILE, is_deeper_than
from mochi_server.domain.messages import (
    AssistantMessage,
    Context,
    Message,
    MessageBase,
    Stats,
    SystemMessage,
    ToolMessage,
    UserMessage,
)
from mochi_server.domain.session import FORMAT_VERSION, Metadata, Session, chained

_ROLES: dict[str, type[Message]] = {
    "system": SystemMessage,
    "user": UserMessage,
    "assistant": AssistantMessage,
    "tool": ToolMessage,
}
_NESTED: dict[str, type[msgspec.Struct]] = {"context": Context, "stats": Stats}
_FORMAT = [int(part) for part in FORMAT_VERSION.split(".")]
_TOO_DEEP = "it is nested too deep"
_PARTS = ("metadata", "messages", "detached")
_EMPTY_LISTS = b'\n  "messages": [],\n  "detached": []'
_BETWEEN, _BETWEEN_INDENTED = b",", b",\n    "
_json = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(dict[str, Any])

_T = TypeVar("_T", bound=msgspec.Struct)
Upgrade = Callable[[dict[str, Any]], dict[str, Any]]


class DamagedFile(ValueError):
    """The bytes are no session; the text says why, without quoting them."""


def message_json(message: Message) -> bytes:
    """One message as compact JSON: what the file holds and what clients get."""
    return _with_unknown(message, message.unknown)


def messages_json(session: Session) -> bytes:
    """The messages of a session, the system prompt and the active path, as a compact JSON list."""
    return b"".join((b"[", *_lists(session, _compact, _BETWEEN, keep=False)[0], b"]"))


def metadata_json(metadata: Metadata) -> bytes:
    """The metadata as compact JSON."""
    return _with_unknown(metadata, metadata.unknown)


def revised(session: Session) -> Session:
    """The session under the revision that its content has."""
    return _revised(session, _lists(session, _compact, _BETWEEN, keep=False))


def sealed(session: Session, *, keep: bool = False) -> tuple[Session, bytes]:
    """The session under the revision that its content has, and the bytes of its file.

    With `keep` the JSON of many messages is kept for the next time, which takes up to twice the size of the file.
    """
    compact = _lists(session, _compact, _BETWEEN, keep=keep)
    session = _revised(session, compact)
    if keep and len(session.path) + len(session.detached) >= KEPT_FROM:
        path, detached = _lists(session, _indented, _BETWEEN_INDENTED, keep=True)
    else:
        path, detached = ((_indented_json(b"".join(parts)),) if parts else () for parts in compact)
    frame = b'{"metadata":%b,"messages":[],"detached":[]%b}' % (metadata_json(session.metadata), _unknown_json(session))
    # A line break within a text is escaped, so this stands nowhere before.
    head, tail = msgspec.json.format(frame, indent=2).split(_EMPTY_LISTS, 1)
    parts = (head, b'\n  "messages": ', *_listed(path), b',\n  "detached": ', *_listed(detached), tail, b"\n")
    return session, b"".join(parts)


def encode(session: Session) -> bytes:
    """The bytes of a session's file."""
    return sealed(session)[1]


def decode(data: bytes, upgraded: Upgrade | None = None) -> Session:
    """The session in a file's bytes, under the revision of its content.

    `upgraded` makes format 2.0 of older ones, and returns all else as it is. Raises DamagedFile for what is then not
    a session of format 2.0.
    """
    try:
        raw = _decoder.decode(data.removeprefix(codecs.BOM_UTF8))  # some editors begin a file with one
        raw = raw if upgraded is None else upgraded(raw)
        # Only now: what is set aside lies a level deeper, and is to be read again.
        if is_deeper_than(raw, DEEPEST_FILE):
            raise DamagedFile(_TOO_DEEP)
        session = _session(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OverflowError) as error:
        raise DamagedFile(_reason(data, error)) from None
    return revised(session)


def _session(raw: dict[str, Any]) -> Session:
    version = raw["metadata"].get("format_version") if isinstance(raw.get("metadata"), dict) else None
    if version != FORMAT_VERSION:
        raise DamagedFile(_other_format(version))
    try:
        metadata = _known(raw["metadata"], Metadata)
    except msgspec.ValidationError as error:
        raise DamagedFile(f"metadata: {_unquoted(error)}") from None
    messages = [_message(m, f"messages[{i}]") for i, m in enumerate(_list(raw, "messages"))]
    detached = [_message(m, f"detached[{i}]") for i, m in enumerate(_list(raw, "detached", []))]
    _check_ids([*messages, *detached])
    system = messages[0] if messages and isinstance(messages[0], SystemMessage) else None
    path = chained(messages if system is None else messages[1:])
    return Session(
        metadata=msgspec.structs.replace(metadata, message_count=len(messages)),
        system=system,
        path=path,
        detached=tuple(detached),
        unknown={k: v for k, v in raw.items() if k not in _PARTS} or msgspec.UNSET,
    )


def _message(raw: object, place: str) -> Message:
    role = raw.get("role") if isinstance(raw, dict) else None
    if not isinstance(raw, dict) or not isinstance(role, str) or role not in _ROLES:
        raise DamagedFile(f"{place} is no message: its role is not one of {', '.join(_ROLES)}")
    try:
        return _known(raw, _ROLES[role], "role")
    except msgspec.ValidationError as error:
        raise DamagedFile(f"{place}: {_unquoted(error)}") from None


def _known(raw: dict[str, Any], kind: type[_T], *tags: str) -> _T:
    """The raw object as a `kind`, with what it does not know set aside."""
    fields = {*kind.__struct_fields__, *tags} - {"unknown"}
    unknown = {k: v for k, v in raw.items() if k not in fields}
    known = {k: v for k, v in raw.items() if k in fields}
    for name, inner in _NESTED.items():
        if name in fields and isinstance(known.get(name), dict):
            unknown |= _only({name: {k: v for k, v in known[name].items() if k not in inner.__struct_fields__}})
    value = msgspec.convert(known, kind)
    return msgspec.structs.replace(value, unknown=unknown) if unknown else value


def _revised(session: Session, compact: tuple[Parts, Parts]) -> Session:
    """The session under its revision; `compact` are its lists as compact JSON."""
    bare = metadata_json(msgspec.structs.replace(session.metadata, revision=""))
    digest = hashlib.blake2b(bare, digest_size=8)
    for part in (b"\n", *compact[0], b"\n", *compact[1], b"\n", _unknown_json(session)):
        digest.update(part)
    metadata = msgspec.structs.replace(session.metadata, revision=digest.hexdigest())
    return msgspec.structs.replace(session, metadata=metadata)


def _lists(session: Session, element: Element, between: bytes, *, keep: bool) -> tuple[Parts, Parts]:
    """What stands between the brackets of the file's two lists: system prompt and active path, detached messages."""
    system = () if session.system is None else (element(session.system),)
    path = session.path_elements.of(session.path, element, keep=keep)
    detached = session.detached_elements.of(session.detached, element, keep=keep)
    return _unended((*system, *path), between), _unended(detached, between)


def _unended(parts: Parts, between: bytes) -> Parts:
    return (*parts[:-1], parts[-1].removesuffix(between)) if parts else ()


def _compact(message: Message) -> bytes:
    return message_json(message) + _BETWEEN


def _indented(message: Message) -> bytes:
    return _indented_json(message_json(message)) + _BETWEEN_INDENTED


def _indented_json(messages: bytes) -> bytes:
    """Messages as they stand in a list of the file."""
    return msgspec.json.format(b"[[%b]]" % messages, indent=2)[len(b"[\n  [\n    ") : -len(b"\n  ]\n]")]


def _listed(indented: Parts) -> Parts:
    return (b"[\n    ", *indented, b"\n  ]") if indented else (b"[]",)


def _unknown_json(session: Session) -> bytes:
    """What stands behind all else in the file, as compact JSON."""
    return b"" if session.unknown is msgspec.UNSET else b"," + _json.encode(session.unknown)[1:-1]


def _with_unknown(value: Metadata | MessageBase, unknown: dict[str, Any] | msgspec.UnsetType) -> bytes:
    if unknown is msgspec.UNSET:
        return _json.encode(value)
    told: dict[str, Any] = msgspec.to_builtins(msgspec.structs.replace(value, unknown=msgspec.UNSET))
    for name, more in unknown.items():
        told[name] = {**told[name], **more} if name in told else more
    return _json.encode(told)


def _only(parts: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Those that hold anything."""
    return {name: part for name, part in parts.items() if part}


def _list(raw: dict[str, Any], part: str, absent: list[object] | None = None) -> list[object]:
    value = raw.get(part, absent)
    if not isinstance(value, list):
        raise DamagedFile(f"its {part} are not a list")
    return value


def _check_ids(messages: list[Message]) -> None:
    seen: set[str] = set()
    for message in messages:
        if message.message_id in seen:
            raise DamagedFile(f"two of its messages have the id {message.message_id[:16]!r}")
        seen.add(message.message_id)


def _unquoted(error: msgspec.ValidationError) -> str:
    """What msgspec says, without the value that it may quote: that may be anything people said."""
    told = str(error)
    if told.startswith("Invalid"):
        place = told.rfind(" - at `$")
        return "Invalid value" + (told[place:] if place >= 0 else "")
    return told


def _other_format(version: object) -> str:
    if not isinstance(version, str):
        return f"its format_version is none that this server reads: 1.0 to 1.4 and {FORMAT_VERSION}"
    shown = repr(version[:16])
    parts = version[:16].split(".")
    if all(p.isascii() and p.isdecimal() for p in parts) and [int(p) for p in parts] > _FORMAT:
        return f"its format_version is {shown}: a newer mochi-server wrote it, and only one as new can read it"
    return f"its format_version is {shown}, this server reads 1.0 to 1.4 and {FORMAT_VERSION}"


def _reason(data: bytes, error: Exception) -> str:
    if not data:
        return "the file is empty"
    if isinstance(error, msgspec.ValidationError):
        return _unquoted(error)
    return _TOO_DEEP if isinstance(error, RecursionError) else "it is not JSON, or cut short"
