"""Files of earlier servers: every one that they could read is a session, and nothing in it is lost."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mochi_server.domain.messages import AssistantMessage, SystemMessage, ToolMessage
from mochi_server.domain.session import FORMAT_VERSION, Session
from mochi_server.domain.session_file import DamagedFile, decode, encode, sealed
from mochi_server.store.migrations import upgraded
from tests.domain.made_up import JSON_VALUES, SOME, TEXT, sessions
from tests.domain.talk import ids

FORMATS = Path(__file__).parents[1] / "formats"
SAMPLES = sorted(FORMATS.glob("*.json"))
NOON = "2025-03-01T12:00:00.000000Z"


def loaded(raw: object) -> Session:
    return decode(json.dumps(raw).encode(), upgraded)


def written_back(raw: object) -> Any:
    """What the file holds after the session's next save."""
    return json.loads(encode(loaded(raw)))


def old_file(*messages: dict[str, Any], version: str | None = "1.4", **metadata: Any) -> dict[str, Any]:
    """A file as the earlier servers wrote it; without a version where that is None."""
    told = {"session_id": "a0000000ff", "model": "tiny", "created_at": NOON, "updated_at": NOON, "message_count": 0}
    if version is not None:
        metadata.setdefault("format_version", version)
    return {"metadata": told | metadata, "messages": list(messages)}


def said(role: str = "user", content: Any = "hi", **fields: Any) -> dict[str, Any]:
    return {"role": role, "content": content, "timestamp": NOON, **fields}


def is_kept(old: Any, new: Any) -> bool:
    """Whether everything in the old value is found at the same place of the new one."""
    if isinstance(old, dict):
        return isinstance(new, dict) and all(name in new and is_kept(value, new[name]) for name, value in old.items())
    if isinstance(old, list):
        return isinstance(new, list) and len(old) == len(new) and all(map(is_kept, old, new))
    return bool(old == new)


# Files of each format


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
def test_a_file_of_each_older_format_is_read_whole_and_written_as_2_0(sample: Path) -> None:
    old = json.loads(sample.read_bytes())
    session = decode(sample.read_bytes(), upgraded)
    assert session.metadata.session_id == sample.stem
    assert [m.content for m in session.messages] == [m["content"] for m in old["messages"]]
    new = json.loads(encode(session))
    assert new["metadata"].pop("format_version") == FORMAT_VERSION
    del old["metadata"]["format_version"]
    assert is_kept(old, new)
    assert "earlier" not in json.dumps(new)
    assert decode(encode(session)) == session


def test_there_is_a_sample_of_every_older_format() -> None:
    versions = {json.loads(sample.read_bytes())["metadata"]["format_version"] for sample in SAMPLES}
    assert versions == {"1.0", "1.1", "1.2", "1.3", "1.4"}


def test_what_a_sample_says_is_at_hand() -> None:
    session = decode((FORMATS / "a000000013.json").read_bytes(), upgraded)
    assert [type(m) for m in session.path[1:3]] == [AssistantMessage, ToolMessage]
    assert [m.parent_id for m in session.path] == [None, *ids(session.path)[:-1]]
    assert session.metadata.tool_settings == {
        "tools": ["add"],
        "tool_group": "math",
        "execution_policy": "always_confirm",
        "tool_policies": {},
    }
    with_prompt = decode((FORMATS / "a000000012.json").read_bytes(), upgraded)
    assert with_prompt.system is not None
    assert with_prompt.system.source_file == "brief.md"
    assert with_prompt.path[0].parent_id is None


@pytest.mark.parametrize("fields", [{"version": None}, {"version": None, "format_version": None}], ids=["none", "null"])
def test_a_file_that_does_not_say_its_format_is_1_3(fields: dict[str, Any]) -> None:
    new = written_back(old_file(said(), tool_settings={"tools": []}, **fields))
    assert new["metadata"]["format_version"] == "2.0"
    assert new["metadata"]["tool_settings"] == {"tools": [], "tool_policies": {}}


@pytest.mark.parametrize("version", ["2.0", "3.0", "1.5", "0.9", "", 1.3, ["1.3"], {}])
def test_anything_but_an_older_format_is_left_as_it_is(version: object) -> None:
    raw = old_file(said(), format_version=version)
    before = copy.deepcopy(raw)
    assert upgraded(raw) is raw
    assert raw == before


@pytest.mark.parametrize(
    ("version", "reason"),
    [("3.0", "newer mochi-server"), ("2.1", "newer"), ("1.5", "1.0 to 1.4 and 2.0"), ("x", "1.0 to"), (7, "1.0 to")],
)
def test_a_format_that_cannot_be_read_is_told_with_those_that_can(version: object, reason: str) -> None:
    with pytest.raises(DamagedFile, match=reason):
        loaded(old_file(said(), format_version=version))


# What the earlier servers did not check


def test_missing_message_ids_are_made_the_same_at_each_load() -> None:
    raw = old_file(said(), said("assistant", message_id=None), said(message_id=""), said(message_id="0000000001"))
    session = loaded(raw)
    assert len(set(ids(session.path))) == 4
    assert ids(session.path)[3] == "0000000001"
    assert all(len(i) == 10 and set(i) <= set("0123456789abcdef") for i in ids(session.path))
    assert loaded(raw) == session
    raw["messages"].append(said())
    assert ids(loaded(raw).path)[:4] == ids(session.path), "a message that was added changed the ids of others"


def test_of_two_messages_with_one_id_the_first_keeps_it_and_the_other_remembers() -> None:
    new = written_back(old_file(said(message_id="0000000001"), said("assistant", message_id="0000000001")))
    first, second = new["messages"]
    assert first["message_id"] == second["parent_id"] == "0000000001"
    assert second["message_id"] != "0000000001"
    assert second["earlier"] == {"message_id": "0000000001"}
    assert "earlier" not in first


def test_a_call_of_a_tool_without_content_and_a_reply_without_status_load() -> None:
    calls = [{"function": {"name": "add", "arguments": {}}}]
    reply = said("assistant", None, tool_calls=calls, eval_count=None, status=None)
    (message,) = loaded(old_file(reply)).path
    assert isinstance(message, AssistantMessage)
    assert (message.content, message.tool_calls, message.status) == ("", calls, "complete")


def test_a_missing_timestamp_is_that_of_the_message_before() -> None:
    messages = [{"role": "user", "content": str(place)} for place in range(3)]
    messages[1] |= {"timestamp": "2025-03-01T13:00:00.000000Z"}
    messages[2] |= {"timestamp": ""}
    session = loaded(old_file(*messages))
    assert [m.timestamp[11:13] for m in session.path] == ["12", "13", "13"]


def test_times_that_the_metadata_lack_are_those_of_the_messages() -> None:
    later = "2025-03-01T13:00:00.000000Z"
    raw = old_file(said(), said(timestamp=later))
    del raw["metadata"]["created_at"]
    raw["metadata"]["updated_at"] = None
    metadata = loaded(raw).metadata
    assert (metadata.created_at, metadata.updated_at) == (NOON, later)
    raw["messages"] = []
    assert loaded(raw).metadata.created_at == "1970-01-01T00:00:00.000000Z"


@pytest.mark.parametrize(
    ("told", "moment", "kept"),
    [
        (NOON, NOON, False),
        ("2025-03-01T12:00:00Z", NOON, False),
        ("2025-03-01T12:00:00", NOON, False),
        ("2025-03-01T12:00:00+00:00", NOON, False),
        ("2025-03-01T14:00:00.000000+02:00", NOON, True),
        ("2025-03-01 12:00:00", NOON, True),
        ("0001-01-01T00:00:00+10:00", "0001-01-01T00:00:00+10:00", False),
        ("last Tuesday", "last Tuesday", False),
        (1740830400, NOON, True),
    ],
)
def test_times_of_every_form_are_kept_and_sort_as_text(told: object, moment: str, kept: bool) -> None:
    new = written_back(old_file(said(timestamp=told), updated_at=told))
    (message,) = new["messages"]
    assert new["metadata"]["updated_at"] == message["timestamp"] == moment
    assert message.get("earlier") == ({"timestamp": told} if kept else None)
    assert new["metadata"].get("earlier") == ({"updated_at": told} if kept else None)


def test_a_system_message_within_the_conversation_stays_where_it_is() -> None:
    raw = old_file(said("system", "kind"), said(), said("system", "kinder"), said("assistant"))
    session = loaded(raw)
    assert session.system is not None
    assert isinstance(session.path[1], SystemMessage)
    assert [m["content"] for m in written_back(raw)["messages"]] == ["kind", "hi", "kinder", "hi"]


def test_a_summary_that_is_a_text_is_one_without_topics() -> None:
    assert written_back(old_file(summary="A sum."))["metadata"]["summary"] == {"summary": "A sum.", "topics": []}


def test_a_count_of_messages_that_is_none_is_counted() -> None:
    assert loaded(old_file(said(), message_count=None)).metadata.message_count == 1


def test_what_2_0_cannot_hold_in_its_place_is_set_aside_beside_it() -> None:
    raw = old_file(
        said(status="starred", parent_id="thread 7", earlier="taken"),
        said("assistant", status="starred", stats=[1], eval_count="many", parent_id=7),
        title={"en": "A talk"},
        revision="r7",
        history_limit="all",
        agent_settings=[],
    )
    raw["detached"] = "what hung here"
    new = written_back(raw)
    assert new["earlier"] == {"detached": "what hung here"}
    assert new["metadata"]["earlier"] == {
        "revision": "r7",
        "title": {"en": "A talk"},
        "agent_settings": [],
        "history_limit": "all",
    }
    assert new["messages"][0]["status"] == "starred"
    assert new["messages"][0]["earlier"] == "taken"
    assert new["messages"][0]["earlier_2"] == {"parent_id": "thread 7"}
    assert new["messages"][1]["status"] == "complete"
    assert new["messages"][1]["earlier"] == {"parent_id": 7, "eval_count": "many", "status": "starred", "stats": [1]}


@SOME
@given(sessions())
def test_a_2_0_file_that_lost_its_version_keeps_its_branches(session: Session) -> None:
    whole = sealed(session)[0]
    raw = json.loads(encode(whole))
    del raw["metadata"]["format_version"]
    again = loaded(raw)
    assert [m.content for m in again.messages] == [m.content for m in whole.messages]
    assert [m.content for m in again.detached] == [m.content for m in whole.detached]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"messages": {}}, "messages are not a list"),
        ({"messages": ["hi"]}, r"messages\[0\] is no message"),
        ({"messages": [said(), said("robot")]}, r"messages\[1\].*role"),
        ({"messages": [said(content=["a secret"])]}, r"messages\[0\].*content"),
        ({"metadata": {}}, "metadata"),
        ({"x": json.loads("[" * 300 + "]" * 300)}, "nested too deep"),
    ],
)
def test_what_no_server_could_read_is_damage_with_its_reason(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(DamagedFile, match=reason) as damage:
        loaded(old_file(said()) | change)
    assert "secret" not in str(damage.value)


def test_what_was_set_aside_and_is_then_too_deep_to_be_read_again_is_damage_now() -> None:
    for depth in range(190, 202):
        raw = old_file(said(status=json.loads("[" * depth + "]" * depth)))
        try:
            session = loaded(raw)
        except DamagedFile:
            continue
        assert decode(encode(session)) == session


# Whatever is in them

NAMES = TEXT.map("x".__add__)
EXTRA = st.dictionaries(NAMES, JSON_VALUES, max_size=2)
# Names that 2.0 gave a meaning to, in files whose authors knew nothing of it.
LATER_NAMES = st.sampled_from(
    ["status", "images", "title", "options", "stats", "context", "history_limit", "earlier", "unknown", "revision"]
)
ODD = st.dictionaries(NAMES | LATER_NAMES, JSON_VALUES, max_size=3)
IDS = st.from_regex(r"[0-9a-f]{10}", fullmatch=True) | TEXT.filter(bool)


@st.composite
def old_files(draw: st.DrawFn, extra: st.SearchStrategy[dict[str, Any]] = EXTRA) -> dict[str, Any]:
    """Any file of an older format, as its server wrote it, with fields of other programs everywhere."""
    names = draw(st.lists(IDS, max_size=4, unique=True))
    messages = [
        {
            **draw(extra),
            "role": draw(st.sampled_from(["user", "system", "assistant", "tool"])),
            "content": draw(TEXT),
            "message_id": name,
            "timestamp": f"2025-03-01T12:00:{place:02}.000000Z",
            **draw(st.sampled_from([{}, {"model": "tiny"}, {"tool_name": "add", "eval_count": 3}])),
        }
        for place, name in enumerate(names)
    ]
    settings = st.fixed_dictionaries({"tools": st.just(["add"]), "tool_group": TEXT})
    raw = old_file(
        *messages,
        version=draw(st.sampled_from(["1.0", "1.1", "1.2", "1.3", "1.4", None])),
        **draw(extra),
        tool_settings=draw(st.none() | settings | EXTRA),
        summary=draw(st.none() | st.fixed_dictionaries({"summary": TEXT, "topics": st.lists(TEXT, max_size=2)})),
    )
    raw["metadata"]["message_count"] = len(messages)
    return {**draw(extra), **raw}


@SOME
@given(old_files())
def test_every_field_of_an_older_file_is_where_it_was_after_the_next_save(raw: dict[str, Any]) -> None:
    new = written_back(raw)
    assert new["metadata"]["format_version"] == "2.0"
    raw["metadata"].pop("format_version", None)
    assert is_kept(raw, new)


@SOME
@given(old_files(ODD))
def test_fields_that_only_2_0_gave_a_meaning_to_are_kept_there_or_set_aside(raw: dict[str, Any]) -> None:
    new = written_back(raw)
    for old, now in [
        (raw, new),
        (raw["metadata"], new["metadata"]),
        *zip(raw["messages"], new["messages"], strict=True),
    ]:
        aside = {
            name: value
            for n, v in now.items()
            if n.startswith("earlier") and isinstance(v, dict)
            for name, value in v.items()
        }
        for name, value in old.items():
            if name in {"format_version", "metadata", "messages"} or value is None:
                continue
            assert is_kept(value, now.get(name)) or is_kept(value, aside.get(name)) or value == "", name


@SOME
@given(old_files(ODD))
def test_an_older_file_gives_the_same_session_at_each_load_and_is_not_changed_by_it(raw: dict[str, Any]) -> None:
    before = copy.deepcopy(raw)
    session = loaded(raw)
    assert loaded(raw) == session == decode(encode(session), upgraded)
    new = upgraded(raw)
    assert upgraded(new) is new
    assert raw == before


@SOME
@given(
    st.dictionaries(st.sampled_from(["metadata", "messages", "detached"]) | TEXT, JSON_VALUES)
    | st.fixed_dictionaries(
        {
            "metadata": st.dictionaries(
                st.sampled_from(["session_id", "model", "created_at", "updated_at", "summary", "revision"]), JSON_VALUES
            ),
            "messages": JSON_VALUES
            | st.lists(
                st.dictionaries(
                    st.sampled_from(["content", "message_id", "timestamp", "status", "stats", "parent_id"]), JSON_VALUES
                ).map({"role": "assistant"}.__or__)
            ),
        }
    )
)
def test_any_object_is_a_session_or_damage(raw: dict[str, Any]) -> None:
    try:
        session = loaded(raw)
    except DamagedFile:
        pass
    else:
        assert decode(encode(session)) == session
