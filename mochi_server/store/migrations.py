"""Older formats, one small step each: what an earlier server wrote, as format 2.0.

Nothing is dropped. Fields that no format knows stay where they are; what 2.0 cannot hold in its place, such as a
`status` that somebody added and that is none of 2.0's, is set aside beside it, under `earlier`. The same file gives
the same session at each load: nothing here depends on the clock, on chance or on where the server runs.
"""

import hashlib
import itertools
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any, get_args

import msgspec
from msgspec import UNSET

from mochi_server.domain.clock import timestamp
from mochi_server.domain.messages import Message
from mochi_server.domain.session import FORMAT_VERSION, Metadata

Raw = dict[str, Any]
Step = Callable[[Raw], Raw]

UNMARKED = "1.3"
"""The format of a file that does not say."""

_ROLES: dict[str, type[msgspec.Struct]] = {str(kind.__struct_config__.tag): kind for kind in get_args(Message)}
_TIMES = {"timestamp", "created_at", "updated_at"}
_NO_TIME = "1970-01-01T00:00:00.000000Z"


def upgraded(raw: Raw) -> Raw:
    """Format 2.0 of a file's JSON in an older format; anything else as it is, the very same object.

    The argument is not changed. Never raises: what is no session stays none, and `session_file.decode` says why.
    """
    metadata = raw.get("metadata")
    if not isinstance(metadata, dict):
        return raw
    version = metadata.get("format_version")
    version = UNMARKED if version is None else version
    while isinstance(version, str) and version in _STEPS:
        version, step = _STEPS[version]
        raw = step(raw)
        raw = {**raw, "metadata": {**raw["metadata"], "format_version": version}}
    return raw


def _with_tool_settings(raw: Raw) -> Raw:
    """1.0 -> 1.1."""
    return _with_field(raw, "tool_settings")


def _with_window_config(raw: Raw) -> Raw:
    """1.1 -> 1.2."""
    return _with_field(raw, "context_window_config")


def _with_agent_settings(raw: Raw) -> Raw:
    """1.2 -> 1.3."""
    return _with_field(raw, "agent_settings")


def _with_tool_policies(raw: Raw) -> Raw:
    """1.3 -> 1.4. The format's own description removes `tool_group` here; it is kept, since it may mean something."""
    settings = raw["metadata"].get("tool_settings")
    if not isinstance(settings, dict) or "tool_policies" in settings:
        return raw
    return {**raw, "metadata": {**raw["metadata"], "tool_settings": {**settings, "tool_policies": {}}}}


def _sound(raw: Raw) -> Raw:
    """1.4 -> 2.0: what the earlier servers never checked is mended, so that all they could read can be read."""
    messages, detached = raw.get("messages"), raw.get("detached")
    if not isinstance(messages, list):
        return raw
    # From the first that is none on they are left to `session_file.decode`, which says what is wrong with it.
    path = list(itertools.takewhile(_is_message, messages))
    # No older format has detached messages. A 2.0 file whose format_version was lost has; all else is set aside.
    off = detached if isinstance(detached, list) and all(map(_is_message, detached)) else []
    metadata = raw["metadata"]
    start = _moment(_first_time([metadata.get("created_at"), *(m.get("timestamp") for m in path)]), _NO_TIME)
    mended = _mended([*path, *off], len(path), str(metadata.get("session_id")), start)
    last = mended[len(path) - 1]["timestamp"] if path else ""
    parts = {
        "metadata": _mended_metadata(metadata, start, last),
        "messages": [*mended[: len(path)], *messages[len(path) :]],
        "detached": mended[len(path) :],
    }
    return _changed(raw, {} if off is detached else {"detached": UNSET}) | parts


_STEPS: dict[str, tuple[str, Step]] = {
    "1.0": ("1.1", _with_tool_settings),
    "1.1": ("1.2", _with_window_config),
    "1.2": ("1.3", _with_agent_settings),
    "1.3": ("1.4", _with_tool_policies),
    "1.4": (FORMAT_VERSION, _sound),
}


def _with_field(raw: Raw, name: str) -> Raw:
    return {**raw, "metadata": {name: None, **raw["metadata"]}}


def _is_message(value: object) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("role"), str):
        return False
    return value["role"] in _ROLES and isinstance(value.get("content"), str | None)


def _mended(messages: list[Raw], on_path: int, session_id: str, time: str) -> list[Raw]:
    """The messages, of which so many are on the path, as 2.0 can hold them.

    - A missing id is made from the session's and the message's place. Of two messages with one id the first keeps it.
    - A missing timestamp is that of the message before, `time` for the first. For others see `_moment`.
    - No content, which a call of a tool may have, is an empty one. No status means complete.
    - A flat list had no parent ids; one that says otherwise than the list is set aside.
    """
    ids = _ids(messages, session_id)
    parent: str | None = None
    mended: list[Raw] = []
    for place, (message, own) in enumerate(zip(messages, ids, strict=True)):
        time = _moment(message.get("timestamp"), time)
        changes: Raw = {"message_id": own, "timestamp": time}
        if message.get("content") is None:
            changes["content"] = ""
        if place < on_path and "parent_id" in message:
            changes["parent_id"] = parent
        changes |= _unfit({**message, **changes}, _ROLES[message["role"]])
        # The system prompt stands before the tree.
        parent = None if place == 0 and message["role"] == "system" else own
        mended.append(_changed(message, changes))
    return mended


def _mended_metadata(metadata: Raw, start: str, last: str) -> Raw:
    """The metadata as 2.0 can hold them; `start` and `last` stand in for times that are not told."""
    summary = metadata.get("summary")
    if isinstance(summary, str):
        # What the first files held, before summaries had topics.
        metadata = {**metadata, "summary": {"summary": summary, "topics": []}}
    created = _moment(metadata.get("created_at"), start)
    changes: Raw = {"created_at": created, "updated_at": _moment(metadata.get("updated_at"), last or created)}
    if "revision" in metadata:
        # In 2.0 it is a digest of the content, and worked out anew.
        changes["revision"] = UNSET
    return _changed(metadata, changes | _unfit({**metadata, **changes, "revision": ""}, Metadata))


def _ids(messages: list[Raw], session_id: str) -> list[str]:
    """An id for each message: its own, where it has one that no message before it has."""
    taken = {m["message_id"] for m in messages if isinstance(m.get("message_id"), str)}
    ids: dict[str, None] = {}
    for place, message in enumerate(messages):
        own = message.get("message_id")
        attempt = 0
        while not isinstance(own, str) or not own or own in ids or (attempt and own in taken):
            attempt += 1
            seed = f"{session_id} {place} {attempt}".encode()
            own = hashlib.blake2b(seed, digest_size=5).hexdigest()
        ids[own] = None
    return list(ids)


def _first_time(times: Iterable[object]) -> str:
    return next((time for time in times if isinstance(time, str) and time), _NO_TIME)


def _moment(told: object, otherwise: str) -> str:
    """A time as 2.0 writes it, so that times sort as text; `otherwise` where none is told.

    One without an offset, as the first files had them, is taken as UTC: whose local time it was is not known. A text
    that is no time stays as it is.
    """
    if not isinstance(told, str) or not told:
        return otherwise
    try:
        moment = datetime.fromisoformat(told)
        return timestamp(moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC))
    except (ValueError, OverflowError):
        return told


def _unfit(raw: Raw, kind: type[msgspec.Struct]) -> Raw:
    """What `kind` could do without and cannot hold as it is: to be removed."""
    if _fits(raw, kind):
        return {}
    fields = msgspec.structs.fields(kind)
    known = {field.name: field for field in fields if not field.required and field.name != "unknown"}
    return {name: UNSET for name, field in known.items() if name in raw and not _fits(raw[name], field.type)}


def _fits(value: object, kind: Any) -> bool:
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return False
    return True


def _changed(raw: Raw, changes: Raw) -> Raw:
    """The object with these fields changed, or removed where UNSET. What they said stays in it, under a free name."""
    changes = {name: value for name, value in changes.items() if raw.get(name, UNSET) != value}
    if not changes:
        return raw
    aside = {name: raw[name] for name, value in changes.items() if not _still_told(name, raw.get(name), value)}
    kept = {name: value for name, value in {**raw, **changes}.items() if value is not UNSET}
    if aside:
        kept[_free_name(raw)] = aside
    return kept


def _still_told(name: str, old: object, new: object) -> bool:
    """Whether nothing is lost without the old value: it said nothing, or stands digit for digit in the new one."""
    if old is None or old == "":
        return True
    if name not in _TIMES or not isinstance(old, str) or not isinstance(new, str):
        return False
    return new.startswith(old.removesuffix("Z").removesuffix("+00:00"))


def _free_name(raw: Raw) -> str:
    name, number = "earlier", 1
    while name in raw:
        number += 1
        name = f"earlier_{number}"
    return name
