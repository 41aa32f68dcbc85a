"""A folder of an earlier server: listed, read and chatted with at once, and written in 2.0 by the next save."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.server import Server
from tests.standin_thread import StandInThread
from tests.store.test_migrations import is_kept

FORMATS = Path(__file__).parents[1] / "formats"
SAMPLES = sorted(path.stem for path in FORMATS.glob("*.json"))


@pytest.fixture
def older(tmp_path: Path, standin: StandInThread) -> Iterator[Server]:
    """A server over a copy of the sample files, whose model the stand-in has under another name."""
    folder = tmp_path / "sessions"
    folder.mkdir()
    for sample in SAMPLES:
        (folder / f"{sample}.json").write_text(old_text(sample))
    with Server(tmp_path, standin.url) as server:
        yield server


def old_text(session_id: str) -> str:
    return (FORMATS / f"{session_id}.json").read_text().replace("qwen3:14b", "tiny")


def old(session_id: str) -> Any:
    return json.loads(old_text(session_id))


def test_an_older_folder_is_listed_and_read_without_being_written(older: Server) -> None:
    sessions = older.ok("GET", "/sessions")["sessions"]
    times = {s["session_id"]: s["updated_at"] for s in sessions}
    assert times == {sample: old(sample)["metadata"]["updated_at"] for sample in SAMPLES}
    assert list(times.values()) == sorted(times.values(), reverse=True)
    for sample in SAMPLES:
        assert older.contents(sample) == [(m["role"], m["content"]) for m in old(sample)["messages"]]
        assert (older.sessions / f"{sample}.json").read_text() == old_text(sample)


@pytest.mark.parametrize("sample", SAMPLES)
def test_an_older_session_is_chatted_with_and_written_in_2_0_with_every_field(older: Server, sample: str) -> None:
    before = older.contents(sample)
    older.ok("POST", f"/chat/{sample}", {"message": "And now?"})
    assert [role for role, _ in older.contents(sample)[len(before) :]] == ["user", "assistant"]
    was, now = old(sample), older.file(sample)
    assert now["metadata"]["format_version"] == "2.0"
    now["messages"] = now["messages"][: len(before)]
    for changed in ("format_version", "updated_at", "message_count"):
        del was["metadata"][changed]
    assert is_kept(was, now)


def test_the_last_question_of_an_older_session_is_answered_anew(older: Server) -> None:
    older.ok("POST", "/chat/a000000014", {"message": None})
    tree = older.ok("GET", "/sessions/a000000014/tree")["messages"]
    assert {"0000000001", "0000000002", "0000000003", "0000000004"} < {m["message_id"] for m in tree}
