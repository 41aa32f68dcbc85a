"""The file of a session: readable by people, mended after their hands, and damaged only ever as DamagedFile."""

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mochi_server.domain.messages import AssistantMessage, Message, SystemMessage, ToolMessage, UserMessage
from mochi_server.domain.session import Session
from mochi_server.domain.session_file import DamagedFile, decode, encode, message_json, metadata_json, sealed
from tests.domain.made_up import JSON_VALUES, SOME, TEXT, sessions
from tests.domain.talk import at, conversation, ids, new_session, system, user


def raw(session: Session) -> Any:
    """The session's file as plain JSON."""
    return json.loads(encode(session))


def from_raw(value: object) -> Session:
    return decode(json.dumps(value).encode())


def test_the_file_is_indented_utf8_json_that_a_person_can_read() -> None:
    asked = user("aaaaaaaaaa", 'Grüße an 日本 👩\u200d🚀 \\ "so"\n')
    session, data = sealed(new_session().append(asked, at(1)))
    assert data.decode() == (
        f"""{{
  "metadata": {{
    "session_id": "0123456789",
    "model": "tiny",
    "title": null,
    "created_at": "2026-01-31T09:00:00.000000Z",
    "updated_at": "2026-01-31T09:00:01.000000Z",
    "message_count": 1,
    "summary": null,
    "summary_model": null,
    "format_version": "2.0",
    "revision": "{session.metadata.revision}",
    "options": null,
    "tool_settings": null,
    "agent_settings": null,
    "context_window_config": null,
    "history_limit": null
  }},
  "messages": [
    {{
      "role": "user",
      "content": "Grüße an 日本 👩\u200d🚀 \\\\ \\"so\\"\\n",
      "message_id": "aaaaaaaaaa",
      "parent_id": null,
      "timestamp": "2026-01-31T09:00:00.000000Z",
      "images": null
    }}
  ],
  "detached": []
}}
"""
    )


WHAT_ALL_HAVE = ["role", "content", "message_id", "parent_id", "timestamp"]
OF_A_REPLY = [
    *("model", "thinking", "tool_calls", "eval_count", "prompt_eval_count", "status", "done_reason", "model_digest"),
    *("options", "context", "stats"),
]


@pytest.mark.parametrize(
    ("kind", "role", "own"),
    [
        (SystemMessage, "system", ["source_file"]),
        (UserMessage, "user", ["images"]),
        (AssistantMessage, "assistant", OF_A_REPLY),
        (ToolMessage, "tool", ["tool_name", "tool_call_id", "success"]),
    ],
)
def test_a_messages_keys_stand_in_the_contracts_order(kind: type[Message], role: str, own: list[str]) -> None:
    told = json.loads(message_json(kind(content="", message_id="m", timestamp=at(0))))
    assert list(told) == [*WHAT_ALL_HAVE, *own]
    assert told["role"] == role


def test_the_system_prompt_is_the_first_message_of_the_file() -> None:
    session = conversation("q", "a").with_system(system("kind"), at(2)).with_system(system("kinder"), at(3))
    assert [m["content"] for m in raw(session)["messages"]] == ["kinder", "q", "a"]
    assert [m["content"] for m in raw(session)["detached"]] == ["kind"]


@SOME
@given(sessions())
def test_a_session_is_read_back_as_it_was_written(session: Session) -> None:
    assert decode(encode(session)) == sealed(session)[0]


@SOME
@given(sessions())
def test_pythons_own_reader_sees_the_same_texts(session: Session) -> None:
    told = raw(session)
    assert told["metadata"]["title"] == session.metadata.title
    assert [m["content"] for m in told["messages"]] == [m.content for m in session.messages]
    assert [m["message_id"] for m in told["detached"]] == ids(session.detached)


def test_unknown_fields_are_kept_at_every_level_and_told_to_clients() -> None:
    file = raw(conversation("q"))
    file["later"] = {"a": [1, None]}
    file["metadata"]["color"] = "green"
    file["messages"][0] |= {"stars": 5, "unknown": "too"}
    session = from_raw(file)
    kept = raw(session.edit(0, "else", "q2", at(5)))
    assert kept["later"] == {"a": [1, None]}
    assert kept["metadata"]["color"] == "green"
    assert [(m["stars"], m["unknown"]) for m in (*kept["messages"], *kept["detached"])] == [(5, "too"), (5, "too")]
    assert json.loads(metadata_json(session.metadata))["color"] == "green"


# Damage


def without(*path: str | int) -> bytes:
    file = raw(conversation("q", "a"))
    *way, last = path
    place = file
    for step in way:
        place = place[step]
    del place[last]
    return json.dumps(file).encode()


def with_value(value: object, *path: str | int) -> bytes:
    file = raw(conversation("q", "a"))
    *way, last = path
    place = file
    for step in way:
        place = place[step]
    place[last] = value
    return json.dumps(file).encode()


WHOLE = encode(conversation("q", "a"))
DAMAGED = {
    "empty": (b"", "empty"),
    "only white space": (b" \n", "not JSON"),
    "truncated": (WHOLE[:-20], "cut short"),
    "two files in one": (WHOLE + WHOLE, "not JSON"),
    "binary": (b"\x00\x01\x02\xff" * 64, "not JSON"),
    "not UTF-8": (WHOLE.replace(b'"q"', b'"\xff"'), "not JSON"),
    "half a surrogate pair": (WHOLE.replace(b'"q"', b'"\\ud800"'), "not JSON"),
    "UTF-16": (WHOLE.decode().encode("utf-16"), "not JSON"),
    "a list": (b"[]", "object"),
    "a number": (b"17", "object"),
    "null": (b"null", "object"),
    "an empty object": (b"{}", "format_version is none"),
    "of a later format": (with_value("3.0", "metadata", "format_version"), "'3.0'"),
    "of a format that is no text": (with_value(2.0, "metadata", "format_version"), "none"),
    "without metadata": (without("metadata"), "format_version is none"),
    "without a format": (without("metadata", "format_version"), "format_version is none"),
    "without a session id": (without("metadata", "session_id"), "session_id"),
    "without a model": (without("metadata", "model"), "model"),
    "without a role": (without("messages", 1, "role"), r"messages\[1\].*role"),
    "without a content": (without("messages", 1, "content"), r"messages\[1\].*content"),
    "without a message id": (without("messages", 0, "message_id"), r"messages\[0\].*message_id"),
    "without a timestamp": (without("messages", 0, "timestamp"), r"messages\[0\].*timestamp"),
    "metadata that is a list": (with_value([], "metadata"), "format_version is none"),
    "messages that are an object": (with_value({}, "messages"), "messages are not a list"),
    "detached that is null": (with_value(None, "detached"), "detached are not a list"),
    "a message that is a text": (with_value("hi", "messages", 0), r"messages\[0\] is no message"),
    "an unknown role": (with_value("robot", "messages", 0, "role"), r"messages\[0\].*role"),
    "a role that is a list": (with_value([], "messages", 0, "role"), r"messages\[0\].*role"),
    "a content that is a number": (with_value(7, "messages", 0, "content"), r"messages\[0\].*content"),
    "a title that is a number": (with_value(7, "metadata", "title"), "title"),
    "a bad detached message": (with_value([{"role": "user"}], "detached"), r"detached\[0\]"),
    "the same id twice": (with_value("q", "messages", 1, "message_id"), "two of its messages have the id 'q'"),
    "nested too deep": (WHOLE.rstrip()[:-1] + b',"x":' + b"[" * 9000 + b"]" * 9000 + b"}", "nested too deep"),
}


@pytest.mark.parametrize(("data", "reason"), DAMAGED.values(), ids=DAMAGED)
def test_damage_of_every_kind_is_told_with_its_reason(data: bytes, reason: str) -> None:
    with pytest.raises(DamagedFile, match=reason):
        decode(data)


def test_the_same_id_on_and_off_the_path_is_damage() -> None:
    file = raw(conversation("q", "a"))
    file["detached"] = [file["messages"][0]]
    with pytest.raises(DamagedFile, match="'q'"):
        from_raw(file)


@pytest.mark.parametrize("value", [["a secret"], {"a secret": 1}], ids=str)
def test_the_reason_does_not_quote_what_was_said(value: object) -> None:
    with pytest.raises(DamagedFile) as damage:
        decode(with_value(value, "messages", 0, "content"))
    assert "secret" not in str(damage.value)


def decodes_or_is_damaged(data: bytes) -> None:
    """Either a session, which is then read back as itself, or DamagedFile with a reason."""
    try:
        session = decode(data)
    except DamagedFile as damage:
        reason = str(damage)
    else:
        reason = "not damaged" if decode(encode(session)) == session else ""
    assert reason


@SOME
@given(st.binary(max_size=80))
def test_arbitrary_bytes_are_damage(data: bytes) -> None:
    decodes_or_is_damaged(data)


@SOME
@given(st.recursive(JSON_VALUES, lambda inner: st.fixed_dictionaries({"metadata": inner, "messages": inner})))
def test_arbitrary_json_is_damage(value: object) -> None:
    decodes_or_is_damaged(json.dumps(value).encode())


@SOME
@given(sessions(), st.data())
def test_a_file_with_a_piece_cut_out_or_put_in_is_a_session_or_damage(session: Session, data: st.DataObject) -> None:
    file = encode(session)
    start = data.draw(st.integers(0, len(file)))
    end = data.draw(st.integers(start, min(start + 40, len(file))))
    decodes_or_is_damaged(file[:start] + data.draw(st.binary(max_size=4)) + file[end:])


@SOME
@given(sessions(), JSON_VALUES, st.booleans(), st.data())
def test_a_file_with_any_value_replaced_or_removed_is_a_session_or_damage(
    session: Session, value: object, remove: bool, data: st.DataObject
) -> None:
    file = raw(session)
    place: Any = file
    while True:
        keys = list(place) if isinstance(place, dict) else range(len(place))
        key = data.draw(st.sampled_from(keys))
        if not isinstance(place[key], dict | list) or not place[key] or data.draw(st.booleans()):
            break
        place = place[key]
    if remove:
        del place[key]
    else:
        place[key] = value
    decodes_or_is_damaged(json.dumps(file).encode())


# Edits by hand


def remove_from_the_middle(file: Any) -> None:
    del file["messages"][1]


def move_to_the_end(file: Any) -> None:
    file["messages"].append(file["messages"].pop(0))


def change_a_content(file: Any) -> None:
    file["messages"][2]["content"] = "by hand"


def detach(file: Any) -> None:
    file["detached"].append(file["messages"].pop())


def add_without_a_parent(file: Any) -> None:
    file["messages"].append({"role": "user", "content": "new", "message_id": "new", "timestamp": at(9)})


@pytest.mark.parametrize(
    ("edit", "path"),
    [
        (remove_from_the_middle, ["q1", "q2", "a2"]),
        (move_to_the_end, ["a1", "q2", "a2", "q1"]),
        (change_a_content, ["q1", "a1", "q2", "a2"]),
        (detach, ["q1", "a1", "q2"]),
        (add_without_a_parent, ["q1", "a1", "q2", "a2", "new"]),
    ],
)
def test_a_file_changed_by_hand_loads_with_a_mended_chain_and_another_revision(
    edit: Callable[[Any], None], path: list[str]
) -> None:
    before = sealed(conversation("q1", "a1", "q2", "a2"))[0]
    file = raw(before)
    edit(file)
    session = from_raw(file)
    assert ids(session.path) == path
    assert [m.parent_id for m in session.path] == [None, *path[:-1]]
    assert session.metadata.message_count == len(path)
    assert session.metadata.revision != before.metadata.revision
    assert [m.content for m in session.path] == [m["content"] for m in file["messages"]]


@SOME
@given(
    sessions(),
    st.sampled_from([None, 0, 1, "\t"]),
    st.booleans(),
    st.sampled_from([(",", ":"), (" ,  ", "  :\r\n")]),
)
def test_white_space_and_escapes_do_not_change_the_revision(
    session: Session, indent: int | str | None, escaped: bool, separators: tuple[str, str]
) -> None:
    file = json.dumps(raw(session), indent=indent, ensure_ascii=escaped, separators=separators)
    assert decode(file.encode()) == sealed(session)[0]


def test_keys_in_another_order_do_not_change_the_revision() -> None:
    session = sealed(conversation("q", "a"))[0]
    file = raw(session)
    file["messages"] = [dict(reversed(m.items())) for m in file["messages"]]
    assert from_raw(dict(reversed(file.items()))) == session


@SOME
@given(sessions(), TEXT, st.data())
def test_any_other_content_is_another_revision(session: Session, text: str, data: st.DataObject) -> None:
    now = text + "."
    changes: list[Session] = [
        msgspec.structs.replace(session, metadata=msgspec.structs.replace(session.metadata, **change))
        for change in ({"title": now}, {"model": now}, {"options": {"stop": [now]}}, {"unknown": {"x": now}})
    ]
    changes.append(msgspec.structs.replace(session, unknown={"x": now}))
    if session.path:
        at_place = data.draw(st.integers(0, len(session.path) - 1))
        changed = msgspec.structs.replace(session.path[at_place], content=now)
        path = (*session.path[:at_place], changed, *session.path[at_place + 1 :])
        changes += [msgspec.structs.replace(session, path=path), session.truncate(len(session.messages) - 1, now)]
    if session.detached:
        changed = msgspec.structs.replace(session.detached[0], content=now)
        changes.append(msgspec.structs.replace(session, detached=(changed, *session.detached[1:])))
    for other in changes:
        same = sealed(other)[0].metadata.revision == sealed(session)[0].metadata.revision
        assert same == (raw(other) == raw(session))


def test_the_revision_does_not_depend_on_the_one_before() -> None:
    session = conversation("q")
    old = msgspec.structs.replace(session.metadata, revision="of another time")
    stale = msgspec.structs.replace(session, metadata=old)
    assert sealed(stale) == sealed(session)
