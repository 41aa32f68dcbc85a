"""Sessions: made, listed, read, changed, deleted."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from mochi_server.ollama.standin import Behaviour, Gate
from tests.server import API, Server, names, told
from tests.standin_thread import StandInThread

METADATA = [
    *("session_id", "model", "title", "created_at", "updated_at", "message_count", "summary", "summary_model"),
    *("format_version", "revision", "options", "tool_settings", "agent_settings", "context_window_config"),
    "history_limit",
]
IN_A_LIST = ["session_id", "model", "title", "created_at", "updated_at", "message_count", "summary", "preview"]
STATUS = [
    *("session_id", "model", "message_count", "context_window", "tools_enabled", "active_tools", "execution_policy"),
    *("agents_enabled", "enabled_agents", "system_prompt_file", "summary", "summary_model", "generation"),
]
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z")
BIG = {
    "tools": ["web"],
    "nobody knows": {"deep": [{"er": None}, 1.5, True, "é\u2028\x00"]},
    "18 digits": 123456789012345678,
    "20 digits": 12345678901234567890,
    "negative": -(2**63),
    "400 digits": 10**399 + 7,
}
ALL = {
    "model": "tiny-think",
    "system_prompt": "Be brief.",
    "system_prompt_source_file": "brief.md",
    "title": "A talk",
    "session_id": "00000000aa",
    "options": {"temperature": 0.5, "seed": 7, "stop": ["END"], "num_ctx": 2048},
    "history_limit": 12,
    "tool_settings": BIG,
    "agent_settings": {"enabled_agents": ["a"], "more": {"x": [1]}},
}


def metadata(server: Server, session_id: str) -> dict[str, Any]:
    """The session's metadata, as a read tells it."""
    session: dict[str, Any] = server.ok("GET", f"/sessions/{session_id}")
    del session["messages"]
    return session


def listed(server: Server, query: str = "") -> list[str]:
    """The ids in a list."""
    return [s["session_id"] for s in server.ok("GET", f"/sessions{query}")["sessions"]]


def test_a_session_is_made_with_all_that_was_said_of_it(shared: Server) -> None:
    response = shared.call("POST", "/sessions", ALL)
    made = response.json()
    assert response.status_code == 201
    assert response.headers["location"] == "/api/v1/sessions/00000000aa"
    assert response.headers["etag"] == f'"{made["revision"]}"'
    assert re.fullmatch("[0-9a-f]{16}", made["revision"])
    assert list(made) == METADATA
    assert TIME.fullmatch(made["created_at"])
    assert made["created_at"] == made["updated_at"]
    same = ("session_id", "model", "title", "options", "history_limit", "tool_settings", "agent_settings")
    assert {name: made[name] for name in same} == {name: ALL[name] for name in same}
    assert (made["message_count"], made["format_version"], made["summary"]) == (1, "2.0", None)
    assert shared.client.get(response.headers["location"]).json()["revision"] == made["revision"]


@pytest.mark.parametrize("body", [b"", b"{}"], ids=["no body", "an empty object"])
def test_a_session_of_which_nothing_is_said_gets_the_newest_model(shared: Server, body: bytes) -> None:
    headers = {"Content-Type": "application/json"} if body else {}
    response = shared.client.post(f"{API}/sessions", content=body, headers=headers)
    assert response.status_code == 201
    made = response.json()
    assert made["model"] == "tiny-tools:latest"
    assert re.fullmatch("[0-9a-f]{10}", made["session_id"])
    assert (made["message_count"], made["title"], made["options"], made["history_limit"]) == (0, None, None, None)
    assert made["tool_settings"] == {"tools": [], "execution_policy": "always_confirm", "tool_policies": {}}
    assert made["agent_settings"] == {"enabled_agents": []}


def test_the_configured_model_is_the_default_and_one_that_is_not_there_is_told(
    tmp_path: Path, standin: StandInThread
) -> None:
    with Server(tmp_path, standin.url, "--model", "tiny-json") as server:
        assert server.ok("POST", "/sessions", {})["model"] == "tiny-json"
        assert server.ok("POST", "/sessions", {"model": "tiny"})["model"] == "tiny"
    with Server(tmp_path, standin.url, "--model", "gone") as server:
        assert server.error("POST", "/sessions", {})[:2] == (400, "model_not_found")


def test_a_proposed_id_that_is_taken_is_refused_and_the_first_session_stays(shared: Server) -> None:
    shared.new_session(session_id="00000000ab", title="first")
    before = (shared.sessions / "00000000ab.json").read_bytes()
    status, code, details = shared.error("POST", "/sessions", {"model": "tiny", "session_id": "00000000ab"})
    assert (status, code, details) == (409, "session_exists", {"session_id": "00000000ab"})
    assert (shared.sessions / "00000000ab.json").read_bytes() == before


def test_a_damaged_file_takes_its_id_too_and_is_left_untouched(shared: Server) -> None:
    file = shared.sessions / "00000000ac.json"
    file.write_bytes(b"{oops")
    assert shared.error("POST", "/sessions", {"session_id": "00000000ac"})[:2] == (409, "session_exists")
    status, code, details = shared.error("GET", "/sessions/00000000ac")
    assert (status, code) == (409, "session_damaged")
    assert details["reason"]
    assert shared.error("DELETE", "/sessions/00000000ac")[1] == "session_damaged"
    assert file.read_bytes() == b"{oops"
    file.unlink()


def test_an_unknown_model_is_refused_with_what_there_is_and_how_to_get_it(shared: Server) -> None:
    response = shared.call("POST", "/sessions", {"model": "llama-none:7b"})
    status, code, details = told(response)
    assert (status, code) == (400, "model_not_found")
    assert "tiny:latest" in details["available"]
    assert "ollama pull llama-none:7b" in response.json()["detail"]["error"]["message"]


def test_a_named_model_is_taken_on_trust_while_ollama_is_down(server: Server, standin: StandInThread) -> None:
    known = server.new_session()
    standin.close()
    assert server.ok("POST", "/sessions", {"model": "trusted:1b"})["model"] == "trusted:1b"
    assert server.ok("PATCH", f"/sessions/{known}", {"model": "other"})["model"] == "other"
    assert server.error("POST", "/sessions", {})[:2] == (502, "ollama_unreachable")
    assert len(listed(server)) == 2


def test_sessions_are_listed_with_the_newest_change_first(server: Server, standin: StandInThread) -> None:
    first, second, third = (server.new_session(title=title) for title in ("a", "b", "c"))
    assert listed(server) == [third, second, first]
    standin.script(Behaviour(pieces=("one\r\ntwo\t\t ", "three\u2028" + "x" * 300)))
    server.ok("POST", f"/chat/{first}", {"message": "hi"})
    answer = server.ok("GET", "/sessions")
    assert list(answer) == ["sessions", "next_cursor", "total", "damaged"]
    assert (answer["next_cursor"], answer["total"], answer["damaged"]) == (None, 3, [])
    assert [s["session_id"] for s in answer["sessions"]] == [first, third, second]
    newest = answer["sessions"][0]
    assert list(newest) == IN_A_LIST
    assert (newest["title"], newest["message_count"], newest["summary"]) == ("a", 2, None)
    assert newest["preview"] == ("one two three " + "x" * 300)[:120]
    assert answer["sessions"][1]["preview"] == ""
    seen = metadata(server, first)
    assert {name: seen[name] for name in IN_A_LIST if name != "preview"} == {
        name: newest[name] for name in IN_A_LIST if name != "preview"
    }


def test_paging_shows_every_session_once_in_order_also_of_one_model(server: Server) -> None:
    made = [server.new_session(model=("tiny", "tiny-json")[n % 2]) for n in range(7)]
    for query, expected in (("", made[::-1]), ("&model=tiny-json", made[5::-2])):
        seen: list[str] = []
        sizes: list[int] = []
        cursor = ""
        while len(sizes) < 9:
            page = server.ok("GET", f"/sessions?limit=3{query}{cursor}")
            assert page["total"] == len(expected)
            sizes.append(len(page["sessions"]))
            seen += [s["session_id"] for s in page["sessions"]]
            if page["next_cursor"] is None:
                break
            cursor = f"&cursor={page['next_cursor']}"
        assert seen == expected
        assert all(size == 3 for size in sizes[:-1])
    assert server.ok("GET", "/sessions?model=none") == {"sessions": [], "next_cursor": None, "total": 0, "damaged": []}
    assert server.ok("GET", "/sessions?limit=7")["next_cursor"] is None


def test_a_session_that_moves_up_or_goes_while_it_is_paged_is_never_listed_twice(server: Server) -> None:
    made = [server.new_session() for _ in range(5)]
    page = server.ok("GET", "/sessions?limit=2")
    server.ok("PATCH", f"/sessions/{made[0]}", {"title": "moved up"})
    server.ok("DELETE", f"/sessions/{made[3]}")  # the last of the first page
    rest = listed(server, f"?limit=1000&cursor={page['next_cursor']}")
    assert [s["session_id"] for s in page["sessions"]] == [made[4], made[3]]
    assert rest == [made[2], made[1]]


def test_files_that_cannot_be_read_are_listed_apart_with_a_reason(server: Server) -> None:
    good = server.new_session()
    text = (server.sessions / f"{good}.json").read_text("utf-8")
    damaged = {
        "00000000d1": b"",
        "00000000d2": text[: len(text) // 2].encode(),
        "00000000d3": text.replace('"2.0"', '"9.9"').replace(good, "00000000d3").encode(),
        "00000000d4": b"\xff\xfe",
        "00000000d5": b"[" * 100_000,
    }
    server.stop()
    for session_id, content in damaged.items():
        (server.sessions / f"{session_id}.json").write_bytes(content)
    (server.sessions / "notes.txt").write_text("not a session")
    server.start()
    answer = server.ok("GET", "/sessions")
    assert [s["session_id"] for s in answer["sessions"]] == [good]
    assert answer["total"] == 1
    assert [d["session_id"] for d in answer["damaged"]] == sorted(damaged)
    assert all(set(d) == {"session_id", "reason"} and d["reason"] for d in answer["damaged"])
    assert {i: (server.sessions / f"{i}.json").read_bytes() for i in damaged} == damaged


def test_a_read_has_the_metadata_beside_the_messages(shared: Server) -> None:
    session = shared.new_session(system_prompt="Be brief.")
    shared.ok("POST", f"/chat/{session}", {"message": "hi"})
    response = shared.call("GET", f"/sessions/{session}")
    body = response.json()
    assert list(body) == [*METADATA, "messages"]
    assert response.headers["etag"] == f'"{body["revision"]}"'
    assert body["message_count"] == 3
    assert body["messages"] == shared.file(session)["messages"]
    assert [m["role"] for m in body["messages"]] == ["system", "user", "assistant"]
    assert {name: body[name] for name in METADATA} == shared.file(session)["metadata"]
    assert shared.call("GET", f"/sessions/{session}/messages").headers["etag"] == response.headers["etag"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model", "tiny-json"),
        ("title", "Another"),
        ("title", None),
        ("title", ""),
        ("options", {"top_k": 3}),
        ("options", None),
        ("history_limit", 3),
        ("history_limit", "fit"),
        ("history_limit", None),
        ("tool_settings", BIG),
        ("tool_settings", None),
        ("agent_settings", {"unknown": {"nested": [2**70]}}),
        ("context_window_config", {"manual_override": True, "current_window": 1024}),
    ],
)
def test_a_change_changes_what_is_given_and_nothing_else(shared: Server, field: str, value: Any) -> None:
    options = {"temperature": 0.5, "seed": 1}
    session = shared.new_session(title="T", options=options, history_limit=9, tool_settings={"a": 1})
    before = metadata(shared, session)
    response = shared.call("PATCH", f"/sessions/{session}", {field: value})
    after = response.json()
    assert response.status_code == 200
    assert list(after) == METADATA
    assert response.headers["etag"] == f'"{after["revision"]}"' != f'"{before["revision"]}"'
    assert after["updated_at"] > before["updated_at"]
    assert after == {**before, field: value, "revision": after["revision"], "updated_at": after["updated_at"]}
    assert metadata(shared, session) == after == shared.file(session)["metadata"]


def test_a_change_of_nothing_changes_nothing(shared: Server) -> None:
    session = shared.new_session(title="T")
    file = shared.sessions / f"{session}.json"
    before = metadata(shared, session), file.read_bytes(), file.stat().st_mtime_ns
    assert shared.ok("PATCH", f"/sessions/{session}", {}) == before[0]
    assert (metadata(shared, session), file.read_bytes(), file.stat().st_mtime_ns) == before


def test_a_change_with_one_wrong_field_changes_none(shared: Server) -> None:
    session = shared.new_session(title="T")
    before = metadata(shared, session)
    code = shared.error("PATCH", f"/sessions/{session}", {"title": "new", "model": "none"})
    assert code[:2] == (400, "model_not_found")
    assert "tiny:latest" in code[2]["available"]
    assert shared.error("PATCH", f"/sessions/{session}", {"title": "new", "history_limit": 0})[0] == 422
    assert metadata(shared, session) == before


def test_a_change_while_a_reply_is_running_is_kept_by_the_replys_save(
    shared: Server, shared_standin: StandInThread
) -> None:
    session, gate = shared.new_session(), Gate(2)
    shared_standin.script(Behaviour(pieces=("a", "b", "c"), gate=gate))
    with shared.stream(f"/chat/{session}/stream", {"message": "hi"}) as events:
        gate.wait(2)
        shared.ok("PATCH", f"/sessions/{session}", {"title": "meanwhile", "model": "tiny-json"})
        gate.open()
        assert [e.name for e in events][-1] == "done"
    after = metadata(shared, session)
    assert (after["title"], after["model"], after["message_count"]) == ("meanwhile", "tiny-json", 2)
    assert shared.contents(session)[-1] == ("assistant", "abc")


def test_a_deleted_session_is_gone_with_its_file(shared: Server) -> None:
    session = shared.new_session()
    response = shared.call("DELETE", f"/sessions/{session}")
    assert (response.status_code, response.content) == (204, b"")
    assert not list(shared.sessions.glob(f"**/*{session}*"))
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/status"), ("GET", "/messages")):
        assert shared.error(method, f"/sessions/{session}{path}")[:2] == (404, "session_not_found")
    assert session not in listed(shared)


def test_deleting_a_session_stops_its_running_reply_and_ends_its_stream(
    shared: Server, shared_standin: StandInThread
) -> None:
    session, gate = shared.new_session(), Gate(1)
    shared_standin.script(Behaviour(gate=gate))
    with shared.stream(f"/chat/{session}/stream", {"message": "hi"}) as events:
        gate.wait(1)
        assert shared.call("DELETE", f"/sessions/{session}").status_code == 204
        rest = list(events)
    assert names(rest)[-1] == "done"
    assert rest[-1].data["status"] == "interrupted"
    shared_standin.wait_until_idle()
    assert not list(shared.sessions.glob(f"**/*{session}*"))


def test_the_status_of_an_idle_session_has_every_key(shared: Server) -> None:
    session = shared.new_session(
        system_prompt="Be brief.", system_prompt_source_file="brief.md", tool_settings={"tools": ["web"]}
    )
    status = shared.ok("GET", f"/sessions/{session}/status")
    assert list(status) == STATUS
    assert (status["session_id"], status["model"], status["message_count"]) == (session, "tiny", 1)
    assert (status["tools_enabled"], status["active_tools"], status["execution_policy"]) == (
        False,
        [],
        "always_confirm",
    )
    assert (status["agents_enabled"], status["enabled_agents"]) == (False, [])
    assert (status["system_prompt_file"], status["summary"], status["summary_model"]) == ("brief.md", None, None)
    assert status["generation"] is None
    window = status["context_window"]
    assert window.pop("reason")
    assert window.pop("current_window") in {None, 4096}  # known once a reply was made with the model
    left, estimated = window.pop("remaining_tokens"), window.pop("estimated_tokens")
    assert left in {None, 4096 - estimated}
    assert window == {
        "dynamic_enabled": True,
        "usage_tokens": 0,
        "model_max_context": 4096,
        "manual_override": False,
    }


def test_the_status_tells_a_fixed_window_and_what_the_last_reply_used(shared: Server) -> None:
    session = shared.new_session(options={"num_ctx": 2048})
    message = shared.ok("POST", f"/chat/{session}", {"message": "hi"})["message"]
    window = shared.ok("GET", f"/sessions/{session}/status")["context_window"]
    assert window["current_window"] == 2048
    assert window["usage_tokens"] == message["prompt_eval_count"] + message["eval_count"] > 0


def test_the_status_tells_of_a_running_reply(shared: Server, shared_standin: StandInThread) -> None:
    session, gate = shared.new_session(), Gate(0, 2)
    shared_standin.script(Behaviour(pieces=("a", "b", "c"), gate=gate))
    with shared.stream(f"/chat/{session}/stream", {"message": "hi"}) as events:
        gate.wait(0)
        before = shared.ok("GET", f"/sessions/{session}/status")["generation"]
        gate.open(0)
        first = next(e for e in events if e.name == "content_delta")
        during = shared.ok("GET", f"/sessions/{session}/status")["generation"]
        gate.open()
        list(events)
    assert set(before) == set(during) == {"generation_id", "phase", "age_ms"}
    assert before["phase"] in {"waiting", "loading", "prefill"}
    assert during["phase"] == "generating"
    assert first.id == f"{during['generation_id']}-1"
    assert during["age_ms"] >= before["age_ms"] >= 0
    assert shared.ok("GET", f"/sessions/{session}/status")["generation"] is None


def test_what_was_taken_however_deep_can_be_read_again(shared: Server) -> None:
    for depth in (100, 500, *range(930, 1000)):
        nested = b'{"a":' * depth + b"1" + b"}" * depth
        response = shared.client.post(
            f"{API}/sessions",
            content=b'{"model":"tiny","tool_settings":' + nested + b"}",
            headers={"Content-Type": "application/json"},
        )
        if response.status_code == 201:
            again = shared.client.get(response.headers["location"])
            assert (depth, again.status_code) == (depth, 200)
        else:
            assert (depth, *told(response)[:2]) == (depth, 400, "invalid_json")


def test_all_of_a_session_survives_a_restart(server: Server) -> None:
    made = server.ok("POST", "/sessions", ALL)["session_id"]
    server.ok("POST", f"/chat/{made}", {"message": "hi", "think": True})
    server.ok("PUT", f"/sessions/{made}/messages/1", {"content": "hello"})
    server.ok("POST", f"/chat/{made}", {"message": None})
    paths = [f"/sessions/{made}", f"/sessions/{made}/tree", f"/sessions/{made}/messages", "/sessions"]
    before = [(r.json(), r.headers.get("etag")) for r in (server.call("GET", path) for path in paths)]
    assert server.stop() == 0
    server.start()
    assert [(r.json(), r.headers.get("etag")) for r in (server.call("GET", path) for path in paths)] == before
    assert before[0][0]["tool_settings"] == BIG


def test_a_file_edited_by_hand_is_seen_by_the_next_access(shared: Server, shared_standin: StandInThread) -> None:
    session = shared.new_session()
    shared.ok("POST", f"/chat/{session}", {"message": "hi"})
    before = metadata(shared, session)
    content = shared.file(session)
    content["metadata"]["title"] = "by hand"
    content["messages"][0]["content"] = "said otherwise"
    content["messages"][0]["note"] = {"mine": 1}
    (shared.sessions / f"{session}.json").write_text(json.dumps(content), "utf-8")
    after = metadata(shared, session)
    assert after["title"] == "by hand"
    assert after["revision"] != before["revision"]
    shared.ok("POST", f"/chat/{session}", {"message": "more"})
    assert [m["content"] for m in shared_standin.chats[-1].json["messages"]][0::2] == ["said otherwise", "more"]
    assert shared.file(session)["messages"][0]["note"] == {"mine": 1}
    assert shared.file(session)["metadata"]["title"] == "by hand"
