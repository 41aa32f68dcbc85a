"""Files that a person, or a later version, has changed."""

import json
from typing import Any

import pytest

from mochi_server.domain.context_window import with_fixed_window
from mochi_server.domain.session_file import DamagedFile, decode, encode, sealed
from tests.domain.talk import at, conversation, ids, new_session, user


def file_of_two() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(encode(conversation("q", "a")))
    return content


def rewritten(content: dict[str, Any]) -> dict[str, Any]:
    again: dict[str, Any] = json.loads(encode(decode(json.dumps(content).encode())))
    return again


def test_fields_of_a_later_version_are_kept_at_every_level() -> None:
    content = file_of_two()
    content["bookmarks"] = [1]
    content["metadata"]["role"] = "a field of the metadata, whatever it is called"
    content["messages"][0]["starred"] = True
    content["messages"][1]["stats"] = {"ttft_ms": 1.0, "energy_wh": 2}
    content["messages"][1]["context"] = {"messages_sent": 1, "later": {"deep": [2]}}
    again = rewritten(content)
    assert again["bookmarks"] == [1]
    assert again["metadata"]["role"] == content["metadata"]["role"]
    assert again["messages"][0]["starred"] is True
    assert again["messages"][1]["stats"]["energy_wh"] == 2
    assert again["messages"][1]["stats"]["ttft_ms"] == 1.0
    assert again["messages"][1]["context"]["later"] == {"deep": [2]}
    assert rewritten(again) == again


@pytest.mark.parametrize(("part", "key"), [("metadata", "history_limit"), ("messages", "status")])
def test_the_reason_of_damage_is_one_line_and_quotes_nothing_that_was_said(part: str, key: str) -> None:
    content = file_of_two()
    (content["metadata"] if part == "metadata" else content["messages"][1])[key] = "a secret\nof two lines"
    with pytest.raises(DamagedFile, match=key) as damage:
        decode(json.dumps(content).encode())
    assert "secret" not in str(damage.value)
    assert "\n" not in str(damage.value)


def test_a_file_whose_messages_are_misspelt_is_damage_and_not_an_empty_session() -> None:
    content = file_of_two()
    content["mesages"] = content.pop("messages")
    with pytest.raises(DamagedFile, match="messages"):
        decode(json.dumps(content).encode())


def test_a_branch_whose_root_was_removed_is_a_path_with_a_lasting_revision() -> None:
    content = json.loads(encode(conversation("q1", "a1", "q2", "a2").truncate(2, at(9))))
    del content["messages"][1]
    session = sealed(decode(json.dumps(content).encode()).with_head("a2", at(10)))[0]
    assert [m.parent_id for m in session.path] == [None, *ids(session.path)][: len(session.path)]
    assert decode(encode(session)).metadata.revision == session.metadata.revision


def test_a_system_message_within_the_path_keeps_its_branch_together() -> None:
    content = file_of_two()
    content["messages"].append({"role": "system", "content": "s", "message_id": "s", "timestamp": at(3)})
    content["messages"].append({"role": "user", "content": "q2", "message_id": "q2", "timestamp": at(4)})
    session = decode(json.dumps(content).encode())
    back = session.truncate(2, at(5)).with_head("q2", at(6))
    assert ids(back.path) == ids(session.path)


def test_a_preview_skips_white_space_however_long() -> None:
    assert new_session().append(user("q", "\n" * 3000 + "hello"), at(1)).preview() == "hello"


def test_a_window_that_is_true_is_none() -> None:
    assert with_fixed_window({}, {"current_window": True, "manual_override": True}) == {}


def test_a_file_that_begins_with_a_byte_order_mark_is_read() -> None:
    file = encode(conversation("q", "a"))
    assert decode(b"\xef\xbb\xbf" + file) == decode(file)


def test_a_clock_that_was_set_back_does_not_move_a_session_back_in_the_list() -> None:
    session = conversation("q").with_metadata(at(50), title="before")
    assert session.with_metadata(at(9), title="after").metadata.updated_at == at(50)
    assert session.with_metadata(at(51), title="after").metadata.updated_at == at(51)


@pytest.mark.parametrize("time", ["yesterday", "9999", "2999-13-41T00:00:00"])
def test_a_time_by_hand_that_is_none_gives_way(time: str) -> None:
    content = file_of_two()
    content["metadata"]["updated_at"] = time
    session = decode(json.dumps(content).encode())
    assert session.with_metadata(at(9), title="new").metadata.updated_at == at(9)
